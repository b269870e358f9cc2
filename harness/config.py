"""The configuration of a run: compose.py composes it with hydra, the models here validate it.

Everything under `scale` is the fixed recipe of the contest: overriding a value is allowed and makes the run
unofficial. Everything under `train` and `eval` but `train.order`, `eval.suite` and `eval.tasks` only says how
this machine does the work, and changes no result.
"""

import importlib.util
import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

from harness.errors import ConfigError, unknown_name
from harness.files import data_dir
from harness.records import StrictModel, digest_of, first_problem

Model = TypeVar("Model", bound=StrictModel)
Precision = Literal["fp32", "amp_bfloat16", "amp"]


class Scale(StrictModel):
    """The fixed recipe at one scale (DataComp paper, table 1 and appendix; facts in RULES.md)."""

    name: str
    samples_seen: int = Field(gt=0)
    """Image-text pairs fed to the model in all, repeats counted; equal to the size of the full pool."""
    model: str
    """open_clip model name, or the name of a JSON file in configs/model/."""
    batch_size: int = Field(gt=1)
    """Global batch, over all ranks and accumulation steps."""
    lr: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    warmup_steps: int = Field(ge=0)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    eps: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    """Applied to parameters with two or more dimensions."""
    precision: Precision
    checkpoints: int = Field(ge=1)
    """Number of checkpoints kept, after step round(i * steps / checkpoints) for i = 1…checkpoints."""
    suite: str
    """The task suite that scores this scale: tasks/suite_<suite>.yaml."""

    @property
    def steps(self) -> int:
        """Optimizer steps: ceil(samples_seen / batch_size); the last batch holds the remainder."""
        return -(-self.samples_seen // self.batch_size)

    @property
    def digest(self) -> str:
        """sha256 of all values; locked in configs/scale/locked.json."""
        return digest_of(self.model_dump())


class MethodConfig(StrictModel):
    """Which selection function runs, and with what."""

    name: str
    """A module of an installed method package, or `custom`."""
    target: str | None = None
    """`package.module:function` when name is custom."""
    seed: int = Field(default=0, ge=0)
    """Seed of the selection; training has its own."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""

    def require_target(self) -> None:
        """ConfigError if a custom method has no target, or another one has."""
        if self.name == "custom" and self.target is None:
            raise ConfigError("setting method.target: method=custom needs method.target=package.module:function")
        if self.name != "custom" and self.target is not None:
            raise ConfigError(f"setting method.target: only method=custom has a target, not method={self.name}")


class PoolAt(StrictModel):
    """A pool that is there, for the commands that work on one."""

    path: str = Field(min_length=1, description="folder (or URL) in CommonPool's layout")
    seal_dir: str | None = Field(default=None, description="where the sealed files are; null: the pool's folder")


class PoolConfig(StrictModel):
    """The pool to choose from."""

    path: str | None = Field(default=None, min_length=1)
    """A folder in CommonPool's layout; None: the generated pool of scale tiny, made and cached when first used."""
    seal_dir: str | None = None
    """Where pool.json, uids.npy and the tar index live; None: in the pool's own folder."""
    holdout: int = Field(default=0, ge=0)
    """Pairs taken out of the pool, the same for every run on it, and used as a retrieval task (unofficial)."""
    weight: int = Field(default=1, ge=0)
    """Beside byod folders: how often each chosen pair of the pool stands in the subset; 0 leaves the pool out."""


class ByodFolder(StrictModel):
    """A folder of one's own pairs, `<path>/shards/*.tar`, all of which are trained on."""

    path: str
    weight: int = Field(default=1, ge=1)
    """How often each of its pairs stands in the subset."""
    uids: Literal["own", "content"] | None = None
    """Taken from the samples' json, or made from picture and caption; None: as the folder is sealed, at first own."""
    seal_dir: str | None = None
    """As pool.seal_dir."""


class TrainConfig(StrictModel):
    """How this machine trains; only `order` changes the result, and is locked."""

    order: Literal["block_shuffle", "with_replacement"] = "block_shuffle"
    reading: Literal["auto", "mask", "reshard"] = "auto"
    """Read the pool's own tars with a mask, or reshard first; auto decides by the kept fraction."""
    device: str = "auto"
    gpus: int = Field(default=1, ge=1)
    """Processes on this node; more than one starts torchrun."""
    workers: int | None = Field(default=None, ge=0)
    """Loader processes per rank; None: as many as the machine's cores allow."""
    accumulate: int = Field(default=1, ge=1)
    """Slices a rank's batch is computed in when memory is short; same gradients."""
    grad_checkpointing: bool | None = None
    """None: on where a GPU trains, off on the CPU. Saves memory, and changes no number."""
    compile: bool = False
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    """A resumable snapshot is written this often."""
    cache_dir: str | None = None
    """A folder on this node's own disk for what is drawn from tars in an object store, two blocks of shards at a time;
    pools on a disk ignore it. None: every sample is fetched by itself."""


class EvalConfig(StrictModel):
    """Which tasks are evaluated, and how this machine does it."""

    data_dir: str | None = None
    """Folder of the task data; None: the generated stand-ins of scale tiny."""
    suite: str | None = None
    """None: the scale's own suite; another one is unofficial."""
    tasks: list[str] | None = None
    """Only these task keys; None: all of the suite. A part is an incomplete entry."""
    device: str = "auto"
    workers: int | None = Field(default=None, ge=0)
    batch_size: int = Field(default=256, ge=1)
    precision: Precision = "fp32"


class RunConfig(StrictModel):
    """Everything a run is made from; written to run_dir/config.json and read by every later stage."""

    scale: Scale
    method: MethodConfig
    subset: str | None = None
    """A ready uid file instead of a method."""
    intersect: bool = False
    """Leave out uids of `subset` that the pool does not hold, instead of refusing them."""
    pool: PoolConfig = PoolConfig()
    byod: list[ByodFolder] = Field(default=[], max_length=1000)
    """Data from elsewhere, mixed with what is chosen from the pool: the run is one of the byod track."""
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Training seed: initial weights, order, augmentation."""
    run_dir: str | None = None
    dry_run: bool = False
    wandb: Literal["off", "online", "offline"] = "off"
    executor: Literal["local", "ray"] = "local"

    @field_validator("byod")
    @classmethod
    def _each_once(cls, folders: list[ByodFolder]) -> list[ByodFolder]:
        paths = [folder.path if "://" in folder.path else os.path.normpath(folder.path) for folder in folders]
        for number, path in enumerate(paths):
            if path in paths[:number]:
                raise ValueError(f"{path} stands there twice; name it once, with a greater weight")
        return folders

    @field_validator("wandb", mode="before")
    @classmethod
    def _yaml_off(cls, value: object) -> object:
        return "off" if value is False else value

    @property
    def uses_method(self) -> bool:
        """True if a method chooses from the pool: there is no ready uid file, and the pool is not left out."""
        return self.subset is None and self.pool.weight > 0

    @property
    def weights(self) -> dict[str, int]:
        """Of a byod run: the weight of each source by its name, in the order in which they are put side by side."""
        own = {"pool": self.pool.weight} if self.pool.weight else {}
        return own | {f"byod-{number}": folder.weight for number, folder in enumerate(self.byod, 1)}

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that determine the result; two runs with equal identities and inputs give equal records."""
        # Runs of the filtering track do not name the sources, so their records are what they were without byod.
        sources = {"sources": self.weights} if self.byod else {}
        return {
            **sources,
            "scale": self.scale.model_dump(),
            "method": self.method.model_dump() if self.uses_method else None,
            "holdout": self.pool.holdout,
            "order": self.train.order,
            "suite": self.eval.suite or self.scale.suite,
            "tasks": self.eval.tasks,
            "eval_precision": self.eval.precision,
            "seed": self.seed,
        }

    @property
    def unofficial(self) -> list[str]:
        """The settings that differ from the locked protocol, by name; empty for a run that can be ranked."""
        names = locked_differences(self.scale)
        if self.pool.holdout:
            names.append("pool.holdout")
        if self.train.order != "block_shuffle":
            names.append("train.order")
        if self.eval.suite not in (None, self.scale.suite):
            names.append("eval.suite")
        if self.eval.precision != "fp32":
            names.append("eval.precision")
        return names


def scale_names() -> list[str]:
    """Names of the scales in configs/scale/."""
    return sorted(path.stem for path in (data_dir("configs") / "scale").glob("*.yaml"))


OTHER_WORDS = frozenset(("hf_tokenizer_name", "tokenizer_kwargs"))
"""What the `text_cfg` of a model says if its tokenizer is not CLIP's own."""


@cache
def model_names() -> list[str]:
    """Names of the models: those of configs/model/, and open_clip's own with its own text tower and CLIP's tokenizer.

    open_clip would follow other names (`hf-hub:owner/repo`, `local-dir:path`, towers of the hub) to where they point.
    It is not imported: that takes torch.
    """
    package = importlib.util.find_spec("open_clip")
    folders = [Path(place) / "model_configs" for place in (package and package.submodule_search_locations) or ()]
    files = [path for folder in (*folders, data_dir("configs") / "model") for path in folder.glob("*.json")]
    texts = {path.stem: json.loads(path.read_text()).get("text_cfg", {}) for path in files}
    return sorted(name for name, text in texts.items() if "context_length" in text and not text.keys() & OTHER_WORDS)


def load_scale(name: str) -> Scale:
    """The locked recipe of scale `name`; ConfigError with the nearest names if there is none."""
    import yaml

    path = data_dir("configs") / "scale" / f"{name}.yaml"
    if name not in scale_names():
        raise ConfigError(unknown_name("scale", name, scale_names()))
    return validated(Scale, yaml.safe_load(path.read_text()), prefix="scale.")


def locked_differences(scale: Scale) -> list[str]:
    """Names `scale.x` of the values that differ from the locked recipe of that scale's name.

    Where the recipe's own file is not the one whose digest is locked, its name.
    """
    if scale.name not in scale_names():
        return ["scale.name"]
    recipe = load_scale(scale.name)
    if recipe.digest != json.loads((data_dir("configs") / "scale" / "locked.json").read_text()).get(scale.name):
        return [f"configs/scale/{scale.name}.yaml"]
    locked = recipe.model_dump()
    return [f"scale.{key}" for key, value in scale.model_dump().items() if value != locked[key]]


def validated(model: type[Model], values: Any, *, prefix: str = "") -> Model:
    """`values` as `model`; ConfigError that names the first setting that does not fit."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"setting {prefix}{first_problem(error)}") from error


def setting_names() -> list[str]:
    """All settings of a run, dotted, except the parameters of the method."""
    names = []
    for key, field in RunConfig.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, StrictModel):
            names += [f"{key}.{name}" for name in inner.model_fields if (key, name) != ("method", "params")]
        else:
            names.append(key)
    return sorted([*names, "scale", "method"])
