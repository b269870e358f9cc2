"""Settings: composed by hydra, validated, locked, and clear about what is wrong."""

import json
import shutil
from pathlib import Path

import pytest

from harness import config
from harness.compose import check_override, compose, laid_over
from harness.config import RunConfig, load_scale, scale_names
from harness.errors import ConfigError
from harness.files import data_dir


def test_scales_are_locked() -> None:
    locked = json.loads((data_dir("configs") / "scale" / "locked.json").read_text())
    assert {name: load_scale(name).digest for name in scale_names()} == locked


@pytest.mark.parametrize(
    ("name", "samples", "batch", "steps", "lr", "warmup", "beta2", "model"),
    [
        ("small", 12_800_000, 4096, 3125, 5e-4, 500, 0.98, "ViT-B-32"),
        ("medium", 128_000_000, 4096, 31_250, 5e-4, 500, 0.98, "ViT-B-32"),
        ("large", 1_280_000_000, 8192, 156_250, 5e-4, 500, 0.98, "ViT-B-16"),
        ("xlarge", 12_800_000_000, 90_112, 142_046, 1e-3, 10_000, 0.95, "ViT-L-14"),
        ("debug", 128_000, 1024, 125, 1e-4, 500, 0.98, "ViT-B-32"),
    ],
)
def test_scales_are_the_references(
    name: str, samples: int, batch: int, steps: int, lr: float, warmup: int, beta2: float, model: str
) -> None:
    scale = load_scale(name)
    assert (scale.samples_seen, scale.batch_size, scale.steps) == (samples, batch, steps)
    assert (scale.lr, scale.warmup_steps, scale.beta2, scale.model) == (lr, warmup, beta2, model)
    assert (scale.beta1, scale.eps, scale.weight_decay, scale.precision) == (0.9, 1e-6, 0.2, "amp_bfloat16")


def test_composes_with_method_parameters() -> None:
    run = compose(["scale=small", "method=clip_score", "method.arch=b32", "method.fraction=0.2", "seed=3"])
    assert run.scale == load_scale("small")
    assert run.method.params == {"arch": "b32", "fraction": 0.2}
    assert (run.seed, run.unofficial, run.wandb) == (3, [], "off")


def test_overriding_the_recipe_is_allowed_and_named() -> None:
    run = compose(["scale.samples_seen=131072", "scale.lr=2e-3", "pool.holdout=1000"])
    assert run.unofficial == ["scale.samples_seen", "scale.lr", "pool.holdout"]


def test_an_edited_recipe_is_not_the_contests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(data_dir("configs"), tmp_path, dirs_exist_ok=True)
    edited = tmp_path / "scale" / "tiny.yaml"
    edited.write_text(edited.read_text().replace("lr: 1.0e-3", "lr: 2.0e-3"))
    monkeypatch.setattr(config, "data_dir", lambda _: tmp_path)
    assert config.locked_differences(load_scale("tiny")) == ["configs/scale/tiny.yaml"]
    assert config.locked_differences(load_scale("small")) == []


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("scale=smal", "did you mean 'small'"),
        ("method=clip_scor", "did you mean 'clip_score'"),
        ("sed=1", "did you mean 'seed'"),
        ("pool.pth=x", "did you mean 'pool.path'"),
        ("seed=-1", "seed"),
        ("seed=one", "seed"),
        (f"seed={2**64}", "setting seed"),
        ("train.accumulate=100000000000", "setting train.accumulate: a batch of 256 "),
        ("train.order=random", "train.order"),
        ("wandb=maybe", "wandb"),
        ("method=custom", "method.target"),
        ("intersect=true", "give subset=FILE"),
        ("scale.samples_seen=0", "scale.samples_seen"),
        ("seed", "setting=value"),
        ("scale.lr=[", "configuration"),
        ("method.texts=/home/müller/a.txt", "needs quotes: \"NAME='VALUE'\""),
        ("run_dir=~/runs", "write the path out, or $HOME for ~"),
    ],
)
def test_a_wrong_setting_is_named(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_machine_settings_do_not_change_the_identity() -> None:
    plain = compose([])
    assert compose(["train.workers=3", "wandb=offline", "eval.batch_size=8"]).identity == plain.identity
    assert compose(["seed=1"]).identity != plain.identity


def test_sweeps_check_every_choice() -> None:
    assert check_override("method=a,b", methods=["a", "b"]) == "method=a,b"
    with pytest.raises(ConfigError, match="'c'"):
        check_override("method=a,c", methods=["a", "b"])


def test_setting_names_cover_the_model() -> None:
    assert {"scale.lr", "method.target", "pool.path", "train.order", "eval.tasks", "run_dir"} <= set(
        config.setting_names()
    )
    assert set(RunConfig.model_fields) <= {name.split(".")[0] for name in config.setting_names()}


@pytest.mark.parametrize(
    "path", ["2024", "/home/müller/pool", "lr=1", "1e5", "true", "it's here", "a(b)", "x#y&z", "runs/[a]", "a\\'b\\"]
)
def test_a_path_is_taken_as_it_is(path: str) -> None:
    assert compose([f"run_dir={path}"]).run_dir == path
    assert compose([f"pool.path={path}"]).pool.path == path


def test_what_hydra_means_by_a_path_stays() -> None:
    assert compose(["run_dir=null"]).run_dir is None
    assert compose(["run_dir='2,024'"]).run_dir == "2,024"
    assert compose(["run_dir=runs/${seed}", "seed=3"]).run_dir == "runs/3"
    assert check_override("subset=a.npy,b.npy", methods=[]) == "subset=a.npy,b.npy"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["subset=a.npy", "method=clip_score"], "setting method: no method runs with subset=a.npy"),
        (["subset=a.npy", "method.fractoin=0.3"], "setting method.fractoin: no method runs"),
        (["subset=a.npy", "method.seed=1"], "setting method.seed: no method runs"),
        (["pool.weight=0", "byod=[{path: mine}]", "method=clip_score"], "setting method: no method runs with pool.w"),
    ],
)
def test_settings_of_a_method_that_would_not_run_are_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compose(overrides)


def test_settings_laid_over_others() -> None:
    run = compose(["scale.lr=1e-2", "method=clip_score", "method.fraction=0.3", "pool.path=p", "seed=2"])
    assert laid_over(run, ["scale=tiny", "method=clip_score", "method.fraction=0.3", "seed=2"]) == run
    now = laid_over(run, ["method.fraction=0.5", "train.gpus=2", "pool.path=q"])
    assert (now.method.params, now.train.gpus, now.pool.path) == ({"fraction": 0.5}, 2, "q")
    assert now.scale.lr == 1e-2
    assert laid_over(run, ["scale=small"]).scale == load_scale("small")
