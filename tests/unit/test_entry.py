"""Packing runs into entries."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic

from harness import entry, uid
from harness.entry import load_entry, write_entry
from harness.entry_schema import ENTRY_FORMAT, About
from harness.errors import ArtifactError, ConfigError, InfraError
from harness.eval import suite as suites
from harness.pool.sealed import SealedPool


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> SealedPool:
    return synthetic.world(tmp_path_factory.mktemp("pool"), samples=1000)


@pytest.fixture(scope="module")
def runs(sealed: SealedPool, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    uids = synthetic.subset_of(sealed, keep=0.3)
    return [synthetic.run(root / f"run-{seed}", sealed, uids, seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def other(sealed: SealedPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of other uids."""
    folder = tmp_path_factory.mktemp("other") / "run"
    return synthetic.run(folder, sealed, synthetic.subset_of(sealed, keep=0.2))


def test_an_entry_says_what_the_runs_say(runs: list[Path], sealed: SealedPool, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("# Mine\n")
    record = write_entry(runs, tmp_path / "entry", about=About(name="Mine", authors=["A"]), card=card)
    payload = load_entry(tmp_path / "entry").payload
    uids = np.load(runs[0] / "uids.npy")
    assert payload.subset.size == len(uids)
    assert payload.subset.mean_repeats == pytest.approx(65536 / len(uids), abs=1e-6)
    assert payload.pool.digest == sealed.digest
    assert [run.seed for run in payload.runs] == [0, 1]
    assert len(payload.tasks) == 40
    average = payload.aggregates["average"]
    scores = [
        json.loads((run / "eval" / "evaluation.json").read_text())["payload"]["aggregates"]["average"] for run in runs
    ]
    assert average.seeds == scores
    assert average.mean == pytest.approx(np.mean(scores))
    assert average.std == pytest.approx(np.std(scores, ddof=1))
    assert all(task.low <= task.score <= task.high for task in payload.tasks if task.score is not None)
    assert {"uids.npy", "data-card.md", "bootstrap.npy", "pool/pool.json"} <= set(record.inputs)
    assert payload.elsewhere.keys() == {
        "pool/uids.npy",
        "pool/shards.npy",
        *(f"seed-{seed}/train/checkpoint.safetensors" for seed in range(2)),
    }
    assert payload.ranked


def test_an_entry_names_no_folder_of_the_machine(runs: list[Path], sealed: SealedPool, tmp_path: Path) -> None:
    assert sealed.path in (runs[0] / "train" / "train.json").read_text()
    write_entry(runs, tmp_path / "entry")
    for path in (tmp_path / "entry").rglob("*.json"):
        assert sealed.path not in path.read_text(), path


def test_packing_again_does_nothing_and_gives_the_same_digest(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_entry(runs, tmp_path / "a")
    assert write_entry(runs[::-1], tmp_path / "b").digest == first.digest
    monkeypatch.setattr(entry, "_replicates", lambda _: pytest.fail("computed again"))
    before = (tmp_path / "a" / "entry.json").stat().st_mtime_ns
    assert write_entry(runs, tmp_path / "a").digest == first.digest
    assert (tmp_path / "a" / "entry.json").stat().st_mtime_ns == before


def test_a_damaged_entry_is_written_anew(runs: list[Path], tmp_path: Path) -> None:
    first = write_entry(runs, tmp_path / "a")
    (tmp_path / "a" / "entry.json").write_text("{")
    assert write_entry(runs, tmp_path / "a").digest == first.digest


def test_packing_again_leaves_nothing_of_before(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("# Mine\n")
    write_entry(runs, tmp_path / "board" / "a", card=tmp_path / "card.md")
    record = write_entry(runs[:1], tmp_path / "board" / "a")
    there = {path.relative_to(tmp_path / "board" / "a").as_posix() for path in _files(tmp_path / "board")}
    assert there == {"entry.json", *record.inputs} - set(record.payload["elsewhere"])


def test_packing_that_fails_leaves_what_was_there(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_entry(runs, tmp_path / "a")
    before = {path: path.read_bytes() for path in _files(tmp_path)}

    def fail(_: object) -> None:
        raise InfraError("the disk is full")

    monkeypatch.setattr(entry, "_replicates", fail)
    with pytest.raises(InfraError):
        write_entry(runs[:1], tmp_path / "a")
    assert {path: path.read_bytes() for path in _files(tmp_path)} == before


def test_only_an_entry_is_replaced(runs: list[Path], tmp_path: Path) -> None:
    for name in ("train/train.json", "uids.npy", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
        with pytest.raises(ConfigError, match="is no entry; choose another folder"):
            write_entry(runs, (tmp_path / name).parent)
        assert (tmp_path / name).exists()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("mixed", "named"), [
    (("uids.npy", "subset.json"), r"train/train\.json: its subset"),
    (("uids.npy",), r"uids\.npy: is not the file"),
    (("train/train.json", "train/ledger.json", "train/checkpoint.safetensors", "uids.npy", "subset.json"),
     r"eval/evaluation\.json: its checkpoint"),
    (("train/ledger.json",), r"train/ledger\.json: its subset"),
    (("train/checkpoint.safetensors",), r"checkpoint\.safetensors: is not the file"),
    (("eval/evaluation.json",), r"eval/evaluation\.json: its checkpoint"),
    (("eval/mnist.json",), r"eval/mnist\.json: its checkpoint"),
])  # fmt: skip
def test_a_folder_of_two_runs_is_refused(
    mixed: tuple[str, ...], named: str, runs: list[Path], other: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    for name in mixed:
        shutil.copyfile(other / name, run / name)
    with pytest.raises(ArtifactError, match=named):
        write_entry([run], tmp_path / "entry")
    assert not (tmp_path / "entry").exists()


def test_a_training_of_another_seed_is_refused(runs: list[Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    shutil.copyfile(runs[1] / "config.json", run / "config.json")
    with pytest.raises(ArtifactError, match=r"train/train\.json: its seed"):
        write_entry([run], tmp_path / "entry")


def test_a_parameter_of_several_lines_makes_a_name(sealed: SealedPool, tmp_path: Path) -> None:
    uids = synthetic.subset_of(sealed, keep=0.3)
    params = {"separator": "\t", "words": "a\nb\u202e"}
    write_entry([synthetic.run(tmp_path / "run", sealed, uids, params=params)], tmp_path / "entry")
    name = load_entry(tmp_path / "entry").payload.about.name
    assert name == r"clip_score separator \t words a\nb\u202e"


def above_tiny(sealed: SealedPool, folder: Path) -> Path:
    """A run of another scale on the tasks of tiny."""
    run = synthetic.run(folder, sealed, synthetic.subset_of(sealed, keep=0.3), scale="debug", suite=suites.load("tiny"))
    config = json.loads((run / "config.json").read_text())
    config["payload"]["suite"] = "tiny"
    (run / "config.json").write_text(json.dumps(config))
    return run


def test_above_tiny_large_files_stand_elsewhere(sealed: SealedPool, tmp_path: Path) -> None:
    write_entry([above_tiny(sealed, tmp_path / "run")], tmp_path / "entry")
    payload = load_entry(tmp_path / "entry").payload
    assert "uids.npy" in payload.elsewhere
    assert not list((tmp_path / "entry").rglob("*.parquet"))
    assert not (tmp_path / "entry" / "uids.npy").exists()


def test_the_full_pool_is_listed_from_its_metadata_wherever_the_seal_lies(tmp_path: Path) -> None:
    synthetic.world(tmp_path / "seal", samples=500)
    sealed = SealedPool.open(str(tmp_path / "pool"), str(tmp_path / "seal"))
    (tmp_path / "pool" / "metadata").mkdir(parents=True)
    pq.write_table(pa.table({"uid": uid.to_hex(sealed.uids)}), tmp_path / "pool" / "metadata" / "0.parquet")
    payload = write_entry([above_tiny(sealed, tmp_path / "run")], tmp_path / "entry", pool=sealed.seal_dir).payload
    assert payload["pool"]["listed"] == 500


def test_an_incomplete_run_gives_an_entry_that_says_so(sealed: SealedPool, tmp_path: Path) -> None:
    uids = synthetic.subset_of(sealed, keep=0.3)
    run = synthetic.run(tmp_path / "run", sealed, uids, drop=("mnist", "cars"))
    payload = write_entry([run], tmp_path / "entry").payload
    assert sorted(payload["missing"]) == ["cars", "mnist"]
    assert payload["aggregates"]["average"]["mean"] is None
    assert payload["aggregates"]["vtab"]["mean"] is not None
    assert not load_entry(tmp_path / "entry").payload.ranked


def test_runs_that_do_not_belong_together_are_refused(runs: list[Path], sealed: SealedPool, tmp_path: Path) -> None:
    other = synthetic.run(tmp_path / "other", sealed, synthetic.subset_of(sealed, keep=0.2), seed=2)
    with pytest.raises(ConfigError, match="other uids"):
        write_entry([*runs, other], tmp_path / "entry")
    with pytest.raises(ConfigError, match="not distinct"):
        write_entry([runs[0], runs[0]], tmp_path / "entry")
    uids = np.load(runs[0] / "uids.npy")
    renamed = synthetic.run(tmp_path / "renamed", sealed, uids, seed=3, method="basic_filter")
    with pytest.raises(ConfigError, match="setting method differs"):
        write_entry([*runs, renamed], tmp_path / "entry")
    assert not (tmp_path / "entry").exists()


def test_an_unfinished_run_and_a_foreign_pool_are_named(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"config\.json"):
        write_entry([tmp_path], tmp_path / "entry")
    synthetic.world(tmp_path / "pool", samples=50, seed=5)
    with pytest.raises(ArtifactError, match="not the sealed pool"):
        write_entry(runs, tmp_path / "entry", pool=tmp_path / "pool")


def test_the_pool_list_must_hold_the_pool(runs: list[Path], tmp_path: Path) -> None:
    uid.save(tmp_path / "list.npy", np.zeros(3, dtype=uid.UID_DTYPE))
    with pytest.raises(ArtifactError, match="not in the list"):
        write_entry(runs, tmp_path / "entry", pool_list=tmp_path / "list.npy")


def test_pack_command(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pack", *map(str, runs), "--name", "Mine", "--authors", "A, B", "--link", "https://example.org",
                 "--external-model", "CLIP L/14", "--out", str(tmp_path / "entry")]  # fmt: skip
    entry.command(arguments)
    about = load_entry(tmp_path / "entry").payload.about
    assert (about.authors, about.external_models) == (["A", "B"], ["CLIP L/14"])
    assert capsys.readouterr().out.startswith(str(tmp_path / "entry"))
    with pytest.raises(ConfigError, match="setting --link: is not a link"):
        entry.command([*arguments[:-2], "--out", str(tmp_path / "b"), "--link", "javascript:alert(1)"])


def test_a_newer_format_is_refused_by_name(runs: list[Path], tmp_path: Path) -> None:
    write_entry(runs, tmp_path / "entry")
    path = tmp_path / "entry" / "entry.json"
    value = json.loads(path.read_text())
    value["payload"]["format"] = ENTRY_FORMAT + 1
    path.write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match="update"):
        load_entry(tmp_path / "entry")
