import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pool_folders import left_out, picture, sample, sealed_again, touch_later, uid_of, write_tar

from harness import uid
from harness.errors import ArtifactError
from harness.records import read_record


def test_originals_by_their_sha256(tmp_path: Path) -> None:
    originals = [picture(n) for n in range(6)]
    sums = [hashlib.sha256(content).hexdigest() for content in originals]
    samples = [
        sample(0, image=originals[0]),  # stored as it was
        sample(1, image=picture(1, quality=50), sha256=sums[1]),  # encoded again, and img2dataset says from what
        sample(2, image=picture(2, quality=50), sha256=sums[5]),  # from another picture than in the metadata
        sample(3, image=originals[5]),
        sample(4, image=originals[4]),  # not in the metadata
        sample(5, image=originals[5]),  # in the metadata without a sum
        sample(6, image=picture(77)),  # made from another picture, and its json is none
    ]
    about = samples[6]["000000006.json"]
    samples[6]["000000006.json"] = about.removesuffix(b"}")
    pool = tmp_path / "pool"
    write_tar(pool / "shards" / "0.tar", samples)
    plain = sealed_again(pool)
    with pytest.raises(ArtifactError, match="no parquet file, so the pictures' sha256 cannot be checked"):
        sealed_again(pool, sha256=True)
    (pool / "metadata").mkdir()
    uids = [uid_of((0, n)) for n in (3, 2, 1, 0, 6, 5)]
    pq.write_table(pa.table({"uid": uids}), pool / "metadata" / "a.parquet")
    with pytest.raises(ArtifactError, match=r"a\.parquet: no column 'sha256', so the pictures cannot be compared"):
        sealed_again(pool, sha256=True)
    table = pa.table({"uid": uids, "sha256": [*(sums[n] for n in (3, 2, 1, 0, 0)), None]})
    pq.write_table(table[:2], pool / "metadata" / "a.parquet")
    pq.write_table(table[2:], pool / "metadata" / "b.parquet")
    (pool / ".originals-killed").mkdir()
    checked = sealed_again(pool, sha256=True)
    assert not list(pool.glob(".originals-*"))
    assert uid.to_hex(checked.uids) == [uid_of((0, 0)), uid_of((0, 1))]
    assert [row[2:] for row in left_out(pool)] == [
        [uid_of((0, 2)), "sha256 is not the metadata's"],
        [uid_of((0, 3)), "sha256 is not the metadata's"],
        [uid_of((0, 4)), "metadata has no sha256 for it"],
        [uid_of((0, 5)), "metadata has no sha256 for it"],
        [uid_of((0, 6)), "sha256 is not the metadata's"],
    ]
    assert read_record(pool / "pool.json", "pool").payload["sha256"] is True
    # Metadata that were missing count once they are there.
    pq.write_table(pa.table({"uid": [uid_of((0, 4))], "sha256": [sums[4]]}), pool / "metadata" / "c.parquet")
    assert len(sealed_again(pool)) == 3
    (pool / "metadata" / "c.parquet").unlink()
    assert sealed_again(pool).digest == checked.digest
    # Later commands keep to it, until they are told otherwise.
    touch_later(pool / "shards" / "0.tar")
    assert sealed_again(pool).digest == checked.digest
    assert sealed_again(pool, sha256=False).digest == plain.digest
    assert len(sealed_again(pool)) == 7
