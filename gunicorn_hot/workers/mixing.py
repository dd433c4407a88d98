"""A hot worker out of somebody's subclass of a worker that has a hot twin.

The twin is put between that subclass and the stock class, as if the subclass had been derived from the twin. So what it
overrides goes on working as long as it is cooperative: calls `super()`. Where it is not, the twin would never hear of
an accept or a request, and the class is better left as it is, with a gate before it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any

#: What a subclass may replace: the twin does not depend on it.
_FREE = ("handle_exit", "is_parent_alive", "notify")


def mixed(worker_class: type[Any], twin: type[Any]) -> type[Any]:
    """Return the hot class: `worker_class`, and `twin` in front of what both are derived from.

    Raises TypeError when Python cannot combine the two."""
    return type(f"Hot{worker_class.__name__}", (worker_class, twin), {"__module__": worker_class.__module__})


def obstacle(worker_class: type[Any], twin: type[Any], stock: type[Any]) -> str | None:
    """Say why `worker_class`, a subclass of `stock`, cannot have the twin's behaviour; None if it can."""
    ours = {
        name for c in twin.__mro__ if c not in stock.__mro__ for name in vars(c)
        if name not in _FREE and (name == "__init__" or not name.startswith("__"))
    }
    for name, value in _overridden(worker_class, stock):
        is_data = not callable(value) and not hasattr(value, "__get__")
        if name in twin.bypasses:
            return f"it overrides {name}"
        if name not in ours:
            continue
        if not hasattr(stock, name):
            return f"it has a {name} of its own"
        if not is_data and not _calls_super(value, name):
            return f"its {name} does not call super().{name}"
    return None


def _overridden(worker_class: type[Any], stock: type[Any]) -> Iterator[tuple[str, Any]]:
    """Yield what the classes before `stock` define, with their mixins."""
    for c in worker_class.__mro__:
        if c not in stock.__mro__:
            yield from vars(c).items()


def _calls_super(value: Any, name: str) -> bool:
    """Whether a function calls super().<name>, as far as its code tells."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    code = getattr(inspect.unwrap(value), "__code__", None) if callable(value) else None
    return isinstance(code, CodeType) and any({"super", name} <= set(c.co_names) for c in _codes(code))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
