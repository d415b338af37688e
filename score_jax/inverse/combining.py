r"""Operators made of operators: chains, sums, several at once, one for each example; and missing values.

    compose(B, A)      x -> B(A x)
    add(A, B)          x -> A x + B x
    stack(A, B)        x -> (A x, B x), flat, one after the other
    each(A)            example i has operator i: the arrays in A have an axis of examples first

The results are linear if their parts are. `check_adjoint` says whether an adjoint of your own is one.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax._check import check
from score_jax.inverse.measurement import Measurement
from score_jax.inverse.operators import (
    Examples,
    LinearOperator,
    Mask,
    Operator,
    Outputs,
    Shape,
    Share,
    SpectralOperator,
    Values,
    known,
    record,
)


class _Chain(Operator):
    """outer after inner; the parts are fields of the subclasses."""

    outer: Any
    inner: Any

    def forward(self, x: Examples) -> Outputs:
        """outer(inner(x))."""
        return self.outer.forward(self.inner.forward(x))

    def data_shape(self, out: Shape) -> Shape:
        """Through both."""
        return tuple(self.inner.data_shape(tuple(self.outer.data_shape(out))))

    def measured(self, v: Outputs) -> Outputs:
        """What the outer one measures."""
        return self.outer.measured(v)


@record()
@dataclasses.dataclass(frozen=True, eq=False)
class Chain(_Chain):
    """x -> outer(inner(x)), not linear. Made by `compose`."""

    outer: Any
    inner: Any


@record()
@dataclasses.dataclass(frozen=True, eq=False)
class LinearChain(_Chain, LinearOperator):
    """x -> outer(inner(x)), linear. Made by `compose`."""

    outer: Any
    inner: Any

    def adjoint(self, v: Outputs) -> Examples:
        """inner^T(outer^T v)."""
        return self.inner.adjoint(self.outer.adjoint(v))


class _Sum(Operator):
    """first + second; the parts are fields of the subclasses."""

    first: Any
    second: Any

    def forward(self, x: Examples) -> Outputs:
        """first(x) + second(x)."""
        return self.first.forward(x) + self.second.forward(x)

    def data_shape(self, out: Shape) -> Shape:
        """That of the first."""
        return tuple(self.first.data_shape(out))


@record()
@dataclasses.dataclass(frozen=True, eq=False)
class Sum(_Sum):
    """x -> first(x) + second(x), not linear. Made by `add`."""

    first: Any
    second: Any


@record()
@dataclasses.dataclass(frozen=True, eq=False)
class LinearSum(_Sum, LinearOperator):
    """x -> first(x) + second(x), linear. Made by `add`."""

    first: Any
    second: Any

    def adjoint(self, v: Outputs) -> Examples:
        """first^T v + second^T v."""
        return self.first.adjoint(v) + self.second.adjoint(v)


class _Stack(Operator):
    """Several measurements of one example; the parts are fields of the subclasses."""

    parts: Any
    shape: Any

    def forward(self, x: Examples) -> Outputs:
        """All measurements, flat: (b, q)."""
        flat = [part.forward(x).reshape(x.shape[0], -1) for part in self.parts]
        return jnp.concatenate(flat, axis=1)

    def data_shape(self, out: Shape) -> Shape:
        """The shape given."""
        return tuple(self.shape)


@record("shape")
@dataclasses.dataclass(frozen=True, eq=False)
class Stack(_Stack):
    """x -> all measurements, not all of them linear. Made by `stack`."""

    parts: Any
    shape: Any


@record("shape")
@dataclasses.dataclass(frozen=True, eq=False)
class LinearStack(_Stack, LinearOperator):
    """x -> all measurements, all linear. Made by `stack`."""

    parts: Any
    shape: Any

    def adjoint(self, v: Outputs) -> Examples:
        """The sum of the adjoints of the parts."""
        sizes = [part.out_shape(self.shape) for part in self.parts]
        ends = np.cumsum([math.prod(size) for size in sizes])[:-1]
        pieces = jnp.split(v, ends, axis=1)
        return functools.reduce(
            jnp.add,
            (
                part.adjoint(piece.reshape(v.shape[0], *size))
                for part, piece, size in zip(self.parts, pieces, sizes, strict=True)
            ),
        )


def _operators(**named: Any) -> bool:
    """Whether all are linear; ValueError unless all are operators."""
    for name, value in named.items():
        check(name, value, isinstance(value, Operator), "an Operator")
    return all(isinstance(value, LinearOperator) for value in named.values())


def compose(outer: Any, inner: Any) -> Operator:
    """The operator x -> outer(inner(x)), linear if both are.

    Raises ValueError for anything but operators.

    >>> small_and_blurred = compose(BlockAverage(2), Blur(gaussian_kernel(5, 1.0)))
    """
    return (
        LinearChain(outer, inner) if _operators(outer=outer, inner=inner) else Chain(outer, inner)
    )


def add(first: Any, second: Any) -> Operator:
    """The operator x -> first(x) + second(x), linear if both are.

    Raises ValueError for anything but operators.

    >>> identity_and_blur = add(Mask(np.ones((8, 8, 1), bool)), Blur(kernel))
    """
    return (
        LinearSum(first, second) if _operators(first=first, second=second) else Sum(first, second)
    )


def stack(*parts: Any, shape: Shape) -> Operator:
    """Several measurements of examples of this shape at once: y (b, q), flat, one after the other.

    Measurements with different noise are divided by theirs first: `compose` with a `Linear`. Raises
    ValueError for none, anything but operators, and operators that do not take the shape.

    >>> both = stack(Mask(mask), BlockAverage(4), shape=(8, 8, 1))
    """
    check("parts", parts, len(parts) > 0, "at least one operator")
    linear = _operators(**{f"part {i}": part for i, part in enumerate(parts)})
    for part in parts:
        part.out_shape(tuple(shape))
    return (LinearStack if linear else Stack)(tuple(parts), tuple(shape))


class _Each(Operator):
    """Operator i for example i; the field `operator` has arrays (b, ...)."""

    operator: Any

    def _mapped(self, f: Any, *values: Any) -> Any:
        """f(operator of one, values (1, ...) of one) for every example."""
        one = lambda operator, *v: f(operator, *(w[None] for w in v))[0]
        return jax.vmap(one)(self.operator, *values)

    def forward(self, x: Examples) -> Outputs:
        """Each example by its own operator."""
        return self._mapped(lambda operator, v: operator.forward(v), x)

    def measured(self, v: Outputs) -> Outputs:
        """Each example by its own operator."""
        return self._mapped(lambda operator, w: operator.measured(w), v)

    def data_shape(self, out: Shape) -> Shape:
        """That of one."""
        return tuple(self.operator.data_shape(out))

    def out_shape(self, shape: Shape) -> Shape:
        """That of one."""
        return self.example(0).out_shape(shape)

    def example(self, i: int) -> Any:
        """The operator of example i."""
        return jax.tree.map(lambda v: v[i], self.operator)

    @property
    def count(self) -> int:
        """How many examples there are operators for."""
        return len(jax.tree.leaves(self.operator)[0])


@record()
@dataclasses.dataclass(frozen=True, eq=False)
class Each(_Each):
    """One operator for each example, not linear. Made by `each`."""

    operator: Any


@record()
@dataclasses.dataclass(frozen=True, eq=False)
class LinearEach(_Each, LinearOperator):
    """One linear operator for each example. Made by `each`."""

    operator: Any

    def adjoint(self, v: Outputs) -> Examples:
        """Each example by its own operator."""
        return self._mapped(lambda operator, w: operator.adjoint(w), v)


@record()
@dataclasses.dataclass(frozen=True, eq=False)
class SpectralEach(_Each, SpectralOperator):
    """One linear operator with known singular vectors for each example. Made by `each`."""

    operator: Any

    def adjoint(self, v: Outputs) -> Examples:
        """Each example by its own operator."""
        return self._mapped(lambda operator, w: operator.adjoint(w), v)

    def filter_data(self, x: Examples, f: Values) -> Examples:
        """Each example by its own operator."""
        return self._mapped(lambda operator, w: operator.filter_data(w, f), x)

    def ridge(self, v: Outputs, signal: Share, noise: Share) -> Examples:
        """Each example by its own operator."""
        shares = [jnp.broadcast_to(jnp.asarray(c, v.dtype), v.shape[:1]) for c in (signal, noise)]
        return self._mapped(lambda operator, w, a, b: operator.ridge(w, a[0], b[0]), v, *shares)


def each(operator: Any) -> Operator:
    """One operator for each example: that of the arrays in `operator`, which have b entries first.

    The examples of a call then must be b too, in the same order; `posterior_sample` and `twisted_smc`
    divide the operators into chunks with the measurements. The arrays are masks, kernels, matrices:
    all that is not fixed for a kind of operator.

    Raises ValueError for anything but an operator, or one without arrays or with different numbers of
    entries.

    >>> measurement = Measurement(each(Mask(masks)), images, noise_std=0.05)  # masks (b, 8, 8, 1)
    """
    check("operator", operator, isinstance(operator, Operator), "an Operator")
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(operator)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            f"the arrays in an operator for each example must all have b entries, got {sorted(sizes)}"
        )
    if isinstance(operator, Mask) and known(operator.mask):
        empty = np.flatnonzero(
            ~np.asarray(operator.mask).reshape(len(operator.mask), -1).any(axis=1)
        )
        check("mask", f"none in example {empty[:1]}", not len(empty), "True for an entry of each")
    if isinstance(operator, SpectralOperator):
        return SpectralEach(operator)
    return (LinearEach if isinstance(operator, LinearOperator) else Each)(operator)


def own_operators(operator: Any) -> Any:
    """The operators of the examples, a tree of arrays (b, ...), or None if they share theirs."""
    return jax.tree.map(np.asarray, operator.operator) if isinstance(operator, _Each) else None


def shared(measurement: Measurement) -> Measurement:
    """The measurement without what belongs to single examples: y, and operators of each."""
    operator = None if isinstance(measurement.operator, _Each) else measurement.operator
    return dataclasses.replace(measurement, operator=operator, y=None)


def example_of(measurement: Measurement, i: int) -> Measurement:
    """The measurement of example i alone, with its operator."""
    operator = measurement.operator
    operator = operator.example(i) if isinstance(operator, _Each) else operator
    return dataclasses.replace(measurement, operator=operator, y=measurement.y[i : i + 1])


def without_missing(
    operator: Operator, y: Any, noise_std: float = 0.0, noise: Any = None
) -> Measurement:
    """The measurement of the entries of y (b, *out) that are not NaN: `Measurement`.

    Which entries are missing may differ from example to example. The other arguments are those of
    `Measurement`.

    Raises ValueError for a y of which nothing is left, and as `Measurement`.

    >>> measurement = without_missing(BlockAverage(2), y_with_nan, noise_std=0.05)
    """
    y = np.asarray(y)
    there = ~np.isnan(y)
    if there.all():
        return Measurement(operator, y, noise_std, noise)
    empty = np.flatnonzero(~there.reshape(len(y), -1).any(axis=1))
    check("y", f"only NaN in example {empty[:1]}", not len(empty), "a number somewhere")
    if isinstance(operator, Mask):
        made = each(Mask(there & np.asarray(operator.mask)[None]))
    elif isinstance(operator, _Each):
        made = each(compose(Mask(there), operator.operator))
    else:
        wide = jax.tree.map(lambda v: np.broadcast_to(v, (len(y), *np.shape(v))), operator)
        made = each(compose(Mask(there), wide))
    return Measurement(made, np.where(there, y, 0), noise_std, noise)


def check_adjoint(operator: Any, shape: Shape, *, tolerance: float = 1e-4, seed: int = 0) -> float:
    """Raise ValueError unless the operator is linear and its adjoint is one; returns the mismatch.

    For random x and v, <A x, v> and <x, A^T v> must agree to `tolerance` of |A x| |v|, and A(x + 2 u) be
    A x + 2 A u. `shape` is that of an example.

    >>> check_adjoint(MyScanner(), (64, 64, 1))
    """
    check("operator", operator, isinstance(operator, LinearOperator), "a LinearOperator")
    out = operator.out_shape(tuple(shape))
    keys = jax.random.split(jax.random.key(seed), 3)
    number = operator.count if isinstance(operator, _Each) else 1
    x, u = (jax.random.normal(key, (number, *shape)) for key in keys[:2])
    v = jax.random.normal(keys[2], (number, *out))
    name = type(operator).__name__
    try:
        there, back = operator.forward(x), operator.adjoint(v)
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(
            f"the adjoint of {name} does not take measurements of shape {out}: {error}"
        ) from error
    if back.shape != x.shape:
        raise ValueError(
            f"adjoint must return the shape of an example, {shape}, got {back.shape[1:]}"
        )
    parts = (x, back, v, there, operator.forward(u), operator.forward(x + 2 * u))
    one, of_v, other, of_one, of_u, of_both = (np.asarray(a, np.float64).ravel() for a in parts)
    norm = lambda a: float(np.linalg.norm(a))
    size = max(norm(of_one) * norm(other), norm(of_v) * norm(one), 1e-30)
    apart = abs(float(of_one @ other - one @ of_v)) / size
    bent = norm(of_both - of_one - 2 * of_u) / max(norm(of_one), 1e-30)
    if not bent <= tolerance:
        raise ValueError(f"{name} is not linear: A(x + 2 u) differs from A x + 2 A u by {bent:.2g}")
    if not apart <= tolerance:
        raise ValueError(
            f"the adjoint of {name} is not one: <A x, v> and <x, A^T v> differ by {apart:.2g} times "
            "|A x| |v|"
        )
    return max(apart, bent)
