r"""Covariances of the components of a mixture, by what is known of their axes.

    Dense      any matrices C_k (k, n, n), by their eigenvectors: up to about a thousand entries
    Separable  C_k = V diag(variances_k) V^T with V a product of one orthonormal basis an axis, such as
               cosines: random fields of 64x64 and more
    LowRank    C_k = U_k diag(variances_k) U_k^T + rest_k (I - U_k U_k^T) with few columns in U_k: images
    Given      C_k - K_k A C_k, what a linear measurement leaves of another covariance

The first three have axes: coordinates in which C_k, and m^2 C_k + s^2 I at every noise level, are
diagonal. `Given` has no axes; it draws and gives its variances.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from score_jax._check import check, check_count

_EXACT = jax.lax.Precision.HIGHEST


class Covariance:
    """The covariances of k components on flat examples of n entries, with a coordinates (a >= n)."""

    @property
    def size(self) -> tuple[int, int]:
        """(k, n)."""
        raise NotImplementedError

    @property
    def counts(self) -> np.ndarray:
        """How many of the n directions each coordinate stands for: (a,), of sum n."""
        return np.ones(self.size[1])

    @property
    def values(self) -> np.ndarray:
        """Variances along the axes: (k, a). ValueError where the axes are not known."""
        raise ValueError(
            f"{type(self).__name__} has no known axes, so no score at a noise level: draws, mean and "
            "std are exact; `Conditioner.score` and `inverse.exact` have the score of a posterior"
        )

    def along(self, x: Any) -> Any:
        """Coordinates of x (b, k, n) in the axes of its component: (b, k, a)."""
        return self.values

    def together(self, c: Any) -> Any:
        """The sum over components of vectors with coordinates c (b, k, a): (b, n)."""
        return self.values

    def times(self, v: np.ndarray) -> np.ndarray:
        """C_k v for the columns of v (n, q): (k, n, q), in float64."""
        raise NotImplementedError

    def diagonal(self) -> np.ndarray:
        """Variances of the entries: (k, n)."""
        raise NotImplementedError

    def component(self, k: int) -> Any:
        """That of component k alone, as the argument `covs` of a `Mixture`."""
        raise NotImplementedError

    def dense(self) -> np.ndarray:
        """The matrices: (k, n, n)."""
        return self.times(np.eye(self.size[1]))

    def noise(self, key: Key[Array, ""], which: Array) -> Array:
        """Draws of N(0, C_which), which (b,) the component of each: (b, n)."""
        values = jnp.asarray(self.values, jnp.zeros(0).dtype)
        z = jax.random.normal(key, (which.shape[0], values.shape[1]), values.dtype)
        mine = jax.nn.one_hot(which, values.shape[0], dtype=values.dtype)
        return self.together(mine[:, :, None] * jnp.sqrt(values)[None] * z[:, None])


@dataclasses.dataclass(frozen=True, eq=False)
class Dense(Covariance):
    """Any covariances (k, n, n); ValueError unless symmetric and positive semi-definite."""

    covs: np.ndarray

    def __post_init__(self) -> None:
        values, vectors = np.linalg.eigh(self.covs)
        symmetric = np.allclose(self.covs, np.swapaxes(self.covs, 1, 2), atol=1e-6)
        if not symmetric or values.min() < -1e-6 * max(1.0, values.max()):
            raise ValueError("covs must be symmetric and positive semi-definite")
        object.__setattr__(self, "_eigen", (np.maximum(values, 0), vectors))

    @property
    def size(self) -> tuple[int, int]:
        """(k, n)."""
        return self.covs.shape[0], self.covs.shape[1]

    @property
    def values(self) -> np.ndarray:
        """The eigenvalues."""
        return self._eigen[0]  # type: ignore[attr-defined]

    @property
    def vectors(self) -> np.ndarray:
        """The eigenvectors, as columns: (k, n, n)."""
        return self._eigen[1]  # type: ignore[attr-defined]

    def along(self, x: Any) -> Any:
        """In the eigenvectors."""
        return jnp.einsum("bki,kij->bkj", x, jnp.asarray(self.vectors, x.dtype), precision=_EXACT)

    def together(self, c: Any) -> Any:
        """From the eigenvectors."""
        return jnp.einsum("bkj,kij->bi", c, jnp.asarray(self.vectors, c.dtype), precision=_EXACT)

    def times(self, v: np.ndarray) -> np.ndarray:
        """By the matrices."""
        return self.covs @ v

    def diagonal(self) -> np.ndarray:
        """Of the matrices."""
        return np.diagonal(self.covs, axis1=1, axis2=2)

    def component(self, k: int) -> np.ndarray:
        """(1, n, n)."""
        return self.covs[k : k + 1]


def cosine_basis(n: int) -> np.ndarray:
    """The orthonormal cosines of the DCT-II as columns (n, n), the constant first.

    They are the axes of stationary data with reflecting edges. ValueError unless n >= 1.
    """
    check_count(n=n)
    basis = np.cos(np.pi * np.outer(np.arange(n) + 0.5, np.arange(n)) / n) * math.sqrt(2 / n)
    basis[:, 0] = math.sqrt(1 / n)
    return basis


def fourier_basis(n: int) -> np.ndarray:
    """The orthonormal cosines and sines of n places on a circle as columns (n, n).

    Column j has the frequency (j + 1) // 2. They are the axes of stationary periodic data. ValueError
    unless n >= 1.
    """
    check_count(n=n)
    angle = 2 * np.pi * np.arange(n)[:, None] * ((np.arange(n) + 1) // 2)[None] / n
    basis = np.where(np.arange(n)[None] % 2 == 1, np.cos(angle), np.sin(angle))
    basis[:, 0] = 1
    return basis / np.linalg.norm(basis, axis=0, keepdims=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Separable(Covariance):
    """Components that are diagonal in a product of bases: variances (k, *d), one basis (n, n) an axis.

    A basis holds orthonormal vectors as its columns. Examples of 64x64 entries cost two small matrix
    products an axis. Raises ValueError for bases that do not fit or are not orthonormal, and for
    variances that are negative.

    >>> field = Mixture([1.0], np.zeros((1, 64, 64)), Separable(variances, (cosine_basis(64),) * 2))
    """

    variances: Any
    bases: Any

    def __post_init__(self) -> None:
        variances = np.asarray(self.variances, np.float64)
        bases = tuple(np.asarray(basis, np.float64) for basis in self.bases)
        wanted = [(n, n) for n in variances.shape[1:]]
        shapes = [basis.shape for basis in bases]
        check("the shapes of bases", shapes, shapes == wanted, f"{wanted} for these variances")
        for basis in bases:
            apart = abs(basis.T @ basis - np.eye(len(basis))).max()
            check("bases", apart, apart < 1e-6, "orthonormal, here to 1e-6")
        least = variances.min()
        check("variances", least, np.isfinite(variances).all() and least >= 0, "finite and >= 0")
        object.__setattr__(self, "variances", variances)
        object.__setattr__(self, "bases", bases)

    @property
    def size(self) -> tuple[int, int]:
        """(k, n)."""
        return len(self.variances), math.prod(self.variances.shape[1:])

    @property
    def values(self) -> np.ndarray:
        """The variances, flat."""
        return self.variances.reshape(self.size)

    def _turned(self, x: Any, back: bool, xp: Any = jnp) -> Any:
        """x (..., n) from places to coordinates, or back."""
        shape = self.variances.shape[1:]
        v = x.reshape(-1, *shape)
        exact = {"precision": _EXACT} if xp is jnp else {}
        for axis, basis in enumerate(self.bases, 1):
            used = xp.asarray(basis if back else basis.T, v.dtype)
            v = xp.moveaxis(xp.tensordot(used, v, axes=(1, axis), **exact), 0, axis)
        return v.reshape(x.shape)

    def along(self, x: Any) -> Any:
        """In the product of the bases."""
        return self._turned(x, False)

    def together(self, c: Any) -> Any:
        """From the product of the bases, which all components share."""
        return self._turned(c.sum(axis=1), True)

    def times(self, v: np.ndarray) -> np.ndarray:
        """Through the coordinates of the columns."""
        there = self._turned(np.asarray(v, np.float64).T, False, np)
        scaled = there[None] * self.values[:, None]
        return np.swapaxes(self._turned(scaled, True, np), 1, 2)

    def diagonal(self) -> np.ndarray:
        """Sums of squares of the bases, weighted by the variances."""
        found = self.variances
        for axis, basis in enumerate(self.bases, 1):
            found = np.moveaxis(np.tensordot(np.square(basis), found, axes=(1, axis)), 0, axis)
        return found.reshape(self.size)

    def component(self, k: int) -> "Separable":
        """With the same bases."""
        return Separable(self.variances[k : k + 1], self.bases)


@dataclasses.dataclass(frozen=True, eq=False)
class LowRank(Covariance):
    """Components with few axes of their own: vectors (k, n, r), variances (k, r), rest (k,).

    The columns of vectors are orthonormal for each component, and `rest` is the variance in all other
    directions: probabilistic PCA. An example costs n r for each component instead of n^2. Its
    coordinates are r along the axes and the n entries of what is left.

    Raises ValueError for shapes that do not fit, vectors that are not orthonormal, and variances that
    are negative.
    """

    vectors: Any
    variances: Any
    rest: Any

    def __post_init__(self) -> None:
        for name in ("vectors", "variances", "rest"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        shape = self.vectors.shape
        fits = len(shape) == 3 and shape[2] < shape[1]
        check("the shape of vectors", shape, fits, "(k, n, r) with r < n")
        found = (self.variances.shape, self.rest.shape)
        wanted = ((shape[0], shape[2]), (shape[0],))
        check("the shapes of variances and rest", found, found == wanted, f"{wanted}")
        products = np.swapaxes(self.vectors, 1, 2) @ self.vectors
        apart = abs(products - np.eye(shape[2])[None]).max(initial=0)
        check("vectors", apart, apart < 1e-6, "orthonormal columns, here to 1e-6")
        least = min(self.variances.min(initial=0), self.rest.min())
        check("variances and rest", least, least >= 0, ">= 0")

    @property
    def size(self) -> tuple[int, int]:
        """(k, n)."""
        return self.vectors.shape[0], self.vectors.shape[1]

    @property
    def counts(self) -> np.ndarray:
        """One for each axis; n - r directions are shared by the n entries of what is left."""
        _, n, r = self.vectors.shape
        return np.concatenate([np.ones(r), np.full(n, (n - r) / n)])

    @property
    def values(self) -> np.ndarray:
        """The variances of the axes, then `rest` n times."""
        return np.concatenate([self.variances, np.repeat(self.rest[:, None], self.size[1], 1)], 1)

    def along(self, x: Any) -> Any:
        """In the vectors, and what they leave."""
        vectors = jnp.asarray(self.vectors, x.dtype)
        c = jnp.einsum("bkn,knr->bkr", x, vectors, precision=_EXACT)
        left = x - jnp.einsum("bkr,knr->bkn", c, vectors, precision=_EXACT)
        return jnp.concatenate([c, left], axis=2)

    def together(self, c: Any) -> Any:
        """From the vectors; of the rest what is orthogonal to them."""
        vectors, r = jnp.asarray(self.vectors, c.dtype), self.vectors.shape[2]
        left = c[..., r:]
        inside = jnp.einsum("bkn,knr->bkr", left, vectors, precision=_EXACT)
        moved = jnp.einsum("bkr,knr->bn", c[..., :r] - inside, vectors, precision=_EXACT)
        return moved + left.sum(axis=1)

    def times(self, v: np.ndarray) -> np.ndarray:
        """By the vectors."""
        excess = (self.variances - self.rest[:, None])[:, :, None]
        moved = self.vectors @ (excess * (np.swapaxes(self.vectors, 1, 2) @ v[None]))
        return moved + self.rest[:, None, None] * v[None]

    def diagonal(self) -> np.ndarray:
        """Of the sum."""
        excess = self.variances - self.rest[:, None]
        return (np.square(self.vectors) * excess[:, None]).sum(axis=2) + self.rest[:, None]

    def component(self, k: int) -> "LowRank":
        """With the same axes."""
        return LowRank(self.vectors[k : k + 1], self.variances[k : k + 1], self.rest[k : k + 1])


@dataclasses.dataclass(frozen=True, eq=False)
class Given(Covariance):
    """What y = A x0 + noise_std n leaves of a covariance: C_k - K_k A C_k, for gains K_k (k, n, q).

    Draws are those of the prior, corrected by the measurement of each (Matheron's rule):
    x - K (A x + noise_std n).
    """

    before: Covariance
    matrix: np.ndarray
    gains: np.ndarray
    noise_std: float

    @property
    def size(self) -> tuple[int, int]:
        """(k, n)."""
        return self.before.size

    def times(self, v: np.ndarray) -> np.ndarray:
        """C_k v - K_k A C_k v."""
        there = self.before.times(v)
        return there - self.gains @ (self.matrix @ there)

    def diagonal(self) -> np.ndarray:
        """The variances that are left."""
        cross = self.before.times(self.matrix.T)
        return np.maximum(self.before.diagonal() - (self.gains * cross).sum(axis=2), 0)

    def dense(self) -> np.ndarray:
        """The matrices, made symmetric."""
        cross = self.before.times(self.matrix.T)
        after = self.before.dense() - self.gains @ np.swapaxes(cross, 1, 2)
        return 0.5 * (after + np.swapaxes(after, 1, 2))

    def component(self, k: int) -> "Given":
        """With the same measurement."""
        one: Any = self.before.component(k)
        one = one if isinstance(one, Covariance) else Dense(one)
        return Given(one, self.matrix, self.gains[k : k + 1], self.noise_std)

    def noise(self, key: Key[Array, ""], which: Array) -> Array:
        """Draws of the prior, corrected."""
        prior_key, noise_key = jax.random.split(key)
        x = self.before.noise(prior_key, which)
        matrix, gains = (jnp.asarray(v, x.dtype) for v in (self.matrix, self.gains))
        seen = jnp.matmul(x, matrix.T, precision=_EXACT)
        seen = seen + self.noise_std * jax.random.normal(noise_key, seen.shape, x.dtype)
        mine = jax.nn.one_hot(which, self.size[0], dtype=x.dtype)
        return x - jnp.einsum("bk,knq,bq->bn", mine, gains, seen, precision=_EXACT)
