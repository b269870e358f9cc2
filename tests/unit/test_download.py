"""What a download makes of its settings, its metadata and the disk, before img2dataset is called."""

import importlib.metadata
import re
import shutil
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import COMMIT, metadata
from pool_folders import finished_shard, picture, write_pool

from harness import crawl, download, executor, files
from harness.errors import ArtifactError, ConfigError, InfraError
from harness.pool.seal import seal
from harness.records import Record, read_record, write_record


def test_a_disk_that_is_too_small_is_seen_before_the_first_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(metadata("http://127.0.0.1:9", ["good"] * 4), tmp_path / "pairs.parquet")
    free_space(monkeypatch, 100_000)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.47.0")
    monkeypatch.setattr(crawl.subprocess, "Popen", None)
    settings = download.Settings(data_dir=str(tmp_path / "pool"), url_list=str(tmp_path / "pairs.parquet"))
    with pytest.raises(InfraError, match=r"0\.0 GB free; make room or choose another"):
        download.download(settings)


def free_space(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 50, 1 << 50, size))


def hub(monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], asked: list[tuple[str, str]]) -> None:
    """A hub that tells of these files, notes what it is asked for, and gives none."""
    import huggingface_hub

    def about(_: object, repository: str, *, revision: str, files_metadata: bool) -> types.SimpleNamespace:
        assert files_metadata
        asked.append((repository, revision))
        siblings = [types.SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()]
        return types.SimpleNamespace(sha=COMMIT, siblings=siblings)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", about)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)


