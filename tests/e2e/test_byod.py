"""The byod track from end to end: folders of one's own pairs beside a pool."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pool_folders import picture, sample, uid_of, write_tar

import harness
from harness import uid
from harness.audit import audit
from harness.entry import write_entry
from harness.entry_schema import About, load_entry
from harness.errors import ArtifactError, ConfigError, HarnessError
from harness.pool.sealed import SealedPool
from harness.records import read_json, read_record
from leaderboard.verify import verify

from .conftest import command


@pytest.fixture
def folders(run_in: Path) -> list[str]:
    """Two folders of 32 pairs each: `mine` with uids, `web` with no json at all."""
    write_tar(run_in / "mine" / "shards" / "0.tar", [sample(n, shard=70) for n in range(32)])
    bare = [{f"{n:04d}.jpg": picture(5000 + n), f"{n:04d}.txt": f"picture {n} of the web".encode()} for n in range(32)]
    write_tar(run_in / "web" / "shards" / "a.tar", bare[:20])
    write_tar(run_in / "web" / "shards" / "b.tar", bare[20:])
    return ["byod=[{path: mine, weight: 3}, {path: web, uids: content}]"]


def counts_of(run_dir: str) -> dict[str, int]:
    uids, counts = np.unique(uid.load(f"{run_dir}/uids.npy"), return_counts=True)
    return dict(zip(uid.to_hex(uids), counts.tolist(), strict=True))


@pytest.mark.slow
def test_folders_beside_a_pool(
    run_in: Path, mini_settings: list[str], folders: list[str], mini_pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*mini_settings, *folders, "method=random_subset", "method.fraction=0.25"]
    result = harness.run(*settings, "run_dir=a", "train.reading=mask")
    chosen = uid.to_hex(uid.load("a/selection/uids.npy"))
    assert len(chosen) == 160
    web = uid.to_hex(SealedPool.open("web").uids)
    expected = dict.fromkeys(chosen, 1) | {uid_of((70, n)): 3 for n in range(32)} | dict.fromkeys(web, 1)
    assert counts_of("a") == expected
    assert audit("a") == []
    # Its union lies in it, wherever one stands.
    monkeypatch.chdir("mine")
    assert audit("../a") == []
    write_entry(["../a"], "../elsewhere", about=About(name="mixed", track="byod", external_data=["our own"]))
    monkeypatch.chdir("..")

    # Resharded tars give the same model bit by bit, and the same settings again change nothing.
    harness.run(*settings, "run_dir=b", "train.reading=reshard")
    first, second = (read_json(f"{r}/train/train.json")["payload"] for r in "ab")
    assert first["checkpoint"] == second["checkpoint"]
    before = Path("a/train/train.json").stat().st_mtime_ns
    harness.run(*settings, "run_dir=a", "train.reading=mask")
    assert Path("a/train/train.json").stat().st_mtime_ns == before

    assert load_entry(result.run_dir / "entry").payload.about.track == "byod"
    with pytest.raises(ConfigError, match="byod folders as well"):
        write_entry(["a"], "entry", about=About(name="mixed", track="filtering"))
    write_entry(["a"], "board/mixed", about=About(name="mixed", external_data=["64 pairs of our own"]))
    payload = load_entry("board/mixed").payload
    assert [(s.name, s.samples, s.weight) for s in payload.pool.sources] == [
        ("pool", 640, 1), ("byod-1", 32, 3), ("byod-2", 32, 1),
    ]  # fmt: skip
    assert payload.pool.sources[0].digest == SealedPool.open(str(mini_pool)).digest
    assert str(run_in) not in "".join(p.read_text() for p in Path("board").rglob("*.json"))
    found = verify(Path("board/mixed"))
    assert [f for f in found.findings if f.severity == "error" and f.check in ("sources", "weights", "ledger")] == []
    assert {"sources", "weights", "in the pool", "ledger"} <= set(found.checks)

    # A folder that changes is another pool, and so another run.
    write_tar(run_in / "mine" / "shards" / "0.tar", [sample(n, shard=70) for n in range(31)])
    union = Path("a/pool/pool.json").read_bytes()
    with pytest.raises(ConfigError, match=r"byod \(byod-1\)"):
        harness.run(*settings, "run_dir=a")
    assert Path("a/pool/pool.json").read_bytes() == union


@pytest.mark.slow
def test_folders_alone(run_in: Path, mini_settings: list[str], folders: list[str]) -> None:
    # As scripts/slurm does on several nodes: select, train, and a run that finds both done.
    settings = [*mini_settings, *folders, "pool.weight=0", "run_dir=a", "train.reading=mask"]
    for name, more in (("harness.select", []), ("harness.train", [])):
        done = command(name, *settings, *more, cwd=run_in)
        assert done.returncode == 0, done.stderr
    before = Path("a/train/train.json").stat().st_mtime_ns
    harness.run(*settings)
    assert Path("a/train/train.json").stat().st_mtime_ns == before
    assert sorted(set(counts_of("a").values())) == [1, 3]
    assert len(uid.load("a/uids.npy")) == 32 * 3 + 32
    assert audit("a") == []
    payload = load_entry("a/entry").payload
    assert payload.method is None
    assert payload.about.name == "byod"
    assert [s.name for s in payload.pool.sources] == ["byod-1", "byod-2"]


def test_dry_run(
    run_in: Path, mini_settings: list[str], folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.compose import compose
    from harness.stages import run_config

    settings = [*mini_settings, *folders, "pool.weight=0", "dry_run=true"]
    with pytest.raises(HarnessError, match="not sealed yet"):
        run_config(compose(settings))
    from harness import executor
    from harness.pool.seal import seal

    seal("mine", executor=executor.local(1))
    seal("web", executor=executor.local(1), uids="content")
    settings = [text.replace(", uids: content", "") for text in settings]  # it is sealed so
    assert run_config(compose(settings)) is None
    assert "subset    128 uids (64 distinct)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("byod=[{path: nowhere}]", "nowhere"),
        ("byod=[{path: mine, weight: 0}]", r"byod\.0\.weight"),
        ("byod=[{path: mine, weight: -1}]", r"byod\.0\.weight"),
        ("byod=[{path: mine, weight: 1.5}]", r"byod\.0\.weight"),
        ("byod=[{weight: 1}]", r"byod\.0\.path"),
        ("byod=[{path: mine, wieght: 2}]", r"byod\.0\.wieght: not known here"),
        ("byod=[{path: mine}, {path: ./mine}]", "setting byod: mine stands there twice; name it once, with a greater"),
        ("byod=[{path: web}]", "json.*take uids=content"),
        ("byod=[{path: mine}, {path: again}]", "32 uids stand in two of the sources"),
        ("pool.weight=2", "there are none"),
    ],
)
def test_bad_settings(run_in: Path, folders: list[str], setting: str, message: str) -> None:
    shutil.copytree("mine", "again")
    weight = [] if setting.startswith("pool") else ["pool.weight=0"]
    with pytest.raises((ConfigError, ArtifactError), match=message):
        harness.run("scale=tiny", setting, *weight, "run_dir=a")
    assert not Path("a/uids.npy").exists()


def test_what_does_not_go_together(run_in: Path, folders: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"pool\.holdout"):
        harness.run("scale=tiny", *folders, "pool.holdout=8")
    with pytest.raises(ConfigError, match="setting subset"):
        harness.run("scale=tiny", *folders, "pool.weight=0", "subset=uids.npy")


def test_a_uid_file_names_pairs_of_the_pool_only(run_in: Path, mini_settings: list[str], folders: list[str]) -> None:
    uid.save("uids.npy", uid.sort(uid.from_hex([uid_of((70, n)) for n in range(4)])))
    with pytest.raises(ArtifactError, match="4 of 4 uids are not in the pool"):
        harness.run(*mini_settings, *folders, "subset=uids.npy", "run_dir=a")


def test_the_record_of_a_union_names_its_sources(run_in: Path, mini_settings: list[str], folders: list[str]) -> None:
    from harness import byod, executor
    from harness.compose import compose

    config = compose([*mini_settings, *folders, "pool.weight=0"])
    union = byod.gather(config, None, Path("a"), executor.local(1))
    record = read_record("a/pool/pool.json", "pool")
    assert record.inputs == {"byod-1": SealedPool.open("mine").digest, "byod-2": SealedPool.open("web").digest}
    assert union.names == ("byod-1/0", "byod-2/a", "byod-2/b")
    assert union.borders.tolist() == [0, 32, 52, 64]
    assert union.digest == byod.gather(config, None, Path("elsewhere"), executor.local(1)).digest
    assert json.loads(Path("a/pool/byod-2/pool.json").read_text())["payload"]["samples"] == 32
