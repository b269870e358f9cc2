"""The pool that was made from other people's pictures and captions goes the whole way on disk."""

from pathlib import Path

import pyarrow.parquet as pq

from harness import executor, uid
from harness.pool.left_out import LEFT_OUT, REMARKS
from harness.pool.seal import seal
from harness.reshard import reshard
from harness.subset import Subset
from harness.tars import Reader, read_sample

SAMPLE = Path(__file__).parents[2] / "data" / "realpool_sample"


def test_real_pictures(tmp_path: Path) -> None:
    one = executor.local(1)
    sealed = seal(str(SAMPLE), seal_dir=str(tmp_path / "seal"), executor=one)
    assert LEFT_OUT.count(sealed.seal_dir) == REMARKS.count(sealed.seal_dir) == 0
    rows = [row for path in sorted((SAMPLE / "metadata").iterdir()) for row in pq.read_table(path).to_pylist()]
    assert uid.to_hex(sealed.uids) == [row["uid"] for row in rows]
    done = reshard(sealed, Subset.of(sealed.uids[::7].copy()), out=tmp_path / "out", executor=one)
    captions = []
    for shard, path in enumerate(done.shards):
        with Reader(path) as reader:
            captions += [read_sample(reader, entry)[1] for entry in done.index(shard)]
    assert captions == [row["text"] for row in rows[::7]]
    assert len(set(captions)) > 20
