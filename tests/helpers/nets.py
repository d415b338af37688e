"""Parameters, the convolution without rules of its own, and networks with fields that are not allowed."""

import jax
import numpy as np
from jax import lax


def filled(net, *inputs, **given):
    """Variables of the network with nothing at zero, by NumPy: a program that draws them is large."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs, **given))
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda v: (0.3 * rng.normal(size=v.shape)).astype(v.dtype), shapes)


def xlas(x, w, padding, *, stride=1, dilation=1, spacing=1):
    """The convolution without rules of ours."""
    d = w.ndim - 2
    if d == 0:
        return x @ w
    each = lambda n: n if isinstance(n, tuple) else (n,) * d
    pads = padding if isinstance(padding[0], tuple) else (padding,) * d
    axes = "DHW"[3 - d :]
    return lax.conv_general_dilated(
        x, w, each(stride), pads, each(dilation), each(spacing),
        (f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )  # fmt: skip


def forced(net, **fields):
    """A copy with fields that its types do not allow, past the tests' checks of types."""
    net = net.clone()
    for name, value in fields.items():
        object.__setattr__(net, name, value)
    return net
