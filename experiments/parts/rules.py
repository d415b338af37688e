"""Rules for the fields of a config: each raises a ValueError that names the field."""

from typing import Any


def require(owner: str, record: Any, *rules: tuple[str, bool, str]) -> None:
    """Raise ValueError for the first rule (field, whether it holds, what is allowed) that fails."""
    for name, ok, allowed in rules:
        if not ok:
            raise ValueError(f"{owner}.{name} must be {allowed}, got {getattr(record, name)!r}")


def at_least(record: Any, least: int, *names: str) -> list[tuple[str, bool, str]]:
    """Rules for whole numbers, or None where a field may be None."""
    values = {name: getattr(record, name) for name in names}
    return [(k, v is None or v >= least, f"at least {least}") for k, v in values.items()]
