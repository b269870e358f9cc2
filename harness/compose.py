"""Composing a run's configuration: hydra's overrides in, a validated RunConfig out.

hydra is imported here and in run.py only. Unknown settings, scales and methods are answered with the nearest names
before hydra sees them; parameters of a method pass through, since its signature is what checks them.
"""

from collections.abc import Sequence
from functools import reduce
from operator import getitem
from textwrap import fill, indent
from typing import Any

from harness.config import MethodConfig, RunConfig, scale_names, setting_names, validated
from harness.errors import ConfigError, unknown_name
from harness.files import data_dir
from harness.selection import plugins

NO_METHOD = "no_filter"
"""The method where none is named (configs/config.yaml)."""
METHOD_KEYS = plugins.OWN_SETTINGS
PATHS = ("run_dir", "subset", "pool.path", "pool.seal_dir", "eval.data_dir")
"""Settings whose value is a path, whatever characters it has."""


def check_override(text: str, *, methods: Sequence[str], extra: Sequence[str] = ()) -> str:
    """One command-line override as hydra takes it; parameters of the method are let through (`++method.x=…`).

    Raises ConfigError with the nearest names for a setting, scale or method that does not exist.
    """
    key, equals, value = text.partition("=")
    bare = key.lstrip("+~")
    if not equals and not key.startswith("~"):
        raise ConfigError(f"argument {text!r} is not of the form setting=value")
    if bare.startswith("hydra") or bare in extra:
        return text
    if bare == "scale":
        _check_choices("scale", value, scale_names())
    elif bare == "method":
        _check_choices("method", value, methods)
    elif bare.startswith("method.") and bare.count(".") >= 1:
        return f"++{bare}={value}"
    elif bare not in setting_names():
        raise ConfigError(unknown_name("setting", bare, [*setting_names(), *extra]))
    return f"{key}={_quoted(bare, value)}" if bare in PATHS and equals else text


def _quoted(name: str, path: str) -> str:
    """`path` in quotes where hydra would read a number or not read it at all; its own syntax stays as it is."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    if path.startswith("~"):
        raise ConfigError(f"setting {name}: the shell leaves {path} as it is; write the path out, or $HOME for ~")
    if path.startswith(("'", '"')) or "," in path or "${" in path:
        return path
    try:
        plain = not isinstance(OverridesParser.create().parse_override(f"path={path}").value(), int | float)
    except HydraException:
        plain = False
    return path if plain else QuotedString(text=path, quote=Quote.single).with_quotes()


def _check_choices(noun: str, value: str, known: Sequence[str]) -> None:
    # A sweep lists its choices with commas; anything with brackets is hydra's own syntax and checked by it.
    if "(" not in value:
        for choice in value.split(","):
            if choice.strip() not in known:
                raise ConfigError(unknown_name(noun, choice.strip(), known))


def usage(text: str) -> str:
    """`text`, then the methods and scales and every setting with its default, as the files in configs/ explain them.

    hydra's own help takes seconds where a group has as many options as `method`, and leaves the comments out.
    """
    configs = data_dir("configs")
    # Paragraphs of config.yaml that hydra reads are no settings.
    own = [part for part in (configs / "config.yaml").read_text().strip().split("\n\n") if "hydra" not in part]
    groups = {"train": "train/default.yaml", "eval": "eval/default.yaml", "scale": "scale/tiny.yaml"}
    parts = [f"{name}:\n" + indent((configs / file).read_text().strip(), "  ") for name, file in groups.items()]
    return "\n\n".join([
        text.strip(), fill("method: " + ", ".join(_methods()), 120, subsequent_indent="  "),
        "method.target: package.module:function, with method=custom\n"
        "method.seed: 0         # of what a method draws; its parameters are method.NAME=value",
        "scale: " + ", ".join(scale_names()),
        "Settings and their defaults; what stands below `pool:` is given as pool.path=DIR:", *own, *parts,
        "`python -m harness.methods` tells what each method does and takes; --hydra-help lists hydra's own flags.",
    ])  # fmt: skip


def _methods() -> list[str]:
    return [*plugins.names(), "custom"]


def method_options() -> list[str]:
    """Names of the installed methods, and `custom`; each is made an option of hydra's group `method`."""
    from hydra.core.config_store import ConfigStore

    options = _methods()
    for name in options:
        ConfigStore.instance().store(group="method", name=name, node={"name": name, "target": None, "seed": 0})
    return options


def from_hydra(values: Any) -> RunConfig:
    """The composed OmegaConf tree as a validated RunConfig."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree: dict[str, Any] = OmegaConf.to_container(values, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(f"configuration: {error}") from error
    tree.pop("hydra", None)
    method = tree.get("method") or {}
    params = {key: value for key, value in method.items() if key not in METHOD_KEYS}
    tree["method"] = {key: method[key] for key in METHOD_KEYS if key in method} | {"params": params}
    return _coherent(validated(RunConfig, tree))


def _coherent(config: RunConfig) -> RunConfig:
    """`config`; ConfigError that names a setting which does not go together with the others."""
    config.method.require_target()
    if not config.byod and config.pool.weight != 1:
        raise ConfigError("setting pool.weight: weighs the pool against byod folders, and there are none")
    if config.byod and config.pool.holdout:
        raise ConfigError("setting pool.holdout: pairs are held out of a pool alone, not beside byod folders")
    if not config.uses_method and config.method != MethodConfig(name=NO_METHOD):
        parts = [f"method.{name}" for name in config.method.params] or ["method.seed"]
        name = parts[0] if config.method.name == NO_METHOD else "method"
        other = "pool.weight=0" if config.subset is None else f"subset={config.subset}"
        raise ConfigError(f"setting {name}: no method runs with {other}; leave out one of the two")
    if config.train.accumulate > config.scale.batch_size:
        raise ConfigError(
            f"setting train.accumulate: a batch of {config.scale.batch_size:,} has no more slices than that"
        )
    if config.intersect and config.subset is None:
        raise ConfigError("setting intersect: it is for a ready uid file; give subset=FILE with it")
    if config.subset is not None and not config.pool.weight:
        raise ConfigError("setting subset: with pool.weight=0 nothing is chosen from the pool")
    return config


def compose(overrides: Sequence[str]) -> RunConfig:
    """The configuration that `python -m harness.run OVERRIDES` would run with."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    methods = method_options()
    checked = [check_override(text, methods=methods) for text in overrides]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(data_dir("configs").absolute())):
            return from_hydra(hydra_compose("config", checked))
    except HydraException as error:
        raise ConfigError(hydra_sentence(error)) from error


def laid_over(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """`config` with the settings that `overrides` name as they say; its own scale or method named again stays as it is.

    Raises ConfigError for what does not exist or does not go together.
    """
    given, tree = compose(overrides).model_dump(), config.model_dump()
    for name in sorted({text.partition("=")[0].lstrip("+") for text in overrides}):
        first, _, rest = name.partition(".")
        path = [first, "params", rest] if first == "method" and rest and rest not in METHOD_KEYS else name.split(".")
        same = name in ("scale", "method") and given[name]["name"] == tree[name]["name"]
        if first in given and not same:  # nor hydra's own
            reduce(getitem, path[:-1], tree)[path[-1]] = reduce(getitem, path, given)
    return _coherent(validated(RunConfig, tree))


def hydra_sentence(error: Exception) -> str:
    """hydra's message on one line."""
    from hydra.errors import OverrideParseException

    said = "configuration: " + " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        said += "; a value with other characters than letters, digits and ._:/+- needs quotes: \"NAME='VALUE'\""
    return said
