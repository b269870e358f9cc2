"""Trying the links of a crawl once more that failed, in shards of their own: `retry_1/`, `retry_2/` below the first."""

import contextlib
import itertools
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness import uid
from harness.crawl import ROBOTS, CrawlCounts, CrawlSettings, crawl, read_counts
from harness.files import list_files
from harness.pool.reading import MetadataFile, Stretch, open_parquet
from harness.progress import say
from harness.uid import Uids

DONE = "done"
"""In the folder of a retry: all its links were tried."""
ROWS = 1 << 17
"""Rows of metadata that are looked at in one piece."""


def add_retries(
    counts: CrawlCounts, out: Path, urls: Path, columns: list[str], how: CrawlSettings, *, again: bool
) -> None:
    """Add to the counts of the shards in `out` what the retries below it have brought.

    With `again` the failed links are tried once more first: an unfinished retry goes on, else a new one begins. The
    failures are those of the last try of each link; of an unfinished retry its pictures count, its failures not yet.
    """
    before, tried = out, urls
    for number in itertools.count(1):
        shards, failed = out / f"retry_{number}", urls.with_name(f"{urls.name}_retry_{number}")
        finished = (shards / DONE).exists()
        if finished or not again:
            more = read_counts(shards)
        elif failed.exists() or write_failed(before, tried, failed):
            links = {Path(path).name: pq.read_metadata(path).num_rows for path in list_files(failed, ".parquet")}
            more = crawl(failed, shards, links=links, columns=columns, settings=how)
            (shards / DONE).touch()
        else:
            return
        counts.successes += more.successes
        counts.size += more.size
        if finished or again:
            refused = {message: n for message, n in counts.failures.items() if ROBOTS in message}
            counts.failures = Counter(refused) + more.failures
        if not finished:
            return
        before, tried = shards, failed


def write_failed(shards: Path, tried: Path, target: Path) -> int:
    """Write the rows of the metadata in `tried` that failed in `shards` and may be tried again to the folder `target`.

    Returns how many there are; without any there is no folder. Memory grows with the failed links alone, 16 bytes each.
    """
    failed = _failed(shards)
    if not len(failed):
        return 0
    partial_target = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial_target, ignore_errors=True)
    partial_target.mkdir(parents=True)
    for path in list_files(tried, ".parquet"):
        _write_rows(path, failed, partial_target / Path(path).name)
    partial_target.rename(target)
    return len(failed)


def _failed(shards: Path) -> Uids:
    """Sorted uids of the links that failed in `shards`, but for pages that refuse."""
    parts, unknown = [uid.from_hex([])], 0
    for stats in list_files(shards, "_stats.json"):
        path = stats.removesuffix("_stats.json") + ".parquet"
        if not os.path.exists(path):
            unknown += 1
            continue
        with open_parquet(path) as parquet:
            table = parquet.read(columns=["uid", "status", "error_message"])
        table = table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))
        failed = pc.not_equal(pc.fill_null(table["status"], ""), "success")
        refused = pc.match_substring(pc.fill_null(table["error_message"], ""), ROBOTS)
        rows = table.filter(pc.and_(failed, pc.invert(refused)))
        parts.append(Stretch(rows, {}, MetadataFile(path, rows.num_rows), 0, None).uids())
    if unknown:
        say(f"{shards}: {unknown:,} shards have no parquet beside them, so what failed there is not tried again")
    return uid.sort(np.concatenate(parts))


def _write_rows(path: str, wanted: Uids, target: Path) -> None:
    """The rows of a metadata file whose uids are `wanted` (sorted), with the columns that a download needs."""
    with open_parquet(path) as parquet, contextlib.ExitStack() as stack:
        writer, file = None, MetadataFile(path, parquet.metadata.num_rows)
        columns = [name for name in ("uid", "url", "text", "face_bboxes") if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(ROWS, columns=columns):
            table = pa.Table.from_batches([batch])
            here = uid.find(wanted, Stretch(table, {}, file, 0, None).uids()) >= 0
            if here.any():
                writer = writer or stack.enter_context(pq.ParquetWriter(target, table.schema))
                writer.write_table(table.filter(pa.array(here)))
