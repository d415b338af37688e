"""What the tests' own check of types finds, in each place where a type can stand."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jaxtyping
import numpy as np
import pytest
from jaxtyping import Float

from score_jax.sde import VP
from tests.helpers.typecheck import checked

Rows = Float[np.ndarray, "n d"]
X = np.zeros((2, 3), np.float32)


class Pair(NamedTuple):
    a: int
    b: int


@checked
def plain(x: Rows, weight: float = 1.0, *more: Rows, **named: str) -> "Rows":
    return x * weight if not more else more[0][:, :2]


@checked
def loose(x, y: Any = None, **named: str) -> None:
    pass


@checked
def closure(size: int) -> Any:
    @checked
    def inner(x: Rows) -> Rows:
        return x[:, :size]

    @checked
    def free(x):
        return x

    return inner, free


@checked
@dataclasses.dataclass(frozen=True)
class Record:
    width: int
    pair: Pair | None = None


class Child(Record):
    """Inherits the check."""


class Methods:
    @checked
    @property
    def size(self) -> int:
        return "3"

    @checked
    @classmethod
    def of(cls, n: int) -> str:
        return str(n)

    @checked
    @staticmethod
    def pick(x: Rows, *, index: int) -> float:
        return float(x[index, 0])


@checked
def numbers(n: int) -> Iterator[int]:
    yield from range(n)


def test_what_is_right_passes():
    assert plain(X, 2) is not None  # an int is a float
    assert plain(X, note="a").shape == (2, 3)
    assert loose(x=1, y=2, note="a") is None
    assert Record(3, Pair(1, 2)).width == Child(4).width - 1 == 3
    assert Methods.of(3) == "3" and Methods.pick(X, index=1) == 0 and list(numbers(2)) == [0, 1]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: plain(X[0]), "argument x"),
        (lambda: plain(x=X.astype(int)), "argument x"),
        (lambda: plain(X, "2"), "argument weight"),
        (lambda: plain(X, 1.0, np.zeros((3, 3), np.float32)), r"argument \*args"),
        (lambda: plain(X, 1.0, X), "result"),
        (lambda: plain(X, note=3), "argument note"),
        (lambda: loose(x=1, note=3), "argument note"),
        (lambda: Record("3"), "argument width"),
        (lambda: Child(3, pair=(1, 2)), "argument pair"),
        (lambda: Methods().size, "result"),
        (lambda: Methods.of("3"), "argument n"),
        (lambda: Methods.pick(X, index=0.5), "argument index"),
        (lambda: numbers(2.5), "argument n"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_wrong_is_named(call, named):
    with pytest.raises(jaxtyping.TypeCheckError, match=named):
        call()


def test_only_functions_with_types_are_wrapped():
    inner, free = closure(3)
    assert inner.__wrapped__.__name__ == "inner" and not hasattr(free, "__wrapped__")


def test_the_package_is_checked():
    with pytest.raises(jaxtyping.TypeCheckError, match="beta_min"):
        VP(beta_min="0.1")
    with pytest.raises(jaxtyping.TypeCheckError, match="argument t of score_jax"):
        VP().std("now")
