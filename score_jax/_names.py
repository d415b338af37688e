"""Looking up what a user has named."""

import difflib
from collections.abc import Mapping
from typing import Any


def choose(name: str, known: Mapping[str, Any], kind: str) -> Any:
    """The entry of this name; ValueError with the nearest and all known names if there is none."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown {kind} {name!r}{hint}; known: {', '.join(known)}")
    return known[name]
