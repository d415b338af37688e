r"""Operators of measurements with their adjoints and pseudo-inverses, as frozen records.

A linear operator A has a singular value decomposition A = U S V^T. Where V is known (a mask, a mix of
channels, a convolution, ...), everything a method needs follows from `filter_data`, V f(S) V^T x:

    pinv(v) = A^+ v = V S^-1 U^T v,    ridge(v, a, b) = A^T (a A A^T + b I)^-1 v = V S/(a S^2 + b) U^T v

Singular values of 0 are left out everywhere. Where V is not known (`Linear`), `ridge` is solved by
conjugate gradients; `as_matrix` makes a spectral operator of any small one. A measurement that is not
linear (`Nonlinear`) has `forward` alone, and methods that differentiate it.

All take batches, x (b, *shape). The axes between the first and the last are those of space, the last
one is the channel. Arrays in operators are leaves of a tree: another mask needs no new program.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from score_jax._math import batch_sum, bcast

Shape = tuple[int, ...]
Examples = Float[Array, " b *d"]
Outputs = Float[Array, " b *out"]  # measurements of them
Share = Float[Array, "..."] | float  # a weight, () or (b,)
# Singular values to numbers of the same shape.
Values = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def record(*meta: str) -> Callable[[Any], Any]:
    """Register a frozen dataclass as a tree; its fields are arrays, except those named."""

    def register(cls: Any) -> Any:
        names = [f.name for f in dataclasses.fields(cls)]
        data = [name for name in names if name not in meta]
        return jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=list(meta))

    return register


def known(value: object) -> bool:
    """Whether a field holds an array of known values, not a placeholder of a transformation."""
    return isinstance(value, np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer)


class Operator:
    """A measurement x0 -> y of every example of a batch."""

    def forward(self, x: Examples) -> Outputs:
        """A(x): (b, *shape) -> (b, *out)."""
        raise NotImplementedError

    def data_shape(self, out: Shape) -> Shape:
        """Shape of an example whose measurement has the shape `out`."""
        return out

    def measured(self, v: Outputs) -> Outputs:
        """v (b, *out) with zeros in entries that are not measured."""
        return v

    def out_shape(self, shape: Shape) -> Shape:
        """Shape of the measurement of an example of this shape; ValueError if it does not fit."""
        aval = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        try:
            return tuple(jax.eval_shape(self.forward, aval).shape[1:])
        except (TypeError, ValueError) as error:
            name = type(self).__name__
            raise ValueError(f"{name} does not measure data of shape {shape}: {error}") from None


class LinearOperator(Operator):
    """A linear measurement; the adjoint follows from `forward`, the inverses by iteration."""

    def adjoint(self, v: Outputs) -> Examples:
        """A^T v: (b, *out) -> (b, *shape)."""
        aval = jax.ShapeDtypeStruct((v.shape[0], *self.data_shape(v.shape[1:])), v.dtype)
        return jax.linear_transpose(self.forward, aval)(v)[0]

    def ridge(self, v: Outputs, signal: Share, noise: Share) -> Examples:
        """A^T (signal A A^T + noise I)^-1 v, signal and noise scalars or (b,), noise >= 0."""
        signal, noise = (bcast(jnp.asarray(c, v.dtype), v) for c in (signal, noise))
        normal = lambda u: signal * self.forward(self.adjoint(u)) + noise * u
        return self.adjoint(conjugate_gradients(normal, v, self._iterations))

    def pinv(self, v: Outputs) -> Examples:
        """A^+ v, the smallest x whose measurement is nearest to v."""
        return self.ridge(v, 1.0, 0.0)

    @property
    def _iterations(self) -> int:
        return 50


class SpectralOperator(LinearOperator):
    """A linear measurement whose right singular vectors are known."""

    def filter_data(self, x: Examples, f: Values) -> Examples:
        """V f(S) V^T x: (b, *shape) to itself; f maps singular values > 0."""
        raise NotImplementedError

    def filter(self, v: Outputs, f: Values) -> Examples:
        """V f(S) U^T v: (b, *out) -> (b, *shape)."""
        return self.filter_data(self.adjoint(v), lambda s: f(s) / s)

    def ridge(self, v: Outputs, signal: Share, noise: Share) -> Examples:
        """A^T (signal A A^T + noise I)^-1 v, signal and noise scalars or (b,)."""

        def one(v: Array, signal: Array, noise: Array) -> Array:
            return self.filter(v[None], lambda s: s / (signal * s**2 + noise))[0]

        if jnp.ndim(signal) == 0 and jnp.ndim(noise) == 0:
            return self.filter(v, lambda s: s / (signal * s**2 + noise))
        both = (jnp.broadcast_to(jnp.asarray(c, v.dtype), v.shape[:1]) for c in (signal, noise))
        return jax.vmap(one)(v, *both)


def on_values(f: Values, s: Float[Array, "..."], least: Share = 0.0) -> Float[Array, "..."]:
    """f of the singular values above `least`, and 0 of the others."""
    kept = s > least
    return jnp.where(kept, f(jnp.where(kept, s, 1)), 0)


def conjugate_gradients(
    matrix: Callable[[Outputs], Outputs], v: Outputs, iterations: int
) -> Outputs:
    """Solve matrix u = v for every example by itself, matrix symmetric and positive (b, *d)."""
    tiny = jnp.finfo(v.dtype).tiny
    divide = lambda a, b: jnp.where(b > tiny, a / jnp.where(b > tiny, b, 1), 0)

    def body(_: Any, state: Any) -> Any:
        u, r, p, size = state
        moved = matrix(p)
        step = divide(size, batch_sum(p * moved))
        u, r = u + bcast(step, u) * p, r - bcast(step, u) * moved
        after = batch_sum(jnp.square(r))
        return u, r, r + bcast(divide(after, size), u) * p, after

    start = (jnp.zeros_like(v), v, v, batch_sum(jnp.square(v)))
    return jax.lax.fori_loop(0, iterations, body, start)[0]


@record()
@dataclasses.dataclass(frozen=True, eq=False)
class Mask(SpectralOperator):
    """Some entries of x0 are known (inpainting): mask, boolean, of an example's shape, True: known.

    y has the shape of x; its other entries are ignored. Raises ValueError for a mask that is
    not boolean or all False.

    >>> operator = Mask(np.arange(64).reshape(8, 8, 1) < 32)
    """

    mask: Any

    def __post_init__(self) -> None:
        if isinstance(self.mask, list | tuple):
            object.__setattr__(self, "mask", np.asarray(self.mask))
        if known(self.mask):
            if self.mask.dtype != bool:
                raise ValueError(f"mask must be boolean, got dtype {self.mask.dtype}")
            if not self.mask.any():
                raise ValueError("mask must be True for at least one entry, got none")

    def forward(self, x: Examples) -> Outputs:
        """The known entries, 0 elsewhere."""
        if x.shape[1:] != self.mask.shape:
            raise ValueError(f"mask has shape {self.mask.shape}, but the data have {x.shape[1:]}")
        return jnp.where(self.mask[None], x, 0)

    def adjoint(self, v: Outputs) -> Examples:
        """The same."""
        return self.forward(v)

    def measured(self, v: Outputs) -> Outputs:
        """The known entries."""
        return self.forward(v)

    def filter_data(self, x: Examples, f: Values) -> Examples:
        """f(1) times the known entries."""
        return self.forward(x) * f(jnp.ones((), x.dtype))


@record("matrix")
@dataclasses.dataclass(frozen=True)
class ChannelMix(SpectralOperator):
    """Every place has mixes of its channels, x @ matrix (c, q): `grayscale` for colorization.

    Methods use the orthonormal axes of the matrix, as in arXiv:2011.13456 app. I.2: the mixes are known,
    the rest is free. Raises ValueError unless matrix is (c, q) with q <= c.

    >>> operator = ChannelMix([[0.299], [0.587], [0.114]])
    """

    matrix: Any

    def __post_init__(self) -> None:
        if isinstance(self.matrix, list | np.ndarray | jax.Array):
            m = np.asarray(self.matrix, np.float64)
            if m.ndim != 2 or not 1 <= m.shape[1] <= m.shape[0]:
                raise ValueError(f"matrix must be (c, q) with q <= c, got shape {m.shape}")
            object.__setattr__(self, "matrix", tuple(map(tuple, m.tolist())))

    def forward(self, x: Examples) -> Outputs:
        """x @ matrix: (b, ..., c) -> (b, ..., q)."""
        matrix = np.asarray(self.matrix)
        if x.shape[-1] != len(matrix):
            raise ValueError(
                f"the mix is of {len(matrix)} channels, but the data have {x.shape[-1]}"
            )
        return jnp.einsum("...c,cq->...q", x, jnp.asarray(matrix, x.dtype))

    def data_shape(self, out: Shape) -> Shape:
        """(..., c)."""
        return (*out[:-1], len(self.matrix))

    def filter_data(self, x: Examples, f: Values) -> Examples:
        """In the orthonormal axes of the matrix."""
        u, s, _ = np.linalg.svd(np.asarray(self.matrix), full_matrices=False)
        axes = jnp.asarray(u, x.dtype)
        kept = on_values(f, jnp.asarray(s, x.dtype), 1e-6 * s.max())
        return jnp.einsum("...c,cr,r,dr->...d", x, axes, kept, axes)


def grayscale(channels: int = 3) -> ChannelMix:
    """The mean of the channels, as in arXiv:2011.13456 app. I.2: (..., c) -> (..., 1)."""
    return ChannelMix(np.full((channels, 1), 1 / channels))


@record("factor")
@dataclasses.dataclass(frozen=True)
class BlockAverage(SpectralOperator):
    """Means of blocks of `factor` places along every axis of space (super-resolution).

    Raises ValueError unless factor is an integer of at least 1.
    """

    factor: Any

    def __post_init__(self) -> None:
        if not isinstance(self.factor, int) or self.factor < 1:
            raise ValueError(f"factor must be an integer of at least 1, got {self.factor!r}")

    def forward(self, x: Examples) -> Outputs:
        """(b, h, w, c) -> (b, h / factor, w / factor, c)."""
        n, space = self.factor, x.shape[1:-1]
        if any(size % n for size in space):
            raise ValueError(f"the axes of space {space} must be divisible by factor={n}")
        split = [part for size in space for part in (size // n, n)]
        blocks = x.reshape(x.shape[0], *split, x.shape[-1])
        return blocks.mean(axis=tuple(range(2, 2 * len(space) + 1, 2)))

    def data_shape(self, out: Shape) -> Shape:
        """(h, w, c)."""
        return (*(self.factor * size for size in out[:-1]), out[-1])

    def filter_data(self, x: Examples, f: Values) -> Examples:
        """f of the one singular value, times the means spread over their blocks."""
        spread = self.forward(x)
        for axis in range(1, x.ndim - 1):
            spread = jnp.repeat(spread, self.factor, axis=axis)
        # Each row of A is 1/n^k in n^k places.
        value = float(self.factor) ** (-0.5 * (x.ndim - 2))
        return f(jnp.asarray(value, x.dtype)) * spread


@record("shape", "iterations", "function")
@dataclasses.dataclass(frozen=True)
class Linear(LinearOperator):
    """Any linear function (b, *shape) -> (b, *out); its adjoint by `jax.linear_transpose`.

    Inverses take `iterations` of conjugate gradients each; `as_matrix` is faster where x is small.

    >>> differences = Linear(lambda x: x[:, 1:] - x[:, :-1], (100,))
    """

    function: Callable[[Array], Array]
    shape: Shape
    iterations: int = 50

    def forward(self, x: Examples) -> Outputs:
        """function(x)."""
        return self.function(x)

    def data_shape(self, out: Shape) -> Shape:
        """The shape given."""
        return tuple(self.shape)

    @property
    def _iterations(self) -> int:
        return self.iterations


@record("shape", "function")
@dataclasses.dataclass(frozen=True)
class Nonlinear(Operator):
    """Any differentiable function (b, *shape) -> (b, *out); only for `dps`.

    >>> magnitude = Nonlinear(lambda x: jnp.abs(jnp.fft.fft(x)), (100,))
    """

    function: Callable[[Array], Array]
    shape: Shape

    def forward(self, x: Examples) -> Outputs:
        """function(x)."""
        return self.function(x)

    def data_shape(self, out: Shape) -> Shape:
        """The shape given."""
        return tuple(self.shape)


@record("shape", "out")
@dataclasses.dataclass(frozen=True, eq=False)
class Matrix(SpectralOperator):
    """A dense matrix (q, n) on the flat x0, with its singular vectors (n, r) and values (r,).

    Made by `dense` or `as_matrix`.
    """

    matrix: Any
    vectors: Any
    values: Any
    shape: Shape
    out: Shape

    def forward(self, x: Examples) -> Outputs:
        """matrix @ x."""
        if tuple(x.shape[1:]) != tuple(self.shape):
            raise ValueError(f"the matrix is for shape {self.shape}, the data have {x.shape[1:]}")
        flat = x.reshape(x.shape[0], -1)
        y = jnp.einsum("qn,bn->bq", jnp.asarray(self.matrix, x.dtype), flat)
        return y.reshape(x.shape[0], *self.out)

    def data_shape(self, out: Shape) -> Shape:
        """The shape given."""
        return tuple(self.shape)

    def filter_data(self, x: Examples, f: Values) -> Examples:
        """In the singular vectors."""
        vectors, values = (jnp.asarray(v, x.dtype) for v in (self.vectors, self.values))
        along = jnp.einsum("bn,nr->br", x.reshape(x.shape[0], -1), vectors)
        along = along * f(values)[None]
        return jnp.einsum("br,nr->bn", along, vectors).reshape(x.shape)


def dense(
    matrix: ArrayLike | Sequence[Any],
    shape: Shape | None = None,
    out: Shape | None = None,
    *,
    cutoff: float = 1e-3,
) -> Matrix:
    """A matrix (q, n) as an operator on examples of `shape` ((n,) by default), y of shape `out`.

    Singular values below `cutoff` times the largest count as 0: in float32 smaller ones cannot be
    inverted. Raises ValueError for a matrix whose shape does not fit.

    >>> operator = dense([[1.0, 0.0, 0.0]])
    """
    matrix = np.asarray(matrix, np.float64)
    shape = (matrix.shape[-1],) if shape is None else tuple(shape)
    out = matrix.shape[:1] if out is None else tuple(out)
    if matrix.ndim != 2 or matrix.shape != (math.prod(out), math.prod(shape)):
        raise ValueError(f"matrix must be (q, n) for {out} and {shape}, got shape {matrix.shape}")
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    kept = values > cutoff * values.max()
    single = lambda v: np.asarray(v, np.float32)
    return Matrix(single(matrix), single(vectors[kept].T), single(values[kept]), shape, out)


def matrix_of(operator: LinearOperator, shape: Shape) -> np.ndarray:
    """The matrix (q, n) of a linear operator on examples of this shape, entry by entry."""
    size = math.prod(shape)
    columns = jax.jit(operator.forward)(
        np.eye(size, dtype=jnp.zeros(0).dtype).reshape(size, *shape)
    )
    return np.asarray(columns, np.float64).reshape(size, -1).T


def as_matrix(operator: LinearOperator, shape: Shape) -> Matrix:
    """Any linear operator on examples of this shape as a `Matrix`: for up to some thousand entries.

    >>> scanner = as_matrix(Radon(angles=range(0, 180, 10), size=32), (32, 32, 1))
    """
    return dense(matrix_of(operator, shape), shape, operator.out_shape(shape))
