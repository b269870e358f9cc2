"""The site in a real browser: sorting, filtering, pages, comparing, hostile names, accessibility.

Needs Debian's chromium and the packages playwright and axe-playwright-python; skipped where they are not there.
A click, an input or a new address does not wait for the page's script: after each, `expect` waits for what it changes.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import numpy as np  # noqa: E402
from bench_site import make_entry  # noqa: E402

from leaderboard.board import Board  # noqa: E402
from leaderboard.site import build  # noqa: E402

CHROMIUM = shutil.which("chromium")
NASTY = "<img src=x onerror=document.title='ran'>"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 300_000
"""Milliseconds that the browser may take for anything; a check returns as soon as it holds."""
PAGES = ("index.html", "tasks.html", "compare.html", "scaling.html", "about.html", "entries/tiny-clip.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, out = tmp_path_factory.mktemp("entries"), tmp_path_factory.mktemp("site")
    rng = np.random.default_rng(0)
    for scale, base in (("tiny", 0.3), ("small", 0.2)):
        for slug, name, skill, size, method in (
            ("clip", "clip_score", 0.10, 20_000, "clip_score"),
            ("random", "random 30 %", 0.0, 20_000, "random_subset"),
            ("all", "no_filter", 0.001, 65_536, "no_filter"),
            ("nasty", NASTY, 0.05, 30_000, "nasty"),
        ):
            make_entry(
                root / scale / slug,
                name=name,
                scale=scale,
                skill=base + skill,
                size=size,
                seeds=3,
                method=method,
                rng=rng,
            )
    make_entry(
        root / "tiny/tuned",
        name="tuned",
        scale="tiny",
        skill=0.5,
        size=9,
        seeds=1,
        method="t",
        rng=rng,
        unofficial=("scale.lr",),
    )
    build(Board.load(root, verified=root / "none"), out)
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=OPTIONS, timeout=PATIENCE)
        sync_api.expect.set_options(timeout=PATIENCE)
        yield chromium
        chromium.close()


def _context(browser: Any, **options: Any) -> Any:
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    return context


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test on script errors, refused resources and requests to anywhere but the site."""
    context = _context(browser)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on(
        "request",
        lambda request: faults.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
    )
    yield page
    context.close()
    assert faults == []


def _column(page: Any, number: int) -> list[str]:
    return page.locator(f"#board tbody tr > :nth-child({number})").all_inner_texts()


def _is_sorted_by(page: Any, title: str, order: str) -> None:
    """Waits until the table says so; its lines are moved in the same go."""
    sync_api.expect(page.locator("#board th[aria-sort]")).to_have_text([title])
    sync_api.expect(page.locator("#board th[aria-sort]")).to_have_attribute("aria-sort", order)


def test_sorting(page: Any, site: Path) -> None:
    page.goto(f"file://{site}/index.html")
    _is_sorted_by(page, "Average", "descending")
    averages = [float(value) for value in _column(page, 3)]
    assert averages == sorted(averages, reverse=True)
    page.get_by_role("button", name="Size").click()
    _is_sorted_by(page, "Size", "descending")
    assert _column(page, 9)[0] == "65,536"
    page.get_by_role("button", name="Size").click()
    _is_sorted_by(page, "Size", "ascending")
    assert _column(page, 9)[-1] == "65,536"
    page.get_by_role("button", name="Method").click()
    _is_sorted_by(page, "Method", "ascending")
    names = [name.split("\n")[0].lower() for name in _column(page, 2)]
    assert names == sorted(names)


def test_filtering_leaves_random_in_the_table(page: Any, site: Path) -> None:
    page.goto(f"file://{site}/index.html")
    lines = page.locator("#board tbody tr")
    sync_api.expect(lines).to_have_count(4)
    page.get_by_role("searchbox").fill("clip")
    sync_api.expect(lines).to_have_count(2)
    names = [name.split("\n")[0] for name in _column(page, 2)]
    assert names == ["clip_score", "random 30 %"]
    page.get_by_role("searchbox").fill("")
    sync_api.expect(lines).to_have_count(4)
    page.get_by_label("Level").select_option("rescored")
    sync_api.expect(lines).to_have_count(1)


def test_tabs_and_what_stands_apart(page: Any, site: Path) -> None:
    page.goto(f"file://{site}/index.html")
    sync_api.expect(page.locator("#apart")).to_contain_text("unofficial: scale.lr")
    page.get_by_role("button", name="small").click()
    page.wait_for_url("**/index.html#small-filtering")
    sync_api.expect(page.locator("#apart")).to_have_text("")
    sync_api.expect(page.locator("#published tbody tr:visible")).to_have_count(11)
    sync_api.expect(page.locator("#chart-size circle")).to_have_count(4)


def test_an_entry_page_and_comparing(page: Any, site: Path) -> None:
    page.goto(f"file://{site}/index.html")
    page.get_by_role("link", name="clip_score", exact=True).first.click()
    page.wait_for_url("**/entries/*.html")
    sync_api.expect(page.locator("h1")).to_have_text(re.compile(r"^\s*clip_score"))
    sync_api.expect(page.locator("table.tasks tbody tr:not(.group)")).to_have_count(38)
    sync_api.expect(page.locator("main")).to_contain_text("better beyond the noise")
    page.get_by_role("link", name="Compare with another entry").click()
    sync_api.expect(page.locator("#comparison tbody tr")).to_have_count(38)
    sync_api.expect(page.locator("#verdict")).to_contain_text("clip_score")
    page.get_by_label("Second").select_option(label="no_filter")
    sync_api.expect(page.locator("#verdict")).to_contain_text("against no_filter")


def test_a_hostile_name_is_text(page: Any, site: Path) -> None:
    for path in ("index.html", "entries/tiny-nasty.html", "tasks.html", "scaling.html", "compare.html"):
        page.goto(f"file://{site}/{path}")
        assert page.title() != "ran"
        assert page.locator("img").count() == 0
    page.goto(f"file://{site}/entries/tiny-nasty.html")
    sync_api.expect(page.locator("h1")).to_contain_text(NASTY)


def test_the_heat_map_is_coloured(page: Any, site: Path) -> None:
    page.goto(f"file://{site}/tasks.html")
    cells = page.locator("table.heat tbody td:nth-child(2)")
    sync_api.expect(cells).to_have_count(4)
    colours = cells.evaluate_all("cells => cells.map(c => getComputedStyle(c).backgroundColor)")
    assert len(set(colours)) > 2


@pytest.mark.parametrize("path", PAGES)
def test_it_fits_a_phone(browser: Any, site: Path, path: str) -> None:
    context = _context(browser, viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(f"file://{site}/{path}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_it_is_accessible(browser: Any, site: Path, path: str, scheme: str) -> None:
    # axe is put into the page as a script, which the page's own policy refuses.
    context = _context(browser, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(f"file://{site}/{path}")
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    context.close()


def test_the_theme_can_be_switched_and_stays(browser: Any, site: Path) -> None:
    context = _context(browser, color_scheme="light")
    page = context.new_page()
    page.goto(f"file://{site}/index.html")
    page.get_by_role("button", name="Switch between light and dark").click()
    sync_api.expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.goto(f"file://{site}/about.html")
    sync_api.expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    context.close()