def test_the_disk_holds_metadata_features_and_pictures_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of small: 3 GB of metadata, 75 GB of features and 450 GB of pictures."""
    ends = {".parquet": 121_000_000, ".npz": 2_900_000_000}
    sizes = {f"{n:032}{end}": size for n in range(26) for end, size in ends.items()}
    hub(monkeypatch, sizes, [])

    def needed(**more: object) -> float:
        settings = {"data_dir": str(tmp_path / "pool"), "scale": "small", **more}
        with pytest.raises(InfraError, match=r"GB needed, 2\.0 GB free") as caught:
            download.download(download.Settings.model_validate(settings))
        return float(re.findall(r"([\d.]+) GB needed", str(caught.value))[0])

    free_space(monkeypatch, 2_000_000_000)
    assert needed(skip_images=True) == 3.1
    assert needed() == pytest.approx(453, abs=5)
    assert needed(features=True) == pytest.approx(528, abs=5)
    assert needed(part="1/26", features=True) == pytest.approx(528 / 26, abs=0.3)
    pq.write_table(metadata("http://x", ["good"] * 3), tmp_path / "0.parquet")
    free_space(monkeypatch, 3 * crawl.BYTES_PER_PAIR)
    with pytest.raises(InfraError, match="GB needed"):
        download.download(download.Settings(data_dir=str(tmp_path / "other"), metadata_dir=str(tmp_path)))
    assert not (tmp_path / "other" / "metadata").exists()


def test_a_branch_or_tag_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    hub(monkeypatch, {"a.parquet": 1}, asked)

    def resolved(folder: str, **more: object) -> Record:
        settings = {"data_dir": str(tmp_path / folder), "scale": "datacomp_1b", **more}
        return download._source(download.Settings.model_validate(settings), tmp_path / folder)

    first = resolved("a", revision="v2")
    assert first.payload["revision"] == COMMIT
    for again in ("v2", COMMIT, None):
        assert resolved("a", revision=again) == first
    assert asked == [("mlfoundations/datacomp_1b", "v2")]
    with pytest.raises(ConfigError, match=f"revision: .* holds {COMMIT}, not main; choose another data_dir"):
        resolved("a", revision="main")
    assert resolved("b").digest == resolved("b", revision="main").digest == first.digest
    with pytest.raises(ConfigError, match=r"scale: .* mlfoundations/datacomp_1b, not mlfoundations/datacomp_small"):
        resolved("a", scale="small")
    hub(monkeypatch, {"a.npz": 1}, asked)
    with pytest.raises(ConfigError, match="datacomp_1b has no parquet file at revision v3"):
        resolved("c", revision="v3")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("part=3/2", "part=3/2: the parts of 2 are 1/2 to 2/2"),
        ("part=1/3", "part=1/3: there are 2 metadata files"),
        ("part=0/2", "setting part"),
        ("part=half", "setting part"),
        ("scale=enormous", "setting scale"),
        ("timeout=0", "setting timeout"),
        ("retry_faild=true", "did you mean 'retry_failed'"),
    ],
)
def test_bad_settings(tmp_path: Path, setting: str, says: str) -> None:
    content = {f"{letter * 32}.parquet": 1 for letter in "ab"}
    payload = {"repository": "mlfoundations/datacomp_small", "revision": COMMIT, "files": content}
    write_record(tmp_path / "pool" / "source.json", Record(kind="source", payload=payload))
    scale = [] if setting.startswith("scale") else ["scale=small"]
    with pytest.raises(ConfigError, match=says):
        download.command([f"data_dir={tmp_path}/pool", *scale, "skip_images=true", setting])


def test_a_store_is_no_place_to_download_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="data_dir=s3://bucket/small: the download writes to a disk"):
        download.command(["data_dir=s3://bucket/small", "scale=small"])
    assert not list(tmp_path.iterdir())


def test_help_tells_what_each_setting_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        download.command(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for name in download.Settings.model_fields:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert not line.split()[1].startswith("(")


def test_parts_of_other_metadata(tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    for number in range(5):
        pq.write_table(metadata("http://x", ["good"], first=number), tmp_path / "list" / f"{number}.parquet")
    taken = []
    for i in (1, 2):
        record = download.download(
            download.Settings(data_dir=str(tmp_path / str(i)), metadata_dir=str(tmp_path / "list"), part=f"{i}/2",
                              skip_images=True)
        )  # fmt: skip
        assert sorted(path.name for path in (tmp_path / str(i) / "metadata").iterdir()) == record.payload["metadata"]
        taken.append(record.payload["metadata"])
    assert taken == [["0.parquet", "2.parquet", "4.parquet"], ["1.parquet", "3.parquet"]]
    with pytest.raises(ConfigError, match="part divides metadata files, and url_list is one"):
        download.download(download.Settings(data_dir=str(tmp_path / "x"), url_list="x.csv", part="1/2"))


def crawled(monkeypatch: pytest.MonkeyPatch, tried: int) -> None:
    """Let a crawl be done at once."""
    monkeypatch.setattr(download, "crawl", lambda *_, **__: crawl.CrawlCounts(tried=tried, successes=tried - 1))


def test_parts_work_side_by_side_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list").mkdir()
    for number in range(3):
        pq.write_table(metadata("http://x", ["good"], first=number), tmp_path / "list" / f"{number}.parquet")
    pool = write_pool(tmp_path / "pool")
    crawled(monkeypatch, 5)

    def part(name: str, **more: object) -> Record:
        settings = {"data_dir": str(pool), "metadata_dir": str(tmp_path / "list"), "part": name, **more}
        return download.download(download.Settings.model_validate(settings))

    # Another machine is at part 1; to wait for it would hang here.
    with files.lock(pool, shared=True), files.lock(pool / ".urls" / "part_1_of_2"):
        second = part("2/2")
    first = part("1/2")
    assert part("1/2", skip_images=True) == first  # later, for the features alone: what was crawled is not forgotten
    assert sorted(path.name for path in pool.glob("download*.json")) == [
        "download_part_1_of_2.json", "download_part_2_of_2.json",
    ]  # fmt: skip
    assert [record.payload["metadata"] for record in (first, second)] == [["0.parquet", "2.parquet"], ["1.parquet"]]
    seal(str(pool), executor=executor.local(1))
    about = read_record(pool / "pool.json", "pool").provenance["download"]
    assert (about["links"], about["pictures"], about["rate"]) == (10, 8, 0.8)
    assert about["parts"][0]["digest"] == first.digest
    assert about["parts"][0]["img2dataset"]["bbox_col"] == "face_bboxes"
    assert about["parts"][0]["packages"]["img2dataset"] == importlib.metadata.version("img2dataset")


def test_parts_of_another_number_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would download the same links twice."""
    pq.write_table(metadata("http://x", ["good"]), tmp_path / "0.parquet")
    crawled(monkeypatch, 1)

    def settings(part: str | None, **more: object) -> download.Settings:
        values = {"data_dir": str(tmp_path / "pool"), "metadata_dir": str(tmp_path), "part": part, **more}
        return download.Settings.model_validate(values)

    download.download(settings(None, skip_images=True))
    crawl.begin(tmp_path / "pool" / "shards" / "part_2_of_2", {})
    with pytest.raises(ConfigError, match=r"^no part given: .*shards was begun in 2 parts; go on so"):
        download.download(settings(None))
    shutil.rmtree(tmp_path / "pool" / "shards")
    crawl.begin(tmp_path / "pool" / "shards", {})
    assert download.download(settings(None)).payload["links"] == 1
    with pytest.raises(ConfigError, match=r"part=1/1: .*shards was begun as a whole; go on so"):
        download.download(settings("1/1"))


