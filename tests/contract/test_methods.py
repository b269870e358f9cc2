"""What every registered selection method must do, whatever it chooses."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from metadata_pool import WIDTHS, write_file, write_metadata
from waiting import LONG

from harness import Pool, executor, uid
from harness.config import MethodConfig, load_scale
from harness.methods import describe
from harness.pool import view
from harness.records import read_record
from harness.selection import plugins, run

PARAMS: dict[str, dict[str, Any]] = {
    "intersect": {"of": ["clip_score", {"name": "random_subset", "fraction": 0.9}]},
    "union": {"of": ["clip_score", {"name": "random_subset", "size": 3}]},
    "image_based": {"clusters": 3},
    "cluster_bandit": {"clusters": 3},
    "cluster_mixture": {"candidate": 1, "candidates": 9, "clusters": 3},
    "dp4tl": {"clusters": 3},
    "image_based_intersect_clip_score": {"clusters": 3, "fraction": 0.9},
}
"""Parameters for methods that need some, or that need small ones on a small pool."""
WORDS = {"fraction", "threshold"}
"""Parameters that the sentence on what is kept explains by itself."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_metadata(tmp_path_factory.mktemp("pool"), (60, 50, 0, 40))
    (folder / "targets").mkdir()
    targets = np.random.default_rng(0).normal(size=(20, WIDTHS["l14_img"])).astype(np.float16)
    np.savez(folder / "targets" / "train.npz", l14_img=targets, label=np.zeros(20, np.int64))
    uids = uid.to_hex(Pool.open(folder).uids())
    write_file(folder / "duplicates.parquet", {"uid": uids, "near": [uids[0]] * 2 + uids[2:], "exact": uids})
    return folder


@pytest.mark.parametrize("name", plugins.names())
def test_a_method_is_described_and_takes_its_parameters_by_name(name: str) -> None:
    method = plugins.resolve(MethodConfig(name=name))
    described = describe(name)
    assert described.doc.endswith((".", ").")) and described.text.startswith(described.doc)
    assert all(f"`{parameter}`" in described.text for parameter in method.parameters.keys() - WORDS)
    assert [text.split("=")[0] for text in described.parameters] == list(method.parameters)
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in method.parameters.values())
    plugins.bind(method, PARAMS.get(name, {}))
    # `method.NAME` of these is a setting of the selection, which would never reach the method.
    assert not set(MethodConfig.model_fields) & set(method.parameters)


def chosen(name: str, folder: Path, out: Path, workers: int | Literal["ray"]) -> str:
    """The digest of what the method chooses, written to `out`."""
    config = MethodConfig(name=name, params=PARAMS.get(name, {}))
    work = executor.get("ray") if workers == "ray" else executor.local(workers)
    try:
        pool = Pool.open(folder, executor=work)
        subset = run.select(
            plugins.resolve(config), config, pool=pool, scale=load_scale("tiny"), out=out, executor=work
        )
    finally:
        work.close()
    assert 0 < len(subset) <= len(pool) and pool.contains(subset.uids).all()
    return read_record(out / "subset.json", "subset").digest


@pytest.mark.parametrize("name", plugins.names())
def test_a_method_chooses_a_part_of_the_pool(name: str, folder: Path, tmp_path: Path) -> None:
    assert chosen(name, folder, tmp_path / "a", workers=1) == chosen(name, folder, tmp_path / "b", workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", plugins.names())
def test_a_method_chooses_the_same_part_however_many_work(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = chosen(name, folder, tmp_path / "1", workers=1)
    monkeypatch.setattr(view, "INLINE_ROWS", 0)
    assert chosen(name, folder, tmp_path / "2", workers=2) == alone


@pytest.mark.slow
def test_all_methods_choose_the_same_part_on_ray(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
import ray
import test_methods as methods
methods.view.INLINE_ROWS = 0
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
for name in methods.plugins.names():
    print(name, methods.chosen(name, Path({str(folder)!r}), Path({str(tmp_path)!r}) / "ray" / name, workers="ray"))
ray.shutdown()
"""
    # In a process of its own: Ray's start-up warns, and its threads would outlive the test.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LONG)
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found.keys() == set(plugins.names()), done.stderr
    assert found == {name: chosen(name, folder, tmp_path / "local" / name, workers=1) for name in found}
