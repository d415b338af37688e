"""Data whose score is known at every time: Gaussians and mixtures of Gaussians."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax._math import as_time


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of Gaussians in d dimensions: weights (k,), means (k, d), covariances (k, d, d)."""

    weights: Any
    means: Any
    covs: Any

    @property
    def dim(self):
        return self.means.shape[1]

    def logp(self, sde, x, t):
        """log p_t(x) (b,) of the data carried by the SDE to the scalar time t; t=None: the data."""

        @jax.jit
        def logp(x, t):
            m, s = (1.0, 0.0) if t is None else (sde.mean_coeff(t), sde.std(t))
            flat = x.reshape(x.shape[0], -1)
            covs = m**2 * self.covs + s**2 * jnp.eye(self.dim, dtype=x.dtype)[None]
            logs = [
                jnp.log(w) + normal_logpdf(flat - (m * mu)[None], cov)
                for w, mu, cov in zip(self.weights, self.means, covs, strict=True)
            ]
            return jax.scipy.special.logsumexp(jnp.stack(logs), axis=0)

        return logp(x, t)

    def score_fn(self, sde):
        """The exact score as a ScoreFn."""

        def score(x, t):
            return jax.grad(lambda v: self.logp(sde, v, as_time(t)).sum())(x)

        return score

    def sample(self, n, seed=0):
        rng = np.random.default_rng(seed)
        which = rng.choice(len(self.weights), size=n, p=np.asarray(self.weights, np.float64))
        chol = np.linalg.cholesky(np.asarray(self.covs, np.float64))
        z = rng.normal(size=(n, self.dim))
        x = np.asarray(self.means)[which] + np.einsum("nij,nj->ni", chol[which], z)
        return jnp.asarray(x, self.means.dtype)


def normal_logpdf(x, cov):
    """log N(x; 0, cov) of (b, d)."""
    chol = jnp.linalg.cholesky(cov)
    z = jax.scipy.linalg.solve_triangular(chol, x.T, lower=True)
    constant = 0.5 * x.shape[1] * np.log(2 * np.pi) + jnp.log(jnp.diag(chol)).sum()
    return -constant - 0.5 * jnp.square(z).sum(axis=0)


def gaussian(mean, cov, dtype=jnp.float32):
    """One Gaussian as a mixture of one."""
    return Mixture(
        jnp.ones(1, dtype), jnp.asarray(mean, dtype)[None], jnp.asarray(cov, dtype)[None]
    )


def random_gaussian(dim, seed=0, dtype=jnp.float32):
    """A Gaussian with a full covariance of moderate condition."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    return gaussian(0.5 * rng.normal(size=dim), 0.3 * a @ a.T + 0.1 * np.eye(dim), dtype)


def isotropic(sde, mean, std):
    """The score of N(mean, std^2 I) under the SDE, in one line: cheap for any shape."""

    def score(x, t):
        m, s = sde.mean_coeff(t), sde.std(t)
        return -(x - m * mean) / (m**2 * std**2 + s**2)

    return score


@dataclasses.dataclass(frozen=True, eq=False)
class Normal:
    """N(mean (d,), basis diag(spread) basis^T): score and flow in closed form, little to compile."""

    mean: Any
    basis: Any
    spread: Any

    def _axes(self, sde, x, t):
        """(coordinates along the axes (b, d), their variances (1, d)) at t; t=None: the data."""
        m, s = (1.0, 0.0) if t is None else (sde.mean_coeff(t), sde.std(t))
        flat = x.reshape(x.shape[0], -1)
        return (flat - (m * self.mean)[None]) @ self.basis, (m**2 * self.spread + s**2)[None]

    def score_fn(self, sde):
        """The exact score, for data of any rank and scalar times."""

        def score(x, t):
            along, variance = self._axes(sde, x, as_time(t).astype(x.dtype))
            return -((along / variance) @ self.basis.T).reshape(x.shape)

        return score

    def logp(self, sde, x, t):
        """log p_t(x) (b,); t=None: of the data."""
        along, variance = self._axes(sde, x, t)
        return -0.5 * (jnp.square(along) / variance + jnp.log(2 * np.pi * variance)).sum(axis=1)

    def flow(self, sde, x, t, t_next):
        """Where the probability flow carries x from t to t_next, exactly: along each axis a ratio."""

        @jax.jit
        def carried(x, t, t_next):
            along, variance = self._axes(sde, x, t)
            _, after = self._axes(sde, x, t_next)
            centre = (sde.mean_coeff(t_next) * self.mean)[None]
            return (centre + (along * jnp.sqrt(after / variance)) @ self.basis.T).reshape(x.shape)

        return carried(x, t, t_next)

    def model_logp(self, sde, x, t0):
        """What the flow's likelihood is at t0: log p_t0 and the error that the prior's mismatch makes.

        The flow carries p_t exactly, and at t1 the prior stands in for it.
        """

        @jax.jit
        def logp(x, t0):
            t1 = jnp.asarray(sde.t1, x.dtype)
            z = self.flow(sde, x, t0, t1)
            return self.logp(sde, x, t0) + sde.prior_logp(z) - self.logp(sde, z, t1)

        return logp(x, t0)

    def sample(self, n, seed=0):
        mean, basis, spread = (np.asarray(v) for v in (self.mean, self.basis, self.spread))
        z = np.random.default_rng(seed).normal(size=(n, len(mean))).astype(mean.dtype)
        return jnp.asarray(mean[None] + (z * np.sqrt(spread)[None]) @ basis.T)


def random_normal(dim, seed=0, dtype=jnp.float32):
    """As `random_gaussian`, a full covariance of moderate condition."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    mean, spread = 0.5 * rng.normal(size=dim), np.linspace(0.1, 1.0, dim)
    return Normal(*(jnp.asarray(v, dtype) for v in (mean, basis, spread)))
