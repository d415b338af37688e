"""The curves of Improved DDPM (arXiv:2102.09672, figures 1, 2, 5), and the variance of its gradient.

`python -m experiments.reports.curves FOLDER` draws the curves that need no network: the ratio of the two
fixed variances, and the signal left by the linear and the cosine schedule.
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from score_jax import losses, viz
from score_jax.model import Model
from score_jax.sde import CosineBetas, LinearBetas, NoiseSchedule, bridge
from score_jax.types import Loss, Params, PRNGKey

# The parts of a bound that have a value at every index, with the label of their axis.
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


def _small_and_large(schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """The two fixed variances of the step to each time of a schedule from the second on: (n - 1,)."""
    times = schedule.times
    found = bridge(schedule, jnp.asarray(times[1:]), jnp.asarray(times[:-1]))
    return np.exp(found.small), np.exp(found.large)


def variance_ratio(steps: tuple[int, ...] = (100, 1000, 4000)) -> Image.Image:
    """Figure 1: beta~_i / beta_i of a noise schedule; the small and the large variance nearly agree."""
    lines = {}
    for n in steps:
        schedule = LinearBetas(n)
        small, large = _small_and_large(schedule)
        lines[f"{n} steps"] = (schedule.times[1:], small / large)
    return _draw(lines, xlabel="t = (i + 1)/n", ylabel="small / large variance", xscale="log")


def signal(n: int = 1000) -> Image.Image:
    """Figure 5 of the paper: alpha_bar of the linear and of the cosine schedule."""
    schedules = {"linear": LinearBetas(n), "cosine": CosineBetas(n)}
    lines = {name: (schedule.times, schedule.alpha_bar) for name, schedule in schedules.items()}
    return _draw(lines, xlabel="t = (i + 1)/n", ylabel="alpha_bar")


def learned_variance(model: Model, params: Params, key: PRNGKey, x0: Any) -> Image.Image:
    """The mean variance that a network has learned, between the two fixed ones.

    All relative to the large one, at the times of the model's noise schedule; x0 (b, *d) is data.
    """
    schedule: Any = model.sde

    def at(place: Any) -> Any:
        i, t, t_next = place
        z = jax.random.normal(jax.random.fold_in(key, i), x0.shape, x0.dtype)
        mean, std = schedule.marginal(x0, t)
        return model.reverse(params)(mean + std * z, t, t_next).log_variance.mean()

    times = jnp.asarray(schedule.times, x0.dtype)
    places = (jnp.arange(1, schedule.n), times[1:], times[:-1])
    chosen = np.exp(jax.jit(lambda: jax.lax.map(at, places))())
    small, large = _small_and_large(schedule)
    lines = {"large": large, "learned": chosen, "small": small}
    lines = {name: (schedule.times[1:], value / large) for name, value in lines.items()}
    return _draw(
        lines, xlabel="t = (i + 1)/n", ylabel="variance / large", xscale="log", yscale="log"
    )


def along_the_schedule(lines: Mapping[str, tuple[Any, Any]], ylabel: str) -> Image.Image:
    """Figure 2: a part of the bound at each time, of one or more networks, by name.

    Each line is (times (n,), values (n,)): the times of the bound, and the mean over the examples of
    `terms`, `x0_mse` or `noise_mse` of a `ScheduleBound`.
    """
    # A term may be zero, or less by rounding, which a logarithm does not take.
    shown = {name: (t, np.maximum(np.asarray(v), 1e-9)) for name, (t, v) in lines.items()}
    return _draw(shown, xlabel="t = (i + 1)/n", ylabel=ylabel, xscale="log", yscale="log")


def gradient_variance(
    loss: Loss,
    params: Params,
    batch: Mapping[str, Any],
    sampler: losses.IndexSampler,
    state: Any,
    key: PRNGKey,
    *,
    draws: int = 100,
) -> float:
    """Sum over the parameters of the variance of the gradient of `loss` on one batch.

    Over `draws` of the indices (by `sampler` in `state`) and of the noise. The ratio of that of
    `uniform_indices` to that of a filled `loss_second_moment` is the gain of importance sampling.
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
    """Draw the curves that need no network into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in {"iddpm_variance": variance_ratio(), "iddpm_signal": signal()}.items():
        viz.save_image(image, folder / f"{name}.png")
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
