r"""A mixture of Gaussians given a linear measurement y = A x0 + n, n from N(0, sigma^2 I).

    S_k = A C_k A^T + sigma^2 I,  K_k = C_k A^T S_k^+
    (1)  mu_k' = mu_k + K_k (y - A mu_k),  C_k' = C_k - K_k A C_k,  w_k' ~ w_k N(y; A mu_k, S_k)
    (2)  p(y) = sum_k w_k N(y; A mu_k, S_k)

K_k, C_k' and S_k do not depend on y, so many y cost little more than one.

The score of p(x(t) | y) is that of the posterior mixture, or, for large fields, follows from the moments
of p(x0 | x, k), which are diagonal in the axes of C_k, N(a_k, W_k):

    (3)  p(x | y) ~ sum_k w_k N(x; m mu_k, m^2 C_k + s^2 I) N(y; A a_k, T_k),  T_k = A W_k A^T + sigma^2 I
    (4)  score of one term = score of N(x; ...) + (m / s^2) W_k A^T T_k^-1 (y - A a_k)
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax._math import as_time
from score_jax.analytic.covariance import Covariance, Dense, Given
from score_jax.analytic.density import parts, score_of
from score_jax.types import SDE, ScoreFn

# Singular directions of a measurement below this share of the largest are ignored.
_RANK = 1e-10
# Larger posteriors keep the form of their prior, without axes.
_DENSE = 1024


def _solved(root: Any, v: Any) -> tuple[Any, Any]:
    """T^-1 v and v^T T^-1 v of v (b, k, q), with T = root root^T (1 or b, k, q, q)."""
    one = root.shape[0] == 1
    columns = jnp.moveaxis(v, 0, -1)[None] if one else v[..., None]
    solve = partial(jax.lax.linalg.triangular_solve, root, left_side=True, lower=True)
    white = solve(columns)
    found = solve(white, transpose_a=True)
    found = jnp.moveaxis(found[0], -1, 0) if one else found[..., 0]
    return found, (v * found).sum(axis=2)


class Conditioner:
    """The posteriors of a mixture given y = matrix x0 + noise_std n, as a function of y (q,).

    Made by `Mixture.conditioner`: matrix (q, n) on the flat x0. Costs the eigenvalues of one q x q
    matrix a component, so q up to some 2,000. Posteriors of more than 1,024 entries under a structured
    covariance have draws, mean and std, and `score`, which costs a Cholesky factor of that size a step.

    Raises ValueError for shapes that do not fit or a negative noise_std.
    """

    def __init__(self, prior: Any, matrix: Any, noise_std: float) -> None:
        a, n = np.asarray(matrix, np.float64), prior.covariance.size[1]
        if a.ndim != 2 or a.shape[1] != n:
            raise ValueError(f"matrix must have shape (len(y), n) with n = {n}, got {a.shape}")
        if not noise_std >= 0:
            raise ValueError(f"noise_std must be at least 0, got {noise_std!r}")
        self.prior, self.matrix, self.noise_std = prior, a, noise_std
        cross = prior.covariance.times(a.T)
        inside = a @ cross + noise_std**2 * np.eye(len(a))
        values, vectors = np.linalg.eigh(0.5 * (inside + np.swapaxes(inside, 1, 2)))
        seen = values > _RANK * np.maximum(values.max(axis=1, keepdims=True), 1e-30)
        # S^+ = roots roots^T: (k, q, q), 0 in the directions that are not seen.
        self._roots = vectors * np.where(seen, 1 / np.sqrt(np.where(seen, values, 1)), 0)[:, None]
        self._constants = np.log(prior.weights) - 0.5 * (
            seen * np.log(2 * math.pi * np.where(seen, values, 1))
        ).sum(axis=1)
        self.gains = cross @ self._roots @ np.swapaxes(self._roots, 1, 2)
        self.covariance = self._left(cross)

    def _left(self, cross: np.ndarray) -> Covariance:
        """The covariances of the posterior."""
        before = self.prior.covariance
        given = Given(before, self.matrix, self.gains, self.noise_std)
        if not isinstance(before, Dense) and before.size[1] > _DENSE:
            return given
        return Dense(given.dense())

    def _residuals(self, y: Any) -> np.ndarray:
        """y - A mu_k: (k, q)."""
        y = np.asarray(y, np.float64).reshape(-1)
        if len(y) != len(self.matrix):
            raise ValueError(f"y must have {len(self.matrix)} entries, got {len(y)}")
        return y[None] - self.prior.means.reshape(len(self.prior.means), -1) @ self.matrix.T

    def log_weights(self, y: Any) -> np.ndarray:
        """log(w_k N(y; A mu_k, S_k)) for y (q,): (k,)."""
        white = np.einsum("kq,kqr->kr", self._residuals(y), self._roots)
        return self._constants - 0.5 * np.square(white).sum(axis=1)

    def log_evidence(self, y: Any) -> float:
        """log p(y) in nats, eq. (2)."""
        return float(np.logaddexp.reduce(self.log_weights(y)))

    def __call__(self, y: Any) -> Any:
        """The posterior given y (q,), eq. (1): a `Mixture`."""
        logs = self.log_weights(y)
        weights = np.maximum(np.exp(logs - logs.max()), 1e-300)
        moved = np.einsum("knq,kq->kn", self.gains, self._residuals(y))
        means = self.prior.means + moved.reshape(self.prior.means.shape)
        return type(self.prior)(weights, means, self.covariance)

    def score(self, sde: SDE, y: Any) -> ScoreFn:
        """The exact score of p(x(t) | y), with y (b, q) an array that may be traced, one an example.

        >>> score = data.conditioner(matrix, 0.1).score(sde, y)
        """
        if isinstance(self.covariance, Given):
            return self._score_by_moments(sde, y)
        k = len(self.prior.weights)

        def score(x: Any, t: Any) -> Any:
            t = as_time(t)
            gains, roots, matrix, means, constants = (
                jnp.asarray(v, x.dtype)
                for v in (
                    self.gains, self._roots, self.matrix, self.prior.means.reshape(k, -1),
                    self._constants,
                )
            )  # fmt: skip
            exact = jax.lax.Precision.HIGHEST
            there = jnp.matmul(means, matrix.T, precision=exact)
            away = jnp.asarray(y, x.dtype)[:, None] - there[None]
            white = jnp.einsum("bkq,kqr->bkr", away, roots, precision=exact)
            logs = constants[None] - 0.5 * jnp.square(white).sum(axis=2)
            logs = jax.nn.log_softmax(logs, axis=1)
            moved = means[None] + jnp.einsum("knq,bkq->bkn", gains, away, precision=exact)
            found = parts(self.covariance, logs, moved, x, sde.mean_coeff(t), sde.std(t))
            return score_of(self.covariance, found, x)

        return score

    def _score_by_moments(self, sde: SDE, y: Any) -> ScoreFn:
        """The score by eq. (3) and (4), of a prior whose axes are known."""
        before, (k, n) = self.prior.covariance, self.prior.covariance.size
        # In the left singular vectors y is independent of x0 beyond the rank of the matrix.
        left, values, rows = np.linalg.svd(self.matrix, full_matrices=False)
        kept = values > _RANK**0.5 * values.max()
        left, rows = left[:, kept], values[kept, None] * rows[kept]
        q = len(rows)
        wide = np.broadcast_to(rows[:, None], (q, k, n)).astype(np.float32)
        with jax.ensure_compile_time_eval():  # known values, also while a sampler is traced
            along = np.asarray(before.along(jnp.asarray(wide)))
        means = self.prior.means.reshape(k, n)

        def score(x: Any, t: Any) -> Any:
            t, exact = as_time(t), jax.lax.Precision.HIGHEST
            a, mu, turn, v = (
                jnp.asarray(value, x.dtype)
                for value in (np.moveaxis(along, 1, 0), means, left, before.values)
            )
            logs = jnp.log(jnp.asarray(self.prior.weights, x.dtype))[None]
            m = sde.mean_coeff(t)
            found = parts(before, logs, mu[None], x, m, sde.std(t))
            m, s2 = (c.reshape(-1, 1, 1) for c in (m, jnp.square(sde.std(t))))
            seen = jnp.matmul(jnp.asarray(y, x.dtype), turn, precision=exact)[:, None]
            there = jnp.einsum("kn,rn->kr", mu, jnp.asarray(rows, x.dtype), precision=exact)
            gain = m * v[None] / found.variance * found.along
            away = seen - there[None] - jnp.einsum("kqa,bka->bkq", a, gain, precision=exact)
            left_over = s2 * v[None] / found.variance
            inside = jnp.einsum("kqa,bka,kra->bkqr", a, left_over, a, precision=exact)
            inside = inside + self.noise_std**2 * jnp.eye(q, dtype=x.dtype)[None, None]
            root = jnp.linalg.cholesky(inside)
            solved, squares = _solved(root, away)
            diagonal = jnp.diagonal(root, axis1=-2, axis2=-1)
            logs = found.logs - 0.5 * squares - jnp.log(diagonal).sum(axis=2)
            pulled = jnp.einsum("kqa,bkq->bka", a, solved, precision=exact)
            moved = found.along / found.variance - m * v[None] / found.variance * pulled
            share = jax.nn.softmax(logs, axis=1)[:, :, None]
            return -before.together(share * moved).reshape(x.shape)

        return score
