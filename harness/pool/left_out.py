"""What a sealed pool does not use, and what is odd but used: two tables beside the seal, never held whole.

`left_out.parquet` names each sample, or tar, that is not used (shard, key, uid, reason); `remarks.parquet` names what
is odd but used (shard, key, remark). All columns are strings, empty where they do not apply: key and uid where a tar as
a whole is meant, shard where the pool is. Neither is part of a pool's identity.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness import uid
from harness.errors import ArtifactError, from_os_error
from harness.files import atomic_path, join
from harness.pool.sealed import AGAIN
from harness.uid import Uids

ROWS = 1 << 16
"""Rows of a row group: as many are in memory at once, some 30 MB."""


@dataclass(frozen=True, slots=True)
class Table:
    """One of the two tables; `seal_dir` is the local folder of a pool's sealed files."""

    file: str
    """Name in that folder."""
    columns: tuple[str, ...]

    def write(self, seal_dir: str, rows: Iterable[Sequence[str]]) -> int:
        """Write `rows`, a string for each column, atomically and a row group at a time; how many they were.

        Raises InfraError if the disk is full or the folder cannot be written.
        """
        schema = pa.schema([(name, pa.string()) for name in self.columns])
        written, left = 0, iter(rows)
        with atomic_path(join(seal_dir, self.file)) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            while piece := list(itertools.islice(left, ROWS)):
                columns = zip(*piece, strict=True)
                writer.write_table(pa.table([pa.array(column, pa.string()) for column in columns], schema))
                written += len(piece)
        return written

    def count(self, seal_dir: str) -> int:
        """Number of rows; ArtifactError if the table is missing or not whole."""
        with self._open(seal_dir) as file:
            return int(file.metadata.num_rows)

    def pieces(self, seal_dir: str) -> Iterator[pa.Table]:
        """The table a row group at a time, at most ROWS rows; ArtifactError if it is missing or not whole."""
        with self._open(seal_dir) as file:
            for group in range(file.num_row_groups):
                with self._whole(seal_dir):
                    piece = file.read_row_group(group)
                yield piece

    def rows(self, seal_dir: str) -> Iterator[tuple[str, ...]]:
        """The rows of `pieces`, one at a time."""
        for piece in self.pieces(seal_dir):
            yield from zip(*(column.to_pylist() for column in piece.columns), strict=True)

    def _open(self, seal_dir: str) -> pq.ParquetFile:
        with self._whole(seal_dir):
            file = pq.ParquetFile(join(seal_dir, self.file))
            found = [(field.name, field.type) for field in file.schema_arrow]
            if found != [(name, pa.string()) for name in self.columns]:
                file.close()
                raise pa.ArrowInvalid(f"its columns are not {', '.join(self.columns)}")
            return file

    @contextlib.contextmanager
    def _whole(self, seal_dir: str) -> Iterator[None]:
        path = join(seal_dir, self.file)
        try:
            yield
        except FileNotFoundError as error:
            # Never taken for an empty table: earlier versions wrote another file.
            raise ArtifactError(f"{path}: missing, as beside a pool that an earlier version sealed; {AGAIN}") from error
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # of the machine; pyarrow's own about content have none
                raise from_os_error(error, path) from error
            # Sealing again looks at the end of the file alone, so one that is broken in the middle has to go first.
            raise ArtifactError(f"{path}: not a whole table ({_first_line(error)}); delete it and {AGAIN}") from error


LEFT_OUT = Table("left_out.parquet", ("shard", "key", "uid", "reason"))
REMARKS = Table("remarks.parquet", ("shard", "key", "remark"))


def write(seal_dir: str, *, left_out: Iterable[Sequence[str]], remarks: Iterable[Sequence[str]]) -> int:
    """Write both tables, as `Table.write` does; the number of remarks."""
    LEFT_OUT.write(seal_dir, left_out)
    written = REMARKS.write(seal_dir, remarks)
    Path(seal_dir, "left_out.json").unlink(missing_ok=True)  # what an earlier version wrote in their place
    return written


def require(seal_dir: str) -> None:
    """ArtifactError unless both tables are there, as far as their ends tell."""
    for table in (LEFT_OUT, REMARKS):
        table.count(seal_dir)


def uids_and_reasons(seal_dir: str) -> Iterator[tuple[Uids, list[str]]]:
    """Uids (N,) that the pool left out, in no order, and why (N): a piece of at most ROWS rows at a time.

    What has no uid is not among them; a uid may come several times. Raises ArtifactError as `Table.pieces` does.
    """
    for piece in LEFT_OUT.pieces(seal_dir):
        pairs = zip(piece["uid"].to_pylist(), piece["reason"].to_pylist(), strict=True)
        named = [(name, reason) for name, reason in pairs if name]
        yield uid.from_hex([name for name, _ in named]), [reason for _, reason in named]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
