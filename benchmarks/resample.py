"""How the forms chosen in score_jax/nets compare with plain alternatives, as ratios of one run.

    python -m benchmarks.resample [--repeats 5]

FIR doubling and halving as written (sums of shifted slices, one axis after the other) against one
grouped convolution and against a plain two-dimensional convolution of every channel as its own image;
GroupNorm as written against Flax's and against mean and variance in two passes; attention as written
(`jax.nn.dot_product_attention`) against two einsums. Forward, and gradient of a sum of sines. Every
pair of times is taken in turn, so that a busy machine slows both; printed is the median of ratios
(alternative over ours: above 1, ours is faster). Each pair is first checked to agree.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from score_jax.nets.layers import GroupNorm, attend
from score_jax.nets.resample import DEFAULT_KERNEL, fir_down, fir_up

SHAPE = (16, 32, 32, 64)


def taps_2d(gain: float) -> np.ndarray:
    """The separable kernel as a matrix with sum `gain`."""
    kernel = np.outer(DEFAULT_KERNEL, DEFAULT_KERNEL).astype(np.float32)
    return kernel / kernel.sum() * gain


def grouped(x: Any, up: bool) -> Any:
    """One convolution with a group for every channel."""
    c = x.shape[3]
    w = jnp.asarray(np.tile(taps_2d(4.0 if up else 1.0)[:, :, None, None], (1, 1, 1, c)))
    return lax.conv_general_dilated(
        x, w, (1, 1) if up else (2, 2), [(2, 2)] * 2 if up else [(1, 1)] * 2,
        lhs_dilation=(2, 2) if up else (1, 1), dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=c,
    )  # fmt: skip


def plain(x: Any, up: bool) -> Any:
    """Every channel as its own image of one channel; zeros are made, entries thrown away."""
    b, h, w, c = x.shape
    y = jnp.transpose(x, (0, 3, 1, 2)).reshape(b * c, h, w, 1)
    if up:
        wide = jnp.zeros((b * c, h, 2, w, 2, 1), x.dtype).at[:, :, 0, :, 0].set(y)
        y = wide.reshape(b * c, 2 * h, 2 * w, 1)
    kernel = jnp.asarray(taps_2d(4.0 if up else 1.0)[:, :, None, None])
    pad = [(2, 1)] * 2 if up else [(1, 1)] * 2
    y = lax.conv_general_dilated(y, kernel, (1, 1), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = y if up else y[:, ::2, ::2]
    return jnp.transpose(y.reshape(b, c, *y.shape[1:3]), (0, 2, 3, 1))


def two_pass_norm(x: Any) -> Any:
    """Group normalisation from its definition, 16 groups, no scale or shift."""
    b, h, w, c = x.shape
    y = x.reshape(b, h * w, 16, c // 16)
    mean = y.mean(axis=(1, 3), keepdims=True)
    variance = jnp.square(y - mean).mean(axis=(1, 3), keepdims=True)
    return ((y - mean) * lax.rsqrt(variance + 1e-6)).reshape(x.shape)


def einsum_attention(q: Any) -> Any:
    """Self-attention of one head by two einsums and a softmax."""
    logits = jnp.einsum("bnhc,bmhc->bhnm", q, q) / np.sqrt(q.shape[3])
    return jnp.einsum("bhnm,bmhc->bnhc", jax.nn.softmax(logits), q)


def pairs() -> list[tuple[str, Callable[..., Any], dict[str, Callable[..., Any]], Any]]:
    """(name, ours, alternatives, input) of every comparison."""
    x = jax.random.normal(jax.random.key(0), SHAPE)
    q = jax.random.normal(jax.random.key(1), (SHAPE[0], 256, 1, SHAPE[3]))
    scale = {"params": {"scale": jnp.ones(SHAPE[3]), "bias": jnp.zeros(SHAPE[3])}}
    flax = nn.GroupNorm(num_groups=16, epsilon=1e-6)
    return [
        (
            "FIR, double", fir_up,
            {"grouped": lambda x: grouped(x, True), "plain 2-D": lambda x: plain(x, True)}, x,
        ),
        (
            "FIR, halve", fir_down,
            {"grouped": lambda x: grouped(x, False), "plain 2-D": lambda x: plain(x, False)}, x,
        ),
        (
            "GroupNorm", lambda x: GroupNorm(16).apply(scale, x),
            {"flax": lambda x: flax.apply(scale, x), "two passes": two_pass_norm}, x,
        ),
        ("attention", lambda q: attend(q, q, q), {"einsum": einsum_attention}, q),
    ]  # fmt: skip


def seconds(f: Callable[..., Any], x: Any) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    jax.block_until_ready(f(x))
    return time.perf_counter() - start


def compare(ours: Callable[..., Any], other: Callable[..., Any], x: Any, repeats: int) -> Any:
    """(milliseconds of ours, median ratio other / ours), after the results were seen to agree."""
    a, b = jax.jit(ours), jax.jit(other)
    one, two = a(x), b(x)
    worst = float(jnp.abs(one - two).max() / jnp.abs(one).max())
    if worst > 1e-4:
        raise ValueError(f"the two forms differ by {worst:.1e} of the largest output")
    times = [(seconds(a, x), seconds(b, x)) for _ in range(repeats)]
    return 1e3 * statistics.median(t for t, _ in times), statistics.median(u / t for t, u in times)


def main(repeats: int) -> None:
    """Print one line for every alternative."""
    print(f"{jax.default_backend()}, {SHAPE}, float32; ratio = alternative / ours")
    gradient = lambda f: jax.grad(lambda x: jnp.sin(f(x)).sum())
    for name, ours, others, x in pairs():
        for other, f in others.items():
            time_f, ratio_f = compare(ours, f, x, repeats)
            time_g, ratio_g = compare(gradient(ours), gradient(f), x, repeats)
            print(
                f"{name:12} vs {other:10}  forward {time_f:8.2f} ms  x {ratio_f:7.2f}"
                f"   gradient {time_g:8.2f} ms  x {ratio_g:7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    main(parser.parse_args().repeats)
