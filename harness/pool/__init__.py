"""The pool: what there is to choose from."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.pool.view import Pool

__all__ = ["Pool"]


def __getattr__(name: str) -> Any:
    if name == "Pool":
        from harness.pool.view import Pool

        return Pool
    raise AttributeError(f"module 'harness.pool' has no attribute {name!r}")
