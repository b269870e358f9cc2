"""The site with many entries: `python benchmarks/bench_site.py [ENTRIES]` prints one line a figure.

Builds a board of made-up entries (no pool, no training: only what the site reads), then, where Chromium and the
playwright package are there, sorts the table in it.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harness.entry_schema import About, Aggregate, EntryPayload, PoolSummary, SeedSummary, SubsetSummary, TaskScore
from harness.eval import suite as suites
from harness.files import sha256_file
from harness.records import Record, digest_of, write_record
from leaderboard.board import Board
from leaderboard.site import build

CHROMIUM = "/usr/bin/chromium"
FIRST_PAGE = ("index.html", "static/site.css", "static/common.js", "static/board.js")
SCALES = {"tiny": "tiny", "small": "v1", "medium": "v1"}


def make_entry(
    folder: Path, *, name: str, scale: str, skill: float, size: int, seeds: int, method: str, rng: np.random.Generator,
    unofficial: tuple[str, ...] = (), replicates: int = 1000,
) -> None:  # fmt: skip
    """Write what the site reads of an entry: entry.json and bootstrap.npy."""
    suite = suites.load(SCALES[scale])
    ease = np.random.default_rng(1).normal(0, 0.1, len(suite.tasks))
    tasks, by_seed = [], []
    for shift in rng.normal(0, 0.004, seeds):
        values = np.clip(skill + shift + ease + rng.normal(0, 0.02, len(suite.tasks)), 0.002, 0.98)
        by_seed.append({key: float(value) for key, value in zip(suite.tasks, values, strict=True)})
    for task in suite.tasks.values():
        scores = [values[task.key] if task.scored else None for values in by_seed]
        mean = float(np.mean(scores)) if task.scored else None
        half = 1.96 * (0.25 / task.samples) ** 0.5
        tasks.append(TaskScore(
            key=task.key, metric=task.main_metric, score=mean, low=None if mean is None else max(mean - half, 0),
            high=None if mean is None else min(mean + half, 1), seeds=scores, samples=task.samples,
        ))  # fmt: skip
    totals = [suite.aggregate({key: values[key] for key in values if suite.tasks[key].scored}) for values in by_seed]
    aggregates = {}
    for key in suites.AGGREGATES:
        seeds_of = [total[key] or 0.0 for total in totals]
        std = float(np.std(seeds_of, ddof=1)) if seeds > 1 else None
        aggregates[key] = Aggregate(mean=float(np.mean(seeds_of)), std=std, seeds=seeds_of)
    folder.mkdir(parents=True)
    noise = rng.normal(0, 0.003, (seeds, len(suites.AGGREGATES), replicates))
    measured = np.array([[total[key] or 0.0 for key in suites.AGGREGATES] for total in totals])
    np.save(
        folder / "bootstrap.npy", np.clip(measured[:, :, None] + noise, 0, 1).astype(np.float32), allow_pickle=False
    )
    payload = EntryPayload(
        about=About(name=name, authors=["A. Author", "B. Author"], description="Made up for a benchmark of the site."),
        scale=scale, suite=suite.name, unofficial=list(unofficial), method={"name": method, "params": {}},
        pool=PoolSummary(digest=digest_of("pool"), samples=12_000_000, listed=12_800_000),
        subset=SubsetSummary(uids=digest_of(name), size=size, distinct=size, max_count=1, mean_repeats=3.0),
        runs=[
            SeedSummary(seed=s, samples_seen=12_800_000, checkpoint=digest_of([name, s]), ledger=digest_of(s))
            for s in range(seeds)
        ],
        tasks=tasks, missing=[], aggregates=aggregates,
    )  # fmt: skip
    inputs = {"bootstrap.npy": sha256_file(folder / "bootstrap.npy")}
    made = {"finished": "2026-05-01T00:00:00Z", "selection": {"seconds": float(rng.lognormal(4, 2))}}
    write_record(
        folder / "entry.json", Record(kind="entry", inputs=inputs, payload=payload.model_dump(), provenance=made)
    )


def make_board(root: Path, entries: int) -> None:
    """`entries` made-up entries over three scales."""
    rng = np.random.default_rng(0)
    scales = list(SCALES)
    for i in range(entries):
        scale = scales[i % len(scales)]
        random = i % 40 < 3
        method, name = ("random_subset", f"random {i}") if random else (f"method_{i}", f"Method number {i}")
        make_entry(
            root / scale / f"entry-{i}", name=name, scale=scale, skill=0.12 + 0.0002 * i,
            size=int(1e6 * rng.uniform(0.5, 12)),
            seeds=1 + i % 3, method=method, rng=rng,
        )  # fmt: skip


def main(entries: int) -> None:
    """Print build time, size of the first page, and time to sort."""
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "entries", Path(folder) / "site"
        make_board(root, entries)
        started = time.monotonic()
        board = Board.load(root, verified=Path(folder) / "verified")
        loaded = time.monotonic()
        build(board, out)
        done = time.monotonic()
        print(f"{entries:,} entries: read and ranked in {loaded - started:.1f} s, built in {done - loaded:.1f} s")
        first = sum(
            (out / name).stat().st_size
            for name in ("index.html", "static/site.css", "static/common.js", "static/board.js")
        )
        print(f"first page with style and scripts: {first / 1000:.0f} kB")
        sort_in_browser(out, entries)


def sort_in_browser(out: Path, entries: int) -> None:
    """Time a click on a column of a table that holds all entries."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("sorting: not measured, playwright is not installed")
        return
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"file://{out}/index.html")
        # One table with all rows: the largest that the figure speaks of.
        page.evaluate("() => { current.rows = tables.flatMap(table => table.rows); render(); }")
        times = page.evaluate("""async () => {
            const times = [];
            for (let i = 0; i < 10; i++) {
                const button = document.querySelectorAll("#board thead button")[2 + i % 6];
                const started = performance.now();
                button.click();
                document.body.getBoundingClientRect();
                times.push(performance.now() - started);
            }
            return times;
        }""")
        browser.close()
    print(f"sorting {entries:,} rows, laid out again: median {sorted(times)[5]:.0f} ms, worst {max(times):.0f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
