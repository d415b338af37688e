"""Rules for the fields of a config and for flags; each raises a ValueError."""

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


def check_flags(args: Any, **least: int) -> None:
    """Raise ValueError for the first flag whose value, if it has one, is below its least one."""
    for name, bound in least.items():
        value = getattr(args, name)
        if value is not None and value < bound:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {bound}, got {value}")
