"""Gradients in bfloat16, of every layer and network: sums over places and examples are float32."""

import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.nets.blocks import FirConv, Resample, Style
from score_jax.nets.classifier import AttentionPool
from score_jax.nets.layers import Conv, Dense, GroupNorm, Pointwise, plus
from score_jax.nets.refinenet import InstanceNormPlus
from tests.nets.test_nets_contract import CASES, inputs

HALF = jnp.bfloat16
STYLE = Style(groups=2, dtype=HALF)
IMAGE, PLACES = (8, 16, 16, 4), 8 * 16 * 16  # more places than bfloat16 can count
LAYERS = {
    "conv": (Conv(4, dtype=HALF), IMAGE),
    "strided": (Conv(4, stride=2, dtype=HALF), (32, *IMAGE[1:])),
    "series": (Conv(4, dtype=HALF), (8, 256, 4)),
    "volume": (Conv(4, dtype=HALF), (8, 4, 8, 8, 4)),
    "linear": (Dense(4, dtype=HALF), (PLACES, 4)),
    "pointwise": (Pointwise(4, dtype=HALF), IMAGE),
    "fir_down": (FirConv(4, (1, 3, 3, 1), False, HALF), (32, *IMAGE[1:])),
    "fir_up": (FirConv(4, (1, 3, 3, 1), True, HALF), IMAGE),
    "resampled": (Resample(STYLE, True, 4), IMAGE),
    "group_norm": (GroupNorm(2), IMAGE),
    "instance_norm": (InstanceNormPlus(), IMAGE),
    "pool": (AttentionPool(STYLE, 4, 2), (64, 4, 4, 4)),
}


class Moved(nn.Module):
    """What a block does with the embedding of its noise input: scales and shifts of all places."""

    @nn.compact
    def __call__(self, x):
        """Scale and shift x."""
        scale, shift = (self.param(n, nn.initializers.ones, (4,)) for n in ("scale", "shift"))
        return plus(x, *(jnp.broadcast_to(v, (len(x), 1, 1, 4)) for v in (shift, scale)))


LAYERS["moved"] = (Moved(), IMAGE)


def norm(tree):
    """The Euclidean norm of every leaf."""
    return jax.tree.map(lambda a: float(np.linalg.norm(np.ravel(a).astype(np.float32))), tree)


def distances(grads, exact):
    """Path -> |g - exact| / |exact| of every leaf with a gradient."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(exact)]
    off = jax.tree.leaves(norm(jax.tree.map(np.subtract, *jax.device_get((grads, exact)))))
    sizes = jax.tree.leaves(norm(exact))
    return {p: a / b for p, a, b in zip(paths, off, sizes, strict=True) if b > 0}


def in_float32(net):
    """The layer with all of its fields in float32."""
    if isinstance(getattr(net, "style", None), Style):
        return net.clone(style=Style(groups=2))
    return net.clone(dtype=None) if hasattr(net, "dtype") else net


@pytest.mark.slow
def test_every_layer_sums_its_gradients_in_float32():
    """The same inputs in bfloat16, and a cotangent of one sign: within 1 % of float32's gradients."""
    params, data = {}, {}
    for name, (net, shape) in LAYERS.items():
        data[name] = jax.random.uniform(jax.random.key(2), shape, HALF)
        params[name] = jax.eval_shape(net.init, jax.random.key(0), data[name])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda v: jnp.asarray(rng.uniform(0.1, 1, v.shape), v.dtype), params)

    def gradients(half):
        def total(params):
            value = 0.0
            for name, (net, _) in LAYERS.items():
                x = data[name] if half else data[name].astype(jnp.float32)
                out = (net if half else in_float32(net)).apply(params[name], x)
                assert name == "pool" or out.dtype == x.dtype
                value += out.astype(jnp.float32).sum()
            return value

        return jax.grad(total)(params)

    off = distances(*jax.jit(lambda: (gradients(True), gradients(False)))())
    assert max(off.values()) < 0.01


@jax.custom_vjp
def rounded(x):
    """x rounded to bfloat16, and so is what is sent back; the arithmetic stays float32."""
    return x.astype(HALF).astype(jnp.float32)


rounded.defvjp(lambda x: (rounded(x), None), lambda _, g: (rounded(g),))


def rounding(call, args, kwargs, context):
    """Round what every layer returns."""
    out = call(*args, **kwargs)
    return jax.tree.map(rounded, out) if context.method_name == "__call__" else out


SHORT = ("series", "mlp")
LONG = pytest.mark.skipif(
    "SCORE_JAX_LONG" not in os.environ, reason="set SCORE_JAX_LONG=1: minutes"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n if n in SHORT else pytest.param(n, marks=LONG) for n in CASES])
def test_gradients_of_networks_are_as_near_as_rounding_allows(name):
    """Every parameter's gradient within 10 %, or twice as far as float32 with rounded activations."""
    net, shape = CASES[name]
    x, label = inputs(shape)
    x = x + jax.random.normal(jax.random.key(1), x.shape)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, label)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda v: (0.3 * rng.normal(size=v.shape)).astype(v.dtype), shapes)

    @jax.jit
    def every(params, x):
        gradient = lambda net: jax.grad(lambda p: jnp.square(net.apply(p, x, label) - 1).mean())(
            params
        )
        with nn.intercept_methods(rounding):
            explained = gradient(net)
        return gradient(net.clone(dtype=HALF)), explained, gradient(net)

    half, explained, exact = every(params, x)
    off, allowed = distances(half, exact), distances(explained, exact)
    # The bias of an attention's keys cancels in the softmax: its gradient is rounding alone.
    worst = max((p for p in off if allowed[p] < 1), key=lambda p: off[p])
    print(f"{name}: {worst} {off[worst]:.3f} ({allowed[worst]:.3f} by rounding)")
    assert all(v < max(0.1, 2 * allowed[p]) for p, v in off.items())
