"""Bad input: one sentence that names the file or setting, the right exit code, earlier results untouched."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from waiting import LONG

import harness
from harness import entry, files, reshard, select, uid
from harness.compose import compose
from harness.errors import ArtifactError, ConfigError, HarnessError, InfraError, MethodError, PluginError, StageError
from harness.eval import __main__ as evaluate
from harness.executor import local
from harness.pool.seal import seal
from harness.records import read_record
from harness.stages import run_config
from harness.tiny.pool import make_pool
from harness.train import __main__ as train

from .conftest import command


@pytest.fixture
def pool(mini_pool: Path, run_in: Path) -> Path:
    """A copy of the miniature pool that the test may spoil."""
    return Path(shutil.copytree(mini_pool, run_in / "pool"))


def refuse(kind: type[HarnessError], says: str, *overrides: str) -> str:
    """Run, expect `kind` with `says` in its one sentence, and no record of a finished stage after it."""
    with pytest.raises(kind) as caught:
        harness.run("scale=tiny", "run_dir=r", *overrides)
    sentence = str(caught.value)
    assert says in sentence, sentence
    assert "\n" not in sentence, sentence
    assert not (Path("r") / "train" / "train.json").exists()
    assert not (Path("r") / "entry").exists()
    return sentence


def test_a_plan_of_the_generated_pool_makes_nothing(
    run_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATACOMP_HARNESS_CACHE", str(run_in / "cache"))
    assert run_config(compose(["scale=tiny", "method=clip_score", "dry_run=true"])) is None
    plan = capsys.readouterr().out
    assert "65,536 pairs, generated" in plan
    assert "256 steps" in plan
    assert not (run_in / "cache").exists()


def test_a_plan_of_a_pool_that_is_not_sealed_says_what_it_needs(pool: Path) -> None:
    with pytest.raises(StageError, match=r"pool: not sealed yet.*`python -m harness.pool seal "):
        harness.run("scale=tiny", f"pool.path={pool}", "dry_run=true")
    assert not (pool / "pool.json").exists()


def test_a_plan_seals_nothing_again(mini_pool: Path, run_in: Path) -> None:
    shutil.copytree(mini_pool, "pool")
    seal("pool", executor=local(1))
    before = contents(Path("pool"))
    next(Path("pool/shards").glob("*.tar")).touch()
    assert run_config(compose(["scale=tiny", "pool.path=pool", "dry_run=true"])) is None
    assert contents(Path("pool")) == before


METHODS = {
    "raises": "def select(pool, /, *, ctx):\n    raise ZeroDivisionError('their own words')\n",
    "none": "def select(pool, /, *, ctx):\n    return None\n",
    "text": "def select(pool, /, *, ctx):\n    return 'everything'\n",
    "integers": "def select(pool, /, *, ctx):\n    return [1, 2, 3]\n",
    "empty": "def select(pool, /, *, ctx):\n    return pool.uids()[:0]\n",
    "foreign": (
        "import numpy as np\n\ndef select(pool, /, *, ctx):\n"
        "    return np.concatenate([pool.uids()[:5], np.array([(1, 2), (3, 4)], dtype='u8,u8')])\n"
    ),
    "signature": "def select(everything):\n    return everything\n",
    "missing": "def choose(pool, /, *, ctx):\n    return pool.uids()\n",
    "import_error": "import a_module_that_is_not_there\n",
    "syntax": "def select(pool, /, *, ctx)\n    return 1\n",
    "good": "def select(pool, /, *, ctx, keep: float = 0.5):\n    return pool.uids()\n",
}


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("raises", MethodError, "their own words"),
        ("none", MethodError, "None"),
        ("text", MethodError, "str"),
        ("integers", MethodError, "u8,u8"),
        ("empty", MethodError, "nothing"),
        ("foreign", MethodError, "2 uids"),
        ("signature", PluginError, "select"),
        ("missing", PluginError, "select"),
        ("import_error", PluginError, "a_module_that_is_not_there"),
        ("syntax", PluginError, "bad_syntax"),
    ],
)
def test_a_bad_method(
    pool: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[HarnessError], says: str
) -> None:
    Path(f"bad_{name}.py").write_text(METHODS[name])
    monkeypatch.syspath_prepend(os.getcwd())
    refuse(kind, says, f"pool.path={pool}", "method=custom", f"method.target=bad_{name}:select")


def test_a_misspelt_parameter_is_found_before_any_work(run_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("good_filter.py").write_text(METHODS["good"])
    monkeypatch.syspath_prepend(os.getcwd())
    # The pool does not exist: nothing may look at it before the parameters are bound.
    refuse(
        ConfigError,
        "did you mean 'keep'",
        "pool.path=nowhere",
        "method=custom",
        "method.target=good_filter:select",
        "method.kep=0.2",
    )


@pytest.mark.parametrize(
    ("override", "kind", "says"),
    [
        ("pool.path=nowhere", ArtifactError, "nowhere"),
        ("eval.tasks=[cifar11]", ConfigError, "did you mean 'cifar10'"),
        ("eval.suite=v2", ConfigError, "v1"),
        ("eval.suite=v1", ConfigError, "setting eval.data_dir: suite v1 needs"),
        ("eval.data_dir=nowhere", ConfigError, "setting eval.data_dir: there is no folder nowhere"),
        ("eval.device=cuda:99", ConfigError, "setting eval.device"),
        ("train.device=gpu", ConfigError, "setting train.device: 'gpu' is no device; use auto, cpu or cuda:N"),
        ("subset=nothing.npy", ArtifactError, "nothing.npy"),
        ("method.fraction=0.3", ConfigError, "fraction"),
        (f"train.cache_dir={__file__}", ArtifactError, f"{__file__}: a file stands where a folder is needed"),
    ],
)
def test_a_bad_setting(run_in: Path, override: str, kind: type[HarnessError], says: str) -> None:
    # The pool does not exist: nothing may look at it before the settings are checked.
    refuse(kind, says, *([] if override.startswith("pool") else ["pool.path=none"]), override)


def unsorted(uids: uid.Uids) -> np.ndarray:
    return uids[::-1]


def foreign(uids: uid.Uids) -> np.ndarray:
    return uid.sort(np.concatenate([uids, np.array([(1, 2)], dtype=uid.UID_DTYPE)]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (unsorted, "sorted"),
        (foreign, uid.to_hex(np.array([(1, 2)], dtype=uid.UID_DTYPE))[0]),
        (lambda uids: uids[:0], "no uid"),
        (lambda uids: np.arange(5), "u8,u8"),
        (lambda uids: np.array([{"a": 1}], dtype=object), "npy"),
    ],
    ids=["unsorted", "foreign", "empty", "integers", "pickled"],
)
def test_a_bad_uid_file(pool: Path, change: Callable[[uid.Uids], np.ndarray], says: str) -> None:
    uids = harness.Pool.open(pool).uids()
    np.save("chosen.npy", change(uids), allow_pickle=True)
    sentence = refuse(ArtifactError, "chosen.npy", f"pool.path={pool}", "subset=chosen.npy")
    assert says in sentence


def test_a_parquet_without_a_needed_column(pool: Path) -> None:
    path = sorted((pool / "metadata").glob("*.parquet"))[0]
    pq.write_table(pq.read_table(path).drop_columns(["clip_l14_similarity_score"]), path)
    sentence = refuse(ArtifactError, "clip_l14_similarity_score", f"pool.path={pool}", "method=clip_score")
    assert path.name in sentence


def test_a_parquet_of_garbage(pool: Path) -> None:
    path = sorted((pool / "metadata").glob("*.parquet"))[0]
    path.write_bytes(b"not parquet at all")
    refuse(ArtifactError, path.name, f"pool.path={pool}", "method=clip_score")


@pytest.mark.slow
def test_broken_tars_are_left_out_by_name(pool: Path, mini_settings: list[str]) -> None:
    tar = sorted((pool / "shards").glob("*.tar"))[0]
    content = bytearray(tar.read_bytes())
    offset = content.find(b"\xff\xd8\xff")  # the first picture
    content[offset : offset + 64] = b"garbage!" * 8
    tar.write_bytes(content[: len(content) * 2 // 3 + 100])
    settings = [s for s in mini_settings if not s.startswith("pool.path")]
    harness.run(*settings, f"pool.path={pool}", "method=no_filter", "run_dir=r")
    sealed = harness.records.read_record(pool / "pool.json", "pool")
    assert 0 < sealed.payload["left_out"]["count"] < 640
    uids = np.load("r/uids.npy", allow_pickle=False)
    assert len(uids) == sealed.payload["samples"] < 640


def test_exit_codes_and_sentences_of_the_command(run_in: Path) -> None:
    for arguments, code, says in [
        (["scale=smal"], 2, "did you mean 'small'"),
        (["method=clip_scor"], 2, "did you mean 'clip_score'"),
        (["sed=1"], 2, "did you mean 'seed'"),
        (["method=custom", "method.target=nothing:select"], 3, "nothing"),
        (["subset=nothing.npy"], 5, "nothing.npy"),
    ]:
        done = command("harness.run", *arguments, cwd=run_in)
        assert done.returncode == code, done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr


FULL_DISK = """
import sys, harness.files
from harness.errors import HarnessError
real = harness.files.os.fsync
def full(handle):
    raise OSError(28, "No space left on device")
