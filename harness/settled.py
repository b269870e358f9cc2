"""The settings of a run folder: config.json, written once by its first command and read by every later one."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import files
from harness.compose import laid_over
from harness.config import RunConfig, validated
from harness.errors import ConfigError
from harness.pool.sealed import SealedPool
from harness.provenance import provenance
from harness.records import PROTOCOL, Record, read_record, write_record
from harness.selection import plugins

FILE = "config.json"


def settle(run_dir: Path, config: RunConfig, sealed: SealedPool, method: plugins.Method | None) -> None:
    """Write run_dir/config.json, or check that the one there was made with the same settings and inputs.

    Raises ConfigError that names the first setting that differs.
    """
    inputs = {"pool": sealed.digest}
    if method is not None:
        inputs["method"] = plugins.source_digest(method, plugins.bind(method, config.method.params))
    elif config.subset is not None:
        inputs["subset"] = files.sha256_file(config.subset)
    if (run_dir / FILE).exists():
        require_settings(run_dir, config)
        _require_same(run_dir, {"inputs": read_record(run_dir / FILE, "config").inputs}, {"inputs": inputs})
        return
    record = Record(
        kind="config", inputs=inputs, payload=_payload(config), provenance=provenance(settings=config.model_dump())
    )
    write_record(run_dir / FILE, record)


def read_settings(run_dir: Path) -> RunConfig:
    """The settings that the run in `run_dir` was started with; ArtifactError or ConfigError if there is none."""
    if not (run_dir / FILE).exists():
        raise ConfigError(
            f"setting run_dir: {run_dir} holds no run; `python -m harness.select … run_dir={run_dir}` starts one, "
            "and harness.run does all of it"
        )
    return validated(RunConfig, read_record(run_dir / FILE, "config").provenance.get("settings"))


def resumed(run_dir: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The settings of the run in `run_dir` with what `overrides` name laid over them.

    Raises ConfigError that names the first setting which would make it another run.
    """
    before = read_settings(run_dir)
    config = laid_over(before, overrides) if overrides else before
    if config.uses_method and config.method != before.method:
        config = config.model_copy(update={"method": plugins.bound(config.method)[0]})
    require_settings(run_dir, config)
    if config.subset is not None and config.subset != before.subset:
        require_input(run_dir, "subset", files.sha256_file(config.subset))
    return config


def require_settings(run_dir: Path, config: RunConfig) -> None:
    """ConfigError that names the first setting of `config` in which the run in `run_dir` differs."""
    old = read_record(run_dir / FILE, "config")
    now = {"protocol": PROTOCOL, "payload": _payload(config)}
    _require_same(run_dir, old.model_dump(include={"protocol", "payload"}), now)


def require_input(run_dir: Path, name: str, digest: str) -> None:
    """ConfigError if input `name` of the run in `run_dir` has another digest."""
    old = read_record(run_dir / FILE, "config").inputs
    _require_same(run_dir, {"inputs": {name: old.get(name)}}, {"inputs": {name: digest}})


def _payload(config: RunConfig) -> dict[str, Any]:
    return {**config.identity, "unofficial": config.unofficial}


def _require_same(run_dir: Path, old: dict[str, Any], now: dict[str, Any]) -> None:
    for name, before, asked in _differences(old, now):
        raise ConfigError(
            f"{run_dir}: made with {name}={before}, asked now for {name}={asked}; "
            "choose another run_dir, or take the old setting to go on"
        )


_INPUT_NAMES = {
    "inputs.pool": "pool.path (digest)",
    "inputs.method": "method.target (source)",
    "inputs.subset": "subset",
}


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield _INPUT_NAMES.get(path, path.removeprefix("payload.")), _brief(old), _brief(new)


def _brief(value: Any) -> Any:
    return value[:12] if isinstance(value, str) and len(value) == 64 else value
