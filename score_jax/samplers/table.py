"""Shim of the samplers of the former tables of betas: remove at the end."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_jax.discrete import (
    Diffusion,
    ReverseFn,
    at_index,
    check_index,
    log_alpha_bar,
    split_output,
    where,
    x0_to_noise,
)
from score_jax.samplers.grids import check_grid
from score_jax.samplers.simulate import FinalDenoising, simulate
from score_jax.score import NOISE, Output, score_fn
from score_jax.sde import from_betas
from score_jax.types import Apply, Params, SampleOut, ScoreFn, Step, StepOut, stateless


def table_ancestral(diffusion: Diffusion, reverse: ReverseFn) -> Step:
    """A draw of p(x_next | x) of a network, with its own variance if it has learned one.

    One evaluation; no noise is added at data. `reverse` is `reverse_fn(diffusion, ...)`.

    >>> step = table_ancestral(diffusion, reverse_fn(diffusion, net.apply, params, clean=static()))
    >>> out = simulate(key, step, x, table_grid(diffusion.n),
    ...                final_denoising=table_denoise(diffusion, reverse))
    """

    def update(key, x, t, t_next):  # type: ignore[no-untyped-def]
        i_next = diffusion.index_of(t_next)
        out = reverse(x, diffusion.index_of(t), i_next)
        std = jnp.where(where(i_next < 0, x), 0, jnp.exp(0.5 * out.log_variance))
        return StepOut(out.mean + std * jax.random.normal(key, x.shape, x.dtype), out.mean)

    return stateless(update, 1)


def ddim_move(
    diffusion: Diffusion,
    x0: Float[Array, "b *d"],
    x: Float[Array, "b *d"],
    i: Any,
    i_next: Any,
    *,
    eta: float = 0.0,
) -> tuple[Float[Array, "b *d"], Float[Array, "..."]]:
    """(mean (b, *d), sd broadcast to it) of x_j by DDIM, for a predicted x0 at index i.

    i is () or (b,), i_next of the same shape: -1 is data; n, one beyond the table, pure noise. It
    may lie above i (towards noise) if eta is 0.

    Raises ValueError unless 0 <= eta <= 1, or for an index outside the table.
    """
    _check_eta(eta)
    i = check_index(diffusion, i)
    i_next = check_index(diffusion, i_next, low=-1, high=diffusion.n)
    noise = x0_to_noise(diffusion, x0, x, i)
    signal, std = at_index(diffusion, i_next, x)
    if eta > 0:
        (a, a_rest), (b, b_rest) = (log_alpha_bar(diffusion, k, x) for k in (i, i_next))
        fresh = -jnp.expm1((a - b) + (a_rest - b_rest))
        sd = eta * std * jnp.sqrt(fresh / -jnp.expm1(a))
    else:
        sd = jnp.zeros_like(std)
    return signal * x0 + jnp.sqrt(jnp.square(std) - jnp.square(sd)) * noise, sd


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")


def table_ddim(diffusion: Diffusion, reverse: ReverseFn, *, eta: float = 0.0) -> Step:
    """DDIM on a table: eta from 0 (deterministic) to 1 (as random as ancestral); one evaluation.

    With eta 0 the step also goes towards noise (t_next > t; see `table_encode`).

    Raises ValueError unless 0 <= eta <= 1.
    """
    _check_eta(eta)

    def update(key, x, t, t_next):  # type: ignore[no-untyped-def]
        i = diffusion.index_of(t)
        mean, sd = ddim_move(diffusion, reverse(x, i).x0, x, i, diffusion.index_of(t_next), eta=eta)
        if not eta:
            return StepOut(mean, mean)
        return StepOut(mean + sd * jax.random.normal(key, x.shape, x.dtype), mean)

    return stateless(update, 1)


def table_denoise(diffusion: Diffusion, reverse: ReverseFn) -> FinalDenoising:
    """The last step of a sampler: the predicted x0; one evaluation."""

    def denoise(out: Any, t: Any) -> Any:
        return reverse(out.x, diffusion.index_of(t)).x0, 1

    return denoise


@dataclasses.dataclass(frozen=True)
class Tablewise:
    """A `Sampler` of `make(diffusion, reverse, **options)` over a grid, ending in x0.

    For `sample`, with the `ReverseFn` in the place of the score. See `tablewise`.
    """

    make: Callable[..., Step]
    diffusion: Diffusion
    options: tuple[tuple[str, Any], ...] = ()

    def run(
        self, key: Any, sde: Any, score: Any, x: Any, grid: Any, save_every: int | None = None
    ) -> SampleOut:
        """Take x (b, *d) along every interval of the grid, then to data."""
        del sde
        step = self.make(self.diffusion, score, **dict(self.options))
        end = table_denoise(self.diffusion, score)
        return simulate(key, step, x, grid, final_denoising=end, save_every=save_every)


def tablewise(make: Callable[..., Step], diffusion: Diffusion, **options: Any) -> Tablewise:
    """Make a `Sampler` of `table_ancestral` or `table_ddim`, for `sample` and what is built on it.

    >>> sampler = tablewise(table_ddim, diffusion, eta=0.5)
    """
    return Tablewise(make, diffusion, tuple(sorted(options.items())))


def table_score(
    diffusion: Diffusion,
    apply: Apply,
    params: Params,
    *,
    output: Output = NOISE,
    top: float | None = None,
    **kwargs: Any,
) -> ScoreFn:
    """The score in a network trained on a table, over the SDE `from_betas(diffusion.betas)`.

    With it few-step solvers, likelihood, guidance and correctors work for such a network. `output`
    is one of `score_jax.score`; of a network with a learned variance the first half of the channels
    is used. The network is told t n - 1, between the indices too, and not below 0 (arXiv:2206.00927
    section 3.4); `top` as in `label_index`.

    Raises ValueError for a respaced table: the score belongs to the one of training, whatever the
    grid.

    >>> sde, score = from_betas(diffusion.betas), table_score(diffusion, net.apply, params)
    """
    if diffusion.respaced:
        raise ValueError(
            f"diffusion must be the table of training, got a respaced one: {diffusion}"
        )
    scale = 1.0 if top is None else top / diffusion.n

    def first_half(params: Params, x: Any, label: Any, **kwargs: Any) -> Any:
        value = apply(params, x, label, **kwargs)
        return split_output(value, x, value.shape[-1] == 2 * x.shape[-1])[0]

    def label(t: Any) -> Any:
        return scale * jnp.maximum(t * diffusion.n - 1, 0)

    sde = from_betas(diffusion.betas)
    return score_fn(sde, first_half, params, label=label, output=output, **kwargs)


def table_grid(n: int, indices: Any = None) -> Any:
    """Shim of `schedule_grid`."""
    chosen = np.sort(np.asarray(range(n) if indices is None else list(indices)))
    return check_grid((chosen[::-1] + 1) / n, 1.0)
