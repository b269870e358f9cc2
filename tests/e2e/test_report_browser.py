"""The report of a subset in a real browser: it asks for nothing, runs nothing, fits a phone, can be read by everyone.

Needs Debian's chromium and the packages playwright and axe-playwright-python; skipped where they are not there.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import executor
from harness.pool.seal import seal
from harness.pool.view import Pool
from harness.report.__main__ import command
from harness.subset import Subset

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

CHROMIUM = shutil.which("chromium")
PATIENCE = 300_000
"""Milliseconds that the browser may take for anything; a check returns as soon as it holds."""
NASTY = "<img src=x onerror=document.title='ran'><script>document.title='ran'</script>"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]


@pytest.fixture(scope="module")
def address(mini_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of half of a generated pool whose captions are hostile here and there."""
    folder = tmp_path_factory.mktemp("report")
    pool = Path(shutil.copytree(mini_pool, folder / "pool"))
    for path in (pool / "metadata").glob("*.parquet"):
        table = pq.read_table(path)
        texts = [NASTY if row % 3 == 0 else text for row, text in enumerate(table["text"].to_pylist())]
        place = table.column_names.index("text")
        pq.write_table(table.set_column(place, "text", pa.array(texts)), path)
    sealed = seal(str(pool), executor=executor.local(1))
    view = Pool.open(pool, sealed=sealed, executor=executor.local(1))
    for name in ("mine", "other"):
        Subset.of(view.sample(300, rng=np.random.default_rng(len(name)))).save(folder / f"{name}.npy")
    command([f"pool.path={pool}", f"subset={folder}/mine.npy", f"against={folder}/other.npy", f"out={folder}/out"])
    return f"file://{folder}/out/index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE
        )
        yield chromium
        chromium.close()


def _context(browser: Any, **options: Any) -> Any:
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    return context


def test_it_runs_nothing_and_asks_for_nothing(browser: Any, address: str) -> None:
    context = _context(browser)
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("request", lambda request: faults.append(request.url))
    page.goto(address)
    assert page.title() == "mine · subset report"
    assert page.get_by_text(NASTY).count() > 0
    assert page.locator("script, img[src=x]").count() == 0
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.locator(".grid img").count() == 72
    assert [fault for fault in faults if fault != address and not fault.startswith("data:")] == []
    context.close()


def test_it_fits_a_phone(browser: Any, address: str) -> None:
    context = _context(browser, viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(browser: Any, address: str, scheme: str) -> None:
    # axe is put into the page as a script, which the page's own policy refuses.
    context = _context(browser, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(address)
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    context.close()
