"""How the pictures of a pool came: what harness.download recorded, else what img2dataset wrote beside its tars."""

import os
import re
from typing import TYPE_CHECKING, Any

from harness.errors import ArtifactError
from harness.files import join, list_files
from harness.records import read_json, read_record

if TYPE_CHECKING:
    from harness.executor import Executor

_RECORD = re.compile(r"download(_part_\d+_of_\d+)?\.json")
"""Names of the records of harness.download."""
_STATS = "_stats.json"


def downloaded(path: str, others: set[str], executor: "Executor") -> dict[str, Any] | None:
    """Links, pictures and their share, and the record of each part with its settings; None where nothing tells.

    `others` are the names of the files beside the tars: a pool of the reference's own downloader has no records, and
    its links are counted there.
    """
    files = [name for name in list_files(path, ".json") if _RECORD.fullmatch(os.path.basename(name))]
    records = [read_record(name, "download") for name in files]
    if records:
        links, pictures = (sum(record.payload.get(name, 0) for record in records) for name in ("links", "pictures"))
    else:
        stats = [join(path, "shards", name) for name in sorted(others) if name.endswith(_STATS)]
        counts = list(executor.stream(_counts, stats, name="stats", threads=8, quiet=True))
        links, pictures = (sum(count[place] for count in counts) for place in (0, 1))
    if not links:
        return None
    parts = [
        {"digest": record.digest, **record.payload, "packages": record.provenance.get("packages")} for record in records
    ]
    return {"links": links, "pictures": pictures, "rate": round(pictures / links, 4), "parts": parts}


def _counts(path: str) -> tuple[int, int]:
    """Links and pictures of one stats.json; of a retry no links, which are those of another shard."""
    try:
        stats = read_json(path)
        count, successes = int(stats["count"]), int(stats["successes"])
    except (ArtifactError, KeyError, TypeError, ValueError):
        return 0, 0  # cut short: the shard is sealed by what its tar holds
    return (0 if os.path.basename(os.path.dirname(path)).startswith("retry_") else count), successes
