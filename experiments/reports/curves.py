"""The curves of Improved DDPM (arXiv:2102.09672, figures 1, 2, 5), and its gradient's variance.

python -m experiments.reports.curves FOLDER draws those that need no network: the ratio of the two fixed
variances, and the signal left by the linear and the cosine table. `along_the_table` draws the parts
of the bound of trained networks, from `score_jax.losses.schedule_bound`, and `learned_variance` the
variance that one has chosen between the fixed ones.
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from score_jax import discrete, losses, viz
from score_jax.types import Params

# The parts of a bound that have a value at every index, with what their axis says.
PARTS = {
    "terms": "term (bits/dim)",
    "x0_mse": "mean squared error of x0",
    "noise_mse": "mean squared error of the noise",
}
COLORS = ("#1c5d99", "#d1495b", "#66a182", "#edae49", "#6d597a")


def _draw(lines: Mapping[str, tuple[Any, Any]], **axes_options: Any) -> Image.Image:
    """Lines by name, each (x, y), on one pair of axes."""
    figure = viz.new_figure(7, 4)
    axes = figure.add_subplot()
    for i, (name, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, color=COLORS[i % len(COLORS)], linewidth=1.6, label=name)
    axes.set(**axes_options)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    return viz.render(figure)


def variance_ratio(steps: tuple[int, ...] = (100, 1000, 4000)) -> Image.Image:
    """Figure 1: beta~_i / beta_i along the table: the small and the large variance nearly agree."""
    lines = {}
    for n in steps:
        table = discrete.linear(n)
        lines[f"{n} steps"] = (table.times[1:], (table.posterior_variance / table.betas)[1:])
    return _draw(lines, xlabel="t = (i + 1)/N", ylabel="small / large variance", xscale="log")


def signal(n: int = 1000) -> Image.Image:
    """Figure 5 of the paper: alpha_bar of the linear and of the cosine table."""
    tables = {"linear": discrete.linear(n), "cosine": discrete.cosine(n)}
    lines = {name: (table.times, table.alpha_bar) for name, table in tables.items()}
    return _draw(lines, xlabel="t = (i + 1)/N", ylabel="alpha_bar")


def learned_variance(
    diffusion: discrete.Diffusion, reverse: discrete.ReverseFn, key: Any, x0: Any
) -> Image.Image:
    """The mean variance a network has learned along the table, between the two fixed ones.

    All relative to beta; `reverse` is `reverse_fn(diffusion, ...)`, x0 (b, *d) data.
    """

    def at(i: Any) -> Any:
        z = jax.random.normal(jax.random.fold_in(key, i), x0.shape, x0.dtype)
        return reverse(discrete.q_sample(diffusion, x0, i, z), i).log_variance.mean()

    chosen = np.asarray(jax.jit(lambda: jax.lax.map(at, jnp.arange(diffusion.n)))())
    small = np.exp(diffusion.posterior_log_variance)
    lines = {"large": diffusion.betas, "learned": np.exp(chosen), "small": small}
    lines = {name: (diffusion.times, value / diffusion.betas) for name, value in lines.items()}
    return _draw(
        lines, xlabel="t = (i + 1)/N", ylabel="variance / beta", xscale="log", yscale="log"
    )


def along_the_table(lines: Mapping[str, tuple[Any, Any]], ylabel: str) -> Image.Image:
    """Figure 2: a part of the bound along the table, of one or more networks, by name.

    Each line is (times (n,), values (n,)): `Diffusion.times`, and the mean over the examples of
    `terms`, `x0_mse` or `noise_mse` of a `ScheduleBound`.
    """
    # A term may be zero, or less by rounding, which a logarithm does not take.
    shown = {name: (t, np.maximum(np.asarray(v), 1e-9)) for name, (t, v) in lines.items()}
    return _draw(shown, xlabel="t = (i + 1)/N", ylabel=ylabel, xscale="log", yscale="log")


def gradient_variance(
    loss: Any,
    params: Params,
    batch: Mapping[str, Any],
    sampler: losses.IndexSampler,
    state: Any,
    key: Any,
    *,
    draws: int = 100,
) -> float:
    """Sum over the parameters of the variance of the gradient of `loss` on one batch.

    Over `draws` of the indices (by `sampler` in `state`) and of the noise. The ratio of that of
    `uniform_indices` to that of a filled `loss_second_moment` is what importance sampling gains.
    """
    b = batch["x"].shape[0]

    def gradient(key: Any) -> Any:
        index_key, loss_key = jax.random.split(key)
        index, weight = sampler.draw(state, index_key, b)
        grad = jax.grad(loss, has_aux=True)
        return grad(params, loss_key, {**batch, "index": index, "weight": weight})[0]

    def body(carry: Any, key: Any) -> tuple[Any, None]:
        count, mean, square = carry
        count, grad = count + 1, gradient(key)
        # Welford's recursion: the sum of squares about the mean, without its cancellation.
        step = jax.tree.map(lambda g, m: g - m, grad, mean)
        mean = jax.tree.map(lambda m, s: m + s / count, mean, step)
        parts = jax.tree.map(lambda g, m, s: jnp.sum((g - m) * s), grad, mean, step)
        return (count, mean, square + sum(jax.tree.leaves(parts))), None

    @jax.jit
    def run(key: Any) -> Any:
        start = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params), jnp.float32(0))
        return jax.lax.scan(body, start, jax.random.split(key, draws))[0][2]

    return float(run(key)) / (draws - 1)


def main(folder: pathlib.Path) -> None:
    """Draw what needs no network into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in {"iddpm_variance": variance_ratio(), "iddpm_signal": signal()}.items():
        viz.save_image(image, folder / f"{name}.png")
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
