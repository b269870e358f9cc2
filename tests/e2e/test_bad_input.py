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

import harness
from harness import uid
from harness.errors import ArtifactError, ConfigError, HarnessError, InfraError, MethodError, PluginError, StageError

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


def test_a_plan_without_a_pool_says_how_to_make_it(run_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATACOMP_HARNESS_CACHE", str(run_in / "cache"))
    with pytest.raises(StageError) as caught:
        harness.run("scale=tiny", "dry_run=true")
    sentence = str(caught.value)
    assert "harness.make_pool out=" in sentence
    assert "harness.pool seal" in sentence
    assert not list((run_in / "cache").rglob("*.tar"))


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
        ("subset=nothing.npy", ArtifactError, "nothing.npy"),
        ("method.fraction=0.3", ConfigError, "fraction"),
    ],
)
def test_a_bad_setting(run_in: Path, override: str, kind: type[HarnessError], says: str) -> None:
    refuse(kind, says, override)


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
        timeout=120,
    )
    assert done.stdout.startswith("7 "), done.stdout + done.stderr
    assert "the disk is full" in done.stdout
    leftovers = [p for p in Path("r").rglob("*") if p.is_file() and p.name != ".lock"] if Path("r").exists() else []
    assert leftovers == []


def test_an_unwritable_run_dir(pool: Path) -> None:
    # Not even root makes folders there.
    with pytest.raises(InfraError, match="/sys/runs"):
        harness.run("scale=tiny", f"pool.path={pool}", "run_dir=/sys/runs/r")
