"""Finding methods: by name among installed packages, or by `package.module:function`.

A package with methods declares one entry point of the group `datacomp_harness.methods` that names it; every
public module directly in it is a method, and its function `select` is what runs. Listing names reads no module.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import traceback
import typing
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from harness.config import MethodConfig
from harness.errors import ArtifactError, ConfigError, HarnessError, PluginError, unknown_name
from harness.records import Json, canonical_json
from harness.selection import source

GROUP = "datacomp_harness.methods"
FUNCTION = "select"
OWN_SETTINGS = ("name", "target", "seed")
"""What stands in the group `method` of a run's settings beside the method's parameters."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A selection function that was found and can be called as one."""

    name: str
    """Module name, or the target of a custom method."""
    module: str
    """The module that it was found in."""
    function: Callable[..., Any]
    parameters: dict[str, inspect.Parameter]
    """What it takes beside `pool` and `ctx`."""
    source_digest: str
    """sha256 (hex) of the source files of its module and of what that imports, other than installed packages."""


class BoundPart(dict[str, Any]):
    """A method among the parameters of another: its name (and target) and all of its parameters, checked."""

    @property
    def config(self) -> MethodConfig:
        """The same as settings."""
        params = dict(self)
        return MethodConfig(name=params.pop("name"), target=params.pop("target", None), params=params)


def sources() -> dict[str, tuple[str, str]]:
    """Name of every installed method: (module, file), without importing the modules.

    Raises PluginError for a package that is declared and not there, ConfigError for a name that two packages offer.
    """
    found: dict[str, tuple[str, str]] = {}
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        for name, origin in _modules(entry):
            module = f"{entry.value}.{name}"
            if found.get(name, (module,))[0] != module:
                raise ConfigError(
                    f"method {name!r} is offered twice, by {found[name][0]} and by {module}; uninstall one of them"
                )
            found[name] = (module, origin)
    return dict(sorted(found.items()))


def _modules(entry: metadata.EntryPoint) -> list[tuple[str, str]]:
    try:
        spec = importlib.util.find_spec(entry.value)
    except Exception as error:
        raise PluginError(f"{_origin(entry)}: importing package {entry.value!r} raised {error!r}") from error
    if spec is None or spec.submodule_search_locations is None:
        raise PluginError(f"{_origin(entry)}: there is no package {entry.value!r}; mend it or uninstall it")
    modules = []
    for info in pkgutil.iter_modules(spec.submodule_search_locations):
        if not info.name.startswith("_"):
            module = info.module_finder.find_spec(info.name, None)
            modules.append((info.name, str(module.origin if module else "")))
    return modules


def _origin(entry: metadata.EntryPoint) -> str:
    return f"entry point {entry.name!r} of {entry.dist.name if entry.dist else 'an unknown distribution'}"


def names() -> list[str]:
    """Names of the installed methods, sorted; none of their modules is imported."""
    return list(sources())


def resolve(config: MethodConfig) -> Method:
    """The method that `config` names. Its module is imported.

    Raises ConfigError for an unknown name, PluginError if the module does not import or has no fitting function.
    """
    config.require_target()
    if config.name == "custom":
        module, colon, function = (config.target or "").partition(":")
        if not (module and colon and function):
            raise ConfigError(f"setting method.target: {config.target!r} is not of the form package.module:function")
        if module == "__main__":
            raise ConfigError("setting method.target: a method's source is recorded; write it into a module of its own")
        if "/" in module or not all(module.split(".")):
            raise ConfigError(
                f"setting method.target: {module!r} is not the name of a module (package.module, no path)"
            )
        if module.endswith(".py"):
            name = f"{module.removesuffix('.py')}:{function}"
            raise ConfigError(f"setting method.target: {module!r} is the name of a file; write {name}")
        return _load(str(config.target), module, function)
    known = sources()
    if config.name not in known:
        raise ConfigError(unknown_name("method", config.name, [*known, "custom"]))
    return _load(config.name, known[config.name][0], FUNCTION)


