import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import metadata
from pool_folders import finished_shard, uid_of

from harness import crawl, retries
from harness.crawl import ROBOTS, read_counts


def test_what_is_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tried").mkdir()
    for number in range(2):
        table = metadata("http://x", ["good"] * 4, first=4 * number).append_column("more", pa.array([1] * 4))
        pq.write_table(table, tmp_path / "tried" / f"{number}.parquet", row_group_size=3)
    shards, target = tmp_path / "shards", tmp_path / "again"
    refused = "Use of image disallowed by X-Robots-Tag directive"
    finished_shard(shards, 0, [(0, "success", None), (1, "failed_to_download", "timed out")])
    finished_shard(shards, 1, [(3, "failed_to_download", refused), (2, "failed_to_resize", "Image decoding error")])
    finished_shard(shards / "retry_1", 0, [(0, "failed_to_download", "of another try")])
    finished_shard(shards, 2, [(4, "failed_to_download", "timed out")])
    (shards / "00000002.parquet").unlink()
    assert retries.write_failed(shards, tmp_path / "tried", target) == 2
    assert "1 shards have no parquet beside them, so what failed there is not tried again" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["0.parquet"]
    table = pq.read_table(target / "0.parquet")
    assert table.column_names == ["uid", "url", "text", "face_bboxes"]
    assert table["uid"].to_pylist() == [uid_of(1), uid_of(2)]
    finished_shard(tmp_path / "done", 0, [(0, "success", None)])
    assert retries.write_failed(tmp_path / "done", tmp_path / "tried", tmp_path / "none") == 0
    assert not (tmp_path / "none").exists()


def tries(shards: Path, rows: list[tuple[int, str, str | None]]) -> None:
    """A finished shard of `rows`, with its counts."""
    finished_shard(shards, 0, rows)
    messages = [message or "success" for _, _, message in rows]
    stats = {"count": len(rows), "successes": messages.count("success"), "status_dict": dict(Counter(messages))}
    (shards / "00000000_stats.json").write_text(json.dumps(stats))


def test_a_retry_is_in_the_counts_of_every_later_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry that is interrupted goes on; what it brought stays, and so do the reasons of what it did not try."""
    urls, out = tmp_path / "urls", tmp_path / "shards"
    urls.mkdir()
    pq.write_table(metadata("http://x", ["good"] * 5), urls / "0.parquet")
    refused = f"Use of image disallowed by {ROBOTS} directive"
    tries(out, [(0, "success", None), (1, "failed", refused), (2, "failed", "404"), (3, "failed", "404"),
                (4, "failed", "timed out")])  # fmt: skip
    second = [(2, "success", None), (3, "failed", "404"), (4, "failed", "500")]
    how, asked, answers = crawl.CrawlSettings(), [], iter([second[:1], second, [(3, "success", None)]])

    def fake(failed: Path, shards: Path, *, links: dict[str, int], **_: object) -> crawl.CrawlCounts:
        asked.append((shards.name, links))
        tries(shards, next(answers))
        if len(asked) == 1:
            raise KeyboardInterrupt
        return read_counts(shards)

    monkeypatch.setattr(retries, "crawl", fake)

    def counted(*, again: bool) -> tuple[int, dict[str, int]]:
        counts = read_counts(out)
        retries.add_retries(counts, out, urls, [], how, again=again)
        return counts.successes, dict(counts.failures)

    first = {refused: 1, "404": 2, "timed out": 1}
    assert counted(again=False) == (1, first)
    with pytest.raises(KeyboardInterrupt):
        counted(again=True)
    assert counted(again=False) == (2, first)
    assert counted(again=True) == counted(again=False) == (2, {refused: 1, "404": 1, "500": 1})
    assert counted(again=True)[0] == counted(again=False)[0] == 3
    assert asked == [("retry_1", {"0.parquet": 3}), ("retry_1", {"0.parquet": 3}), ("retry_2", {"0.parquet": 2})]
