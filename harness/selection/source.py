"""The source of a method: its module and what that imports, so that a changed one is told from the one that ran."""

import ast
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
import time
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

_STARTED = time.time()
_loaded: dict[str, str] = {}
"""sha256 (hex) of the source that the modules of methods in this process were imported from, by module name."""


def read(module_name: str) -> dict[str, str]:
    """sha256 (hex) of the source of a module and of what it imports, at any remove, by module name.

    Left out are the standard library, the harness, and packages that are installed, except the module's own.
    """
    found: dict[str, str] = {}
    own = {_top(module_name): True}
    todo = [module_name]
    while todo:
        name = todo.pop()
        if _top(name) not in own:
            own[_top(name)] = _is_own(_top(name))
        if name not in found and own[_top(name)] and (path := _file(name)) is not None:
            content = path.read_bytes()
            found[name] = hashlib.sha256(content).hexdigest()
            todo += _imported(name, path, content)
    return found


def digest(source: dict[str, str]) -> str:
    """sha256 (hex) over what `read` gives."""
    return hashlib.sha256("".join(f"{name} {one}\n" for name, one in sorted(source.items())).encode()).hexdigest()


def forget_changed(source: dict[str, str]) -> None:
    """Have modules imported anew where one of them was imported from another source than it has now."""
    if any(name in sys.modules and _is_changed(name, digest) for name, digest in source.items()):
        tops = {_top(name) for name in source} - {_top(__name__)}
        for name in [name for name in sys.modules if _top(name) in tops]:
            del sys.modules[name]
            _loaded.pop(name, None)
        importlib.invalidate_caches()
    _loaded.update(source)


def _is_changed(name: str, digest: str) -> bool:
    if name in _loaded:
        return _loaded[name] != digest
    # Imported by somebody else, who knows from what: it is as it was unless it was written since.
    path = _file(name)
    return path is not None and path.stat().st_mtime > _STARTED


def _top(module_name: str) -> str:
    return module_name.split(".")[0]


def _is_own(top: str) -> bool:
    """True if the top module `top` is a participant's file: neither the harness, nor Python's, nor installed."""
    spec = None if top == _top(__name__) else _spec(top)
    if spec is None:
        return False
    places = map(Path, [spec.origin] if spec.has_location and spec.origin else spec.submodule_search_locations or ())
    library = Path(sysconfig.get_path("stdlib"))
    return any(library not in p.parents and not {"site-packages", "dist-packages"} & set(p.parts) for p in places)


def _imported(name: str, path: Path, content: bytes) -> set[str]:
    """Names that module `name` may import: modules and names in modules, and its parents."""
    if path.suffix != ".py":
        return set()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # told where it is imported; nothing behind it can be
        return set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    parents = name.split(".")
    found = {".".join(parents[:i]) for i in range(1, len(parents))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else None
            origin = base or node.module or ""
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return found - {"", name}


def _file(module_name: str) -> Path | None:
    """The source file of a module; None for what is none, such as a function's name."""
    spec = _spec(module_name)
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _spec(module_name: str) -> ModuleSpec | None:
    """Where a module lies, without importing it or its parents."""
    first, *rest = module_name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError, AttributeError):
        return None
    for place in range(len(rest)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join([first, *rest[: place + 1]]), spec.submodule_search_locations)
    return spec