def _load(name: str, module_name: str, function_name: str) -> Method:
    try:
        found = source.read(module_name)
        source.forget_changed(found)
        module = importlib.import_module(module_name)
    except HarnessError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        away = isinstance(error, ModuleNotFoundError) and error.name == module_name
        hint = "; run the command in the module's folder, or install its package" if away else ""
        wrapped = PluginError(
            f"method {name}: module {module_name} does not import: {type(error).__name__}: {error}{hint}"
        )
        if not away:
            wrapped.add_note(traceback.format_exc())
        raise wrapped from error
    function = getattr(module, function_name, None)
    if not callable(function):
        there = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        near = difflib.get_close_matches(function_name, there, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise PluginError(
            f"method {name}: module {module_name} ({module.__file__}) has no function {function_name!r}{hint}"
        )
    return Method(
        name=name,
        module=module_name,
        function=function,
        parameters=_parameters(name, function),
        source_digest=source.digest(found),
    )


def _parameters(name: str, function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters beside `pool` and `ctx`; PluginError if the function cannot be called as a method."""
    wanted = "def select(pool, /, *, ctx, **parameters)"
    try:
        signature = inspect.signature(function, eval_str=False)
    except (TypeError, ValueError) as error:
        raise PluginError(f"method {name}: its function has no signature; a method is `{wanted}`") from error
    parameters = list(signature.parameters.values())
    kinds = inspect.Parameter
    if not parameters or parameters[0].kind not in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD):
        raise PluginError(f"method {name}: its function takes no pool as first argument; a method is `{wanted}`")
    rest = {p.name: p for p in parameters[1:]}
    catches_all = any(p.kind is kinds.VAR_KEYWORD for p in rest.values())
    if "ctx" not in rest and not catches_all:
        raise PluginError(f"method {name}: its function takes no argument `ctx`; a method is `{wanted}`")
    for parameter in rest.values():
        if parameter.kind is kinds.POSITIONAL_ONLY or (parameter.kind is kinds.VAR_POSITIONAL):
            raise PluginError(
                f"method {name}: argument {parameter.name!r} cannot be given by name; a method is `{wanted}`"
            )
        if parameter.name in OWN_SETTINGS:
            raise PluginError(
                f"method {name}: method.{parameter.name} is a setting of the selection itself and would not reach "
                f"the function; call argument {parameter.name!r} something else"
                + (" or draw from ctx.rng, which method.seed seeds" if parameter.name == "seed" else "")
            )
    rest.pop("ctx", None)
    return rest


def bind(method: Method, params: dict[str, Any]) -> dict[str, Any]:
    """All arguments of `method` beside pool and ctx: `params` checked against its annotations, and its defaults.

    Raises ConfigError that names the parameter: unknown (with the nearest names), missing, or of the wrong type.
    """
    known = {name: p for name, p in method.parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
    catches_all = len(known) < len(method.parameters)
    for name in params:
        if name not in known and not catches_all:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else f"; it has {', '.join(known) or 'none'}"
            raise ConfigError(f"method {method.name} has no parameter {name!r}{hint}")
    types = _types(method.function)
    bound: dict[str, Any] = {}
    for name, parameter in known.items():
        if name in params:
            bound[name] = _checked(method, parameter, params[name], types.get(name))
        elif parameter.default is inspect.Parameter.empty:
            raise ConfigError(f"method {method.name} needs parameter {name!r}: give method.{name}=VALUE")
        else:
            bound[name] = parameter.default
    return bound | {name: value for name, value in params.items() if name not in known}


def bound(config: MethodConfig) -> tuple[MethodConfig, Method]:
    """`config` with all the parameters of its method, as they are recorded, and the method itself."""
    method = resolve(config)
    return config.model_copy(update={"params": recorded(method, bind(method, config.params))}), method


def recorded(method: Method, params: dict[str, Any]) -> dict[str, Json]:
    """The bound `params` as a record holds them; binding them again gives the same arguments.

    Raises ConfigError that names the parameter which JSON cannot hold.
    """
    plain = {}
    for name, value in params.items():
        try:
            plain[name] = _json(value)
            canonical_json(plain[name])
        except (ValueError, ArtifactError) as error:
            raise ConfigError(
                f"method {method.name}, parameter {name}={value!r}: cannot be recorded; take a text, a finite number, "
                "true, false, null, or a list or mapping of such"
            ) from error
    return plain


def _json(value: Any) -> Json:
    """A tuple as a list, a set as a sorted one, a path or a member of an Enum as its text, a number of numpy as one."""
    if isinstance(value, dict):
        return {str(key): _json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(map(_json, value), key=canonical_json)
    return _json(value.tolist()) if hasattr(value, "tolist") else to_jsonable_python(value)


def source_digest(method: Method, params: dict[str, Any]) -> str:
    """sha256 (hex) of the source that decides what `method` with the `params` that `bind` gave chooses.

    That of the methods among its parameters (harness.selection.combine) belongs to it.
    """
    lists = [value for value in params.values() if isinstance(value, list)]
    parts = [part.config for value in lists for part in value if isinstance(part, BoundPart)]
    if not parts:
        return method.source_digest
    state = hashlib.sha256(method.source_digest.encode())
    for part in parts:
        state.update(source_digest(resolve(part), part.params).encode())
    return state.hexdigest()


def _types(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - annotations of a stranger may name anything; then types are not checked
        return {}


def _checked(method: Method, parameter: inspect.Parameter, value: Any, annotation: Any) -> Any:
    name = parameter.name
    try:
        adapter = TypeAdapter(annotation) if annotation is not None else None
    except (PydanticUserError, TypeError):
        adapter = None
    if adapter is None:
        return parameter.default if _is_record_of(parameter.default, value) else value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(
            str(part) for part in (name, *problem["loc"]) if not str(part).startswith(("function-", "list["))
        )
        raise ConfigError(f"method {method.name}, parameter {where}={value!r}: {problem['msg']}") from error


def _is_record_of(default: Any, value: Any) -> bool:
    try:
        return canonical_json(_json(default)) == canonical_json(value)
    except (ValueError, ArtifactError):
        return False