def test_other_pairs_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kinds in (("a", ["good"]), ("b", ["good", "404"])):
        pq.write_table(metadata("http://x", kinds), tmp_path / f"{name}.parquet")

    def settings(**values: object) -> download.Settings:
        return download.Settings.model_validate({"data_dir": str(tmp_path / "pool"), "skip_images": True, **values})

    download.download(settings(url_list=str(tmp_path / "b.parquet")))
    for other in ({"url_list": str(tmp_path / "a.parquet")}, {"metadata_dir": str(tmp_path)}):
        with pytest.raises(ConfigError, match=r"holds the pairs of other files .*; choose another data_dir"):
            download.download(settings(**other))
    with pytest.raises(ConfigError, match="holds metadata that are not of the hub, not mlfoundations/datacomp_small"):
        download.download(settings(scale="small"))
    pq.write_table(metadata("http://x", ["good"] * 50), tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"url_list: .* holds the pairs of other files"):
        download.download(settings(url_list=str(tmp_path / "b.parquet")))
    with pytest.raises(ArtifactError, match=r"c\.parquet"):
        download.download(settings(url_list=str(tmp_path / "c.parquet")))


def test_img2dataset_is_given_the_links_of_this_download_alone(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.parquet").write_bytes(b"")
    download._links(tmp_path / "urls", [tmp_path / "a.parquet"])
    (tmp_path / "urls" / "b.parquet").symlink_to(tmp_path / "moved" / "b.parquet")
    download._links(tmp_path / "urls", [tmp_path / "b.parquet"])
    assert [path.resolve() for path in (tmp_path / "urls").iterdir()] == [tmp_path / "b.parquet"]


def test_metadata_that_cannot_be_crawled(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (tmp_path / "list").mkdir()
    good = metadata("http://x", ["good"] * 2)
    settings = download.Settings(data_dir=str(tmp_path / "pool"), metadata_dir=str(tmp_path / "list"))
    pq.write_table(good.drop_columns(["face_bboxes"]), tmp_path / "list" / "0.parquet")
    crawled(monkeypatch, 2)
    assert download.download(settings).payload["img2dataset"]["bbox_col"] is None
    assert "0.parquet: has no column face_bboxes, so faces are not blurred" in capsys.readouterr().err
    pq.write_table(good, tmp_path / "list" / "0.parquet")
    pq.write_table(good.drop_columns(["text"]), tmp_path / "list" / "1.parquet")
    with pytest.raises(ArtifactError, match=r"1\.parquet: no column 'text'"):
        download.download(settings.model_copy(update={"data_dir": str(tmp_path / "other")}))
    (tmp_path / "list" / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"1\.parquet: not a readable parquet file"):
        download.download(settings.model_copy(update={"data_dir": str(tmp_path / "third")}))
    (tmp_path / "list" / "1.parquet").unlink()
    for wrong in ("17", "F" * 32, None):
        column = pa.array(["f" * 32, wrong], pa.string())
        pq.write_table(good.set_column(0, "uid", column), tmp_path / "list" / "2.parquet")
        with pytest.raises(ArtifactError, match=r"2\.parquet: row 1: .* is not a uid"):
            download.download(settings.model_copy(update={"data_dir": str(tmp_path / "uids")}))
    assert not (tmp_path / "uids" / "metadata").exists()
    pq.write_table(good.set_column(0, "uid", pa.array(["f" * 32, "no uid"])), tmp_path / "pairs.parquet")
    with pytest.raises(ArtifactError, match=r"pairs\.parquet: row 1: 'no uid' is not a uid"):
        download.download(download.Settings(data_dir=str(tmp_path / "4"), url_list=str(tmp_path / "pairs.parquet")))


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    def settings(**values: object) -> download.Settings:
        return download.Settings.model_validate({"data_dir": str(tmp_path / "pool"), **values})

    with pytest.raises(ConfigError, match="give one of scale, metadata_dir and url_list, not none"):
        download.download(settings())
    with pytest.raises(ConfigError, match="not scale and url_list"):
        download.download(settings(scale="small", url_list="x.csv"))
    for more in ({"features": True}, {"revision": "main"}):
        with pytest.raises(ConfigError, match="it is of a scale on the hub; leave it out with metadata_dir"):
            download.download(settings(metadata_dir=str(tmp_path), **more))
    with pytest.raises(ArtifactError, match=r"holds no \.parquet"):
        download.download(settings(metadata_dir=str(tmp_path)))
    (tmp_path / "list.csv").write_text("url,caption\nhttp://x/1.jpg,one\n")
    with pytest.raises(ArtifactError, match=r"list\.csv: has no column 'text', only url, caption"):
        download.download(settings(url_list=str(tmp_path / "list.csv")))
    (tmp_path / "list.csv").write_text("url,text\n")
    with pytest.raises(ArtifactError, match=r"list\.csv: holds no link"):
        download.download(settings(url_list=str(tmp_path / "list.csv")))
    (tmp_path / "list.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(ArtifactError, match=r"list\.parquet: neither a parquet nor a csv file"):
        download.download(settings(url_list=str(tmp_path / "list.parquet")))
    (tmp_path / "list.csv").write_text("url,text\nhttp://x/1.jpg,one\n")
    record = download.download(settings(url_list=str(tmp_path / "list.csv"), skip_images=True))
    assert record.payload["metadata"] == ["list.parquet"]


def test_parts_in_one_folder_need_room_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list").mkdir()
    for number in range(2):
        pq.write_table(metadata("http://x", ["good"] * 3, first=3 * number), tmp_path / "list" / f"{number}.parquet")
    shards = tmp_path / "pool" / "shards"
    settings = download.Settings(data_dir=str(tmp_path / "pool"), metadata_dir=str(tmp_path / "list"), part="2/2")
    crawled(monkeypatch, 3)
    free_space(monkeypatch, 5 * crawl.BYTES_PER_PAIR)
    crawl.begin(shards / "part_1_of_2", {"links": {"0.parquet": 3}})
    for _ in range(2):  # also where the metadata are there already
        with pytest.raises(InfraError, match=r"GB needed, 0\.0 GB free"):
            download.download(settings)
        free_space(monkeypatch, 10 * crawl.BYTES_PER_PAIR)
        download.download(settings.model_copy(update={"skip_images": True}))
        free_space(monkeypatch, 5 * crawl.BYTES_PER_PAIR)
    finished_shard(shards / "part_1_of_2", 0, [(n, "success", None) for n in range(3)])
    assert download.download(settings).payload["links"] == 3


STAND_IN = """
import io, json, os, pathlib, signal, tarfile

def download(url_list, output_folder, **_):
    (name,) = (path.stem for path in pathlib.Path(url_list).glob("*.parquet"))
    out = pathlib.Path(output_folder)
    killed_before = (out / ".img2dataset.log").stat().st_size
    print("begun", flush=True)
    for shard in range(3):
        stem = out / f"{shard:08d}"
        if stem.with_name(stem.name + "_stats.json").exists():
            continue
        with tarfile.open(f"{stem}.tar", "w") as tar:
            for n in range(4):
                key = f"{shard:05d}{n:04d}"
                about = json.dumps({"uid": f"{int(name):016x}{shard:08x}{n:08x}"}).encode()
                picture = pathlib.Path(os.environ["PICTURE"]).read_bytes()
                for suffix, content in (("jpg", picture), ("json", about), ("txt", b"a caption")):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                if os.environ.get("KILLED") and shard == 1 and n == 2 and not killed_before:
                    tar.fileobj.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
        stem.with_name(stem.name + "_stats.json").write_text(json.dumps({"count": 4, "successes": 4}))
"""
"""In img2dataset's place: three shards of the metadata file 0.parquet, 1.parquet …; killed once in the second."""


@pytest.mark.slow
def test_three_machines_that_are_killed_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one shared folder, or each on a disk of its own and copied together: the pool that one machine alone gets."""
    (tmp_path / "stand_in").mkdir()
    (tmp_path / "stand_in" / "img2dataset.py").write_text(STAND_IN)
    (tmp_path / "a.jpg").write_bytes(picture(1))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand_in"))
    monkeypatch.setenv("PICTURE", str(tmp_path / "a.jpg"))
    monkeypatch.setattr(crawl, "_require", lambda _: "1")
    monkeypatch.setattr(crawl, "POLL_SECONDS", 0.01)
    free_space(monkeypatch, 1 << 40)
    (tmp_path / "list").mkdir()
    for number in range(3):
        table = metadata("http://x", ["good"] * 12, first=100 * number)
        pq.write_table(table, tmp_path / "list" / f"{number}.parquet")

    def machine(folder: Path, part: int) -> str:
        try:
            settings = {"data_dir": str(folder), "metadata_dir": str(tmp_path / "list"), "part": f"{part}/3"}
            return f"{download.download(download.Settings.model_validate(settings)).payload['pictures']} pictures"
        except InfraError as error:
            return str(error)

    def by_three(folders: list[Path]) -> None:
        with monkeypatch.context() as patch, ThreadPoolExecutor(3) as machines:
            patch.setenv("KILLED", "once")
            first = list(machines.map(machine, folders, (1, 2, 3)))
            assert all("img2dataset ended after 4 of 12 links" in said for said in first), first
            assert list(machines.map(machine, folders, (1, 2, 3))) == ["12 pictures"] * 3

    alone, shared, joined = (tmp_path / name for name in ("alone", "shared", "joined"))
    for part in (1, 2, 3):
        assert machine(alone, part) == "12 pictures"
    by_three([shared] * 3)
    disks = [tmp_path / f"disk_{part}" for part in (1, 2, 3)]
    by_three(disks)
    for disk in disks:
        shutil.copytree(disk, joined, dirs_exist_ok=True)
    pools = [seal(str(folder), executor=executor.local(1)) for folder in (alone, shared, joined)]
    assert len(pools[0]) == 36
    assert {pool.digest for pool in pools} == {pools[0].digest}
    for folder in (alone, shared, joined):
        about = read_record(folder / "pool.json", "pool").provenance["download"]
        assert (about["links"], about["pictures"], len(about["parts"])) == (36, 36, 3)
