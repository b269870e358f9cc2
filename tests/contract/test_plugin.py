"""A stranger's package of methods, installed for real."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from metadata_pool import write_metadata

PLUGIN = Path(__file__).parent.parent / "plugin"

RUN = """
import json, sys
from pathlib import Path
from harness import Pool, executor
from harness.config import MethodConfig, load_scale
from harness.selection import plugins, run

pool_path, out, name, params = sys.argv[1:]
config = MethodConfig(name=name, params=json.loads(params))
method = plugins.resolve(config)
work = executor.local(1)
pool = Pool.open(pool_path, executor=work)
subset = run.select(method, config, pool=pool, scale=load_scale("tiny"), out=Path(out), executor=work)
print(json.dumps({"size": len(subset), "distinct": subset.distinct, "pool": len(pool)}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample package installed in it by pip (or uv, where the environment has no pip)."""
    folder = tmp_path_factory.mktemp("site")
    source = folder / "source"
    shutil.copytree(PLUGIN, source)
    has_pip = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if not has_pip and uv is None:
        pytest.skip("neither pip nor uv is in this environment")
    installer = [sys.executable, "-m", "pip"] if has_pip else [str(uv), "pip"]
    options = ["--no-deps", "--quiet", "--target", str(folder / "packages")]
    if importable("hatchling"):
        # No index is asked for what is here already.
        options.append("--no-build-isolation")
    done = subprocess.run([*installer, "install", *options, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "packages"


def importable(name: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True).returncode == 0


def python(site: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


def test_its_methods_are_listed(site: Path) -> None:
    done = python(site, "-m", "harness.methods")
    assert done.returncode == 0, done.stderr
    assert (
        "long_captions\n    Keep captions of at least so many words.\n    parameters: words_at_least=5" in done.stdout
    )
    assert "weighted\n" in done.stdout and "_words" not in done.stdout and "clip_score\n" in done.stdout


def test_its_methods_run(site: Path, tmp_path: Path) -> None:
    pool = write_metadata(tmp_path / "pool", (40, 20), features=False)
    for name, params in {"long_captions": {"words_at_least": 6}, "weighted": {"times": 4}}.items():
        done = python(site, "-c", RUN, str(pool), str(tmp_path / name), name, json.dumps(params))
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert 0 < found["distinct"] < found["pool"]
        assert (found["size"] > found["distinct"]) == (name == "weighted")


def test_its_mistyped_parameter_is_named(site: Path, tmp_path: Path) -> None:
    pool = write_metadata(tmp_path / "pool", (4,), features=False)
    done = python(site, "-c", RUN, str(pool), str(tmp_path / "out"), "long_captions", '{"words_atleast": 6}')
    assert "method long_captions has no parameter 'words_atleast' (did you mean 'words_at_least'?)" in done.stderr
