"""Imports that happen at the first use: a command answers `--help` and wrong flags without JAX.

Modules, functions and classes can be imported late; constants cannot, nor can a class that is derived
from or caught by `except`. A file with late classes in its annotations needs
`from __future__ import annotations`. (Python 3.15 brings `lazy import` for this, PEP 810.)

>>> with late():
...     import jax
...     from . import runs
>>> jax.devices()  # imports it
"""

import builtins
import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

_opened = 0  # the number of `late` blocks that are running


class Late:
    """Stands for a module, or for a name in it, until it is used."""

    def __init__(self, module: str, *names: str) -> None:
        self._real: Any
        self._late, self._real = (module, *names), None

    def __getattr__(self, name: str) -> Any:
        if (
            _opened
        ):  # `import a.b as c` and `from a import b` take their names from what they import
            return Late(*self._late, name)
        return getattr(real(self), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return real(self)(*args, **kwargs)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, real(self))

    def __repr__(self) -> str:
        return f"<late import of {'.'.join(self._late)}>"


def real(value: Any) -> Any:
    """What a late import stands for; any other value is returned as it is."""
    if not isinstance(value, Late):
        return value
    if value._real is None:
        path, *names = value._late
        found: Any = importlib.import_module(path)
        for name in names:
            path = f"{path}.{name}"
            found = getattr(found, name) if hasattr(found, name) else importlib.import_module(path)
        value._real = found
    return value._real


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """The replacement of `__import__` in a `late` block."""
    if level:
        name = importlib.util.resolve_name("." * level + name, (globals or {})["__package__"])
    return Late(name if fromlist else name.partition(".")[0])


@contextmanager
def late() -> Iterator[None]:
    """Postpone the imports of the block to the first use of what they import."""
    global _opened
    usual: Any = builtins.__import__
    builtins.__import__, _opened = _import, _opened + 1  # type: ignore[assignment]
    try:
        yield
    finally:
        builtins.__import__, _opened = usual, _opened - 1
