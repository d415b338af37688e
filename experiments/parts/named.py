"""Functions and other objects of the user's, which flags name as package.module:name."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any


def object_named(flag: str, name: str, kind: str = "name") -> Any:
    """The object package.module:name; modules of the current folder are found.

    Raises ValueError, naming the flag, for another form, a module that cannot be imported, and a
    module without such a name. `kind` stands for the name in messages.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ValueError(f"{flag} must be package.module:{kind}, got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # worker processes and installed programs look there too
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{flag} {name!r} cannot be imported: {error}") from None


def function_named(flag: str, name: str) -> Callable[..., Any]:
    """The function package.module:function, as `object_named`; ValueError for anything else."""
    found = object_named(flag, name, "function")
    if not callable(found):
        raise ValueError(f"{flag} {name!r} is no function, got {found!r:.60}")
    function: Callable[..., Any] = found
    return function
