"""Functions of the user's, which flags name as package.module:function."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any


def function_named(flag: str, name: str) -> Callable[..., Any]:
    """The function package.module:function; modules of the current folder are found.

    Raises ValueError, naming the flag, for another form, a module that cannot be imported, and a
    module without such a function.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ValueError(f"{flag} must be package.module:function, got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # worker processes and installed programs look there too
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{flag} {name!r} cannot be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"{flag} {name!r} is no function, got {found!r:.60}")
    function: Callable[..., Any] = found
    return function