harness.files.os.fsync = full
import harness
try:
    harness.run(*sys.argv[1:])
except HarnessError as error:
    print(error.exit_code, error)
"""


def test_a_full_disk_leaves_nothing_half_written(pool: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "scale=tiny", f"pool.path={pool}", "run_dir=r"],
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert done.stdout.startswith("7 "), done.stdout + done.stderr
    assert "the disk is full" in done.stdout
    leftovers = [p for p in Path("r").rglob("*") if p.is_file() and p.name != ".lock"] if Path("r").exists() else []
    assert leftovers == []


def test_an_unwritable_run_dir(pool: Path) -> None:
    # Not even root makes folders there.
    with pytest.raises(InfraError, match="/sys/runs"):
        harness.run("scale=tiny", f"pool.path={pool}", "run_dir=/sys/runs/r")


def contents(folder: Path) -> dict[str, str]:
    """Path of every file below `folder` to the sha256 of its bytes."""
    return {str(path): files.sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_run_stage_by_stage_and_what_is_refused_on_it(
    pool: Path, mini_settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*(s for s in mini_settings if not s.startswith("pool.path")), f"pool.path={pool}", "seed=3"]
    settings += ["method=clip_score", "method.fraction=0.5"]
    with pytest.raises(ConfigError, match="setting run_dir: r holds no run"):
        train.command(["run_dir=r"])
    select.command([*settings, "run_dir=r"])
    reshard.command([f"pool.path={pool}", "subset=r/uids.npy", "out=r/shards"])
    train.command(["run_dir=r"])
    evaluate.command(["run_dir=r", "eval.batch_size=64"])
    entry.command(["pack", "r", "--out", "r/entry", "--name", "clip_score fraction 0.5"])
    harness.run(*settings, "run_dir=whole", "train.reading=mask")
    for name, kind in (("config", "config"), ("train/train", "train"), ("eval/evaluation", "evaluation")):
        assert read_record(f"r/{name}.json", kind).digest == read_record(f"whole/{name}.json", kind).digest

    make_pool(Path("other"), samples=64, seed=4)
    Path("bad_raises.py").write_text(METHODS["raises"])
    monkeypatch.syspath_prepend(os.getcwd())
    before = contents(Path("r"))
    mine = [text for text in settings if not text.startswith("method")]
    for stage, overrides, says in [
        (train.command, ["seed=1"], "made with seed=3, asked now for seed=1"),
        (train.command, ["scale=small"], r"made with scale.batch_size=128, asked now for scale.batch_size=4096"),
        (train.command, ["method.fraction=0.2"], r"method.params.fraction=0.5, asked now for .*=0.2"),
        (train.command, ["pool.holdout=8"], "holdout=0, asked now for holdout=8"),
        (train.command, ["method.fractoin=0.5"], "did you mean 'fraction'"),
        (train.command, ["pool.path=nowhere"], "nowhere"),
        (evaluate.command, ["suite=v1"], "made with suite=tiny, asked now for suite=v1"),
        (evaluate.command, ["eval.precision=amp"], "made with eval_precision=fp32"),
        (evaluate.command, ["tasks=[sun397]"], r"made with tasks=\['cifar10'"),
        (select.command, [*settings, "seed=1"], "made with seed=3, asked now for seed=1"),
        (select.command, [*mine, "method=no_filter"], "made with method.name=clip_score"),
        (select.command, [*settings, "pool.path=other"], r"made with pool.path \(digest\)"),
        (run, [*settings, "pool.path=other"], r"made with pool.path \(digest\)"),
        (run, [*settings, "eval.data_dir=nowhere"], "no folder nowhere"),
        (run, [*mine, "subset=r/uids.npy"], "made with method="),
        (run, [*mine, "method=custom", "method.target=bad_raises:select"], "made with "),
    ]:
        with pytest.raises(HarnessError, match=says):
            stage([*overrides, "run_dir=r"])
        assert contents(Path("r")) == before, overrides
    with pytest.raises(ConfigError, match="made with seed=3"):
        select.command([*settings, "seed=1", "out=r"])
    train.command([*settings, "run_dir=r"])
    evaluate.command(["run_dir=r", "tasks=[cifar10]"])
    harness.run(*settings, "run_dir=r")
    assert read_record("r/train/train.json").digest == read_record("whole/train/train.json").digest


def run(overrides: list[str]) -> None:
    harness.run(*overrides)


@pytest.mark.parametrize("places", [["out="], [], ["out=a.npy", "run_dir=b"]])
def test_a_choice_needs_one_place(run_in: Path, places: list[str]) -> None:
    """`out=$OUT` without such a variable must not write here."""
    with pytest.raises(ConfigError, match=r"^setting out: give out=FILE\.npy once"):
        select.command(["scale=tiny", "method=no_filter", *places])
    assert not list(run_in.iterdir())
