r"""Exact log-likelihood through the probability-flow ODE.

With h(x, t) = f(x, t) - g(t)^2 score(x, t) / 2 the density obeys (arXiv:2011.13456 eq. 39)

    (1)  log p_t0(x) = log p_t1(z) + integral from t0 to t1 of div h(x(t), t) dt,   z = x(t1)

and the divergence is e . J e averaged over probes e of unit covariance (Hutchinson; Skilling), or exact
by all columns. Drift and divergence come from one evaluation of the network: J e is its forward
derivative at the same point. In another coordinate, y = x / c(t) and u for t, the same holds for the
flow F of y, and the ends add the log-determinant of c:

    (2)  log p_t0(x) = log p_t1(z) + integral of div_y F(y, u) du + D log(c(t1) / c(t0))

That is the density at t0; a `Gap` relates it to the density of the data at 0.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from score_jax._check import check, check_count, check_float, check_key
from score_jax._math import as_time, batch_sum, bcast
from score_jax._precision import exact_products
from score_jax.likelihood.gap import IGNORE, Gap
from score_jax.samplers.ode import (
    IN_TIME,
    Coordinate,
    batch_rms,
    flow_ends,
    solve_forward,
    with_first,
)
from score_jax.types import SDE, Scalar, ScoreFn, check_process, score_at

EXACT_UP_TO = 8  # dimensions: below, all columns cost about as much as a few probes


class LogLik(NamedTuple):
    """Log density in nats (b,), latent (b, *d), standard error over the probes (b,), evaluations.

    stderr is 0 for an exact divergence and NaN for a single probe, whose error is not known.
    """

    logp: Float[Array, " b"]
    z: Float[Array, "b *d"]
    stderr: Float[Array, " b"]
    nfe: Any


class Divergence(NamedTuple):
    """How the divergence is estimated: `probes(key, x)` (k, b, *d), and whether it is exact.

    The estimate of one probe e is sum(e * J e); exact probes are the unit vectors, and their estimates
    are summed.
    """

    probes: Callable[[Any, Any], Any]
    exact: bool


def hutchinson(n_probes: int = 1, *, gaussian: bool = False) -> Divergence:
    """Estimate by `n_probes` random probes of signs, or of normal numbers if `gaussian`.

    Unbiased; signs have the smaller variance. The probes are drawn once a solve, which keeps the
    field smooth. Raises ValueError unless n_probes >= 1.
    """
    check_count(n_probes=n_probes)
    draw = jax.random.normal if gaussian else jax.random.rademacher

    def probes(key: Key[Array, ""], x: Float[Array, "b *d"]) -> Float[Array, "k b *d"]:
        return draw(key, (n_probes, *x.shape), dtype=x.dtype)

    return Divergence(probes, False)


def exact_divergence() -> Divergence:
    """The exact divergence: one forward derivative per dimension."""

    def probes(key: Key[Array, ""], x: Float[Array, "b *d"]) -> Float[Array, "k b *d"]:
        dim = math.prod(x.shape[1:])
        unit = jnp.eye(dim, dtype=x.dtype).reshape(dim, 1, *x.shape[1:])
        return jnp.broadcast_to(unit, (dim, *x.shape))

    return Divergence(probes, True)


@exact_products
def log_likelihood(
    key: Key[Array, ""],
    sde: SDE,
    score: ScoreFn,
    x: Float[Array, "b *d"],
    *,
    t0: float = 1e-5,
    divergence: Divergence | None = None,
    gap: Gap = IGNORE,
    coordinate: Coordinate = IN_TIME,
    per_sample: bool = False,
    **options: Any,
) -> LogLik:
    """Log density of x (b, *d) in nats, eq. (1) of this module: LogLik.

    `divergence` is `hutchinson(k)` or `exact_divergence()`; by default exact up to 8 dimensions and
    one probe of signs above. `gap` relates p_t0 to the density at 0: `IGNORE` (as the authors),
    `OFFSET` or `TWEEDIE` (a bound, with noise). `per_sample` controls the error of every sample on its
    own. Options (`solver`, `controller`, `rtol`, `atol`, `norm`, `max_steps`) as for `probability_flow`;
    the tolerances hold for the data and for the density divided by the number of dimensions
    (`largest_part`). nfe counts network evaluations, each with its forward derivatives. z is the latent,
    stderr the error of the divergence alone.

    The result is a log density only if the score is the gradient of one density at every t. A guided
    score is not: its result is the density of its own flow.

    Data in half precision are computed and returned in single precision. Raises ValueError unless
    0 < t0 < t1 and x is floating point, and for arguments of another kind.

    >>> out = log_likelihood(key, VP(), score, x)
    >>> bpd = bits_per_dim(out.logp, x.shape[1:], levels=256, range=(-1, 1), x=x)
    """
    check_key(key, "log_likelihood(key, sde, score, x)")
    check_process(sde, score)
    check("t0", t0, 0 < t0 < sde.t1, f"in (0, t1={sde.t1})")
    check_float("x", x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if divergence is None:
        small = math.prod(x.shape[1:]) <= EXACT_UP_TO
        divergence = exact_divergence() if small else hutchinson()
    exact = divergence.exact
    probe_key, gap_key = jax.random.split(key)
    probes = divergence.probes(probe_key, x)
    start = as_time(t0).astype(x.dtype)
    x, noise = gap.start(gap_key, sde, x, start)
    ends = flow_ends(sde, x, t0, sde.t1, coordinate)
    options = with_first(ends, options)
    if options.get("norm") is None and options.get("controller") is None:
        options |= {"norm": largest_part}
    d = math.prod(x.shape[1:])

    def solve(batch: Any, probes: Any) -> Any:
        """The latents, the integral (b, k) of each probe, and the evaluations."""

        def field(u: Any, state: Any) -> Any:
            value, along = _along(
                lambda y: coordinate.field(sde, score, y, u), state[0], probes, exact
            )
            return value, along.T / d  # for each dimension, as the data: see `largest_part`

        y = batch / bcast(ends.scale_from, batch)
        begin = (y, jnp.zeros((batch.shape[0], 1 if exact else probes.shape[0]), batch.dtype))
        (y, change), nfe, _, _ = solve_forward(field, begin, ends.u_from, ends.u_to, **options)
        return y * bcast(ends.scale_to, y), change * d, nfe

    if per_sample:
        one = lambda xi, pi: solve(xi[None], pi[:, None])
        z, change, nfe = jax.vmap(one, in_axes=(0, 1))(x, probes)
        z, change = z[:, 0], change[:, 0]
    else:
        z, change, nfe = solve(x, probes)
    if gap.nfe:
        value, along = _along(lambda v: score_at(score, v, start), x, probes, exact)
        correct = lambda each: gap.correct(sde, x, noise, value, each, start)
        change = change + jax.vmap(correct)(along).T
    scales = jnp.log(ends.scale_to / ends.scale_from)
    logp = sde.prior_logp(z) + change.mean(axis=1) + d * scales
    return LogLik(logp, z, _standard_error(change, exact), nfe + gap.nfe)


def largest_part(error: PyTree[Float[Array, "..."]]) -> Scalar:
    """The larger of the errors of data and density, each its `batch_rms`.

    The density is one number for each example. As one entry beside a thousand pixels, its error would
    hardly count.
    """
    return jnp.max(jnp.stack([batch_rms(leaf) for leaf in jax.tree.leaves(error)]))


def _standard_error(change: Float[Array, "b k"], exact: bool) -> Float[Array, " b"]:
    """The standard error of the mean over the probes of (b, k): (b,)."""
    k = change.shape[1]
    if exact:
        return jnp.zeros_like(change[:, 0])
    if k == 1:
        return jnp.full_like(change[:, 0], jnp.nan)
    return change.std(axis=1, ddof=1) / math.sqrt(k)


def _along(field: Any, x: Any, probes: Any, exact: bool) -> tuple[Any, Any]:
    """A field at x, and each probe's estimate (k, b) of its divergence, from one evaluation."""
    value, derivative = jax.linearize(field, x)
    each = jax.vmap(batch_sum)(probes * jax.vmap(derivative)(probes))
    return value, each.sum(axis=0, keepdims=True) if exact else each
