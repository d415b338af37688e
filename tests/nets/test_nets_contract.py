"""What every network offers alike, by tracing alone: sizes, precision, recomputed blocks, classes."""

import re

import jax
import jax.numpy as jnp
import pytest

from score_jax.nets import (
    DDPM,
    EDM2,
    MLP,
    NCSN,
    DiT,
    EncoderUNet,
    NCSNpp,
    NCSNv2,
    SeriesUNet,
    UNet,
)

IMAGE = (2, 8, 12, 3)  # not square
SMALL = {"channels": 8, "channel_mult": (1, 2), "num_blocks": 1}
CASES = {
    "ncsnpp": (NCSNpp(**SMALL, attention=(6,), fir=True, progressive_input="residual"), IMAGE),
    "ncsnpp_ddpm": (NCSNpp(**SMALL, block="ddpm", progressive="output_skip"), IMAGE),
    "ddpm": (DDPM(**SMALL, attention=(6,), norm_groups=4), IMAGE),
    "ncsn": (NCSN(channels=4), IMAGE),
    "ncsnv2": (NCSNv2(channels=4), IMAGE),
    "ncsnv2_128": (NCSNv2(channels=4, variant=128), (2, 8, 16, 3)),
    "ncsnv2_256": (NCSNv2(channels=4, variant=256), (2, 8, 16, 3)),
    "unet": (UNet(**SMALL, attention_factors=(2,), num_heads=2, groups=4), IMAGE),
    "unet_series": (UNet(**SMALL, num_heads=2, groups=4, dims=1), (2, 12, 3)),
    "unet_volume": (UNet(**SMALL, num_heads=2, groups=4, dims=3), (2, 3, 4, 8, 1)),
    "edm2": (EDM2(**SMALL, attention_factors=(2,), num_head_channels=8), IMAGE),
    "dit": (DiT(width=12, depth=1, num_heads=2, dims=3), (2, 2, 4, 4, 1)),
    "classifier": (
        EncoderUNet(**SMALL, num_head_channels=4, groups=4, num_classes=5, resblock_updown=True),
        IMAGE,
    ),
    "series": (SeriesUNet(channels=8, groups=4), (2, 12, 3)),
    "mlp": (MLP(width=8, num_blocks=1), (2, 3)),
}  # fmt: skip
WITH_CLASSES = [
    "ncsnpp", "ddpm", "unet", "unet_series", "unet_volume", "series", "mlp", "edm2", "dit",
]  # fmt: skip
HALF = re.compile(r":bf16\[[\d,]*\] = (?:score_jax_conv|dot_general)")


def inputs(shape):
    """Data, and labels that are whole numbers, as all networks take."""
    return jnp.ones(shape), jnp.array([1.0, 3.0])


def traced(net, x, label, *y):
    """(shapes of the parameters, shape of the output, program in training), by one trace."""

    def start(key):
        keys = {"params": key, "dropout": jax.random.fold_in(key, 1)}
        return net.init_with_output(keys, x, label, *y, train=True)

    program, (out, params) = jax.make_jaxpr(start, return_shape=True)(jax.random.key(0))
    shapes = jax.tree.map(lambda v: (v.shape, str(v.dtype)), params)
    return shapes, (out.shape, str(out.dtype)), str(program)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_sizes_precision_and_recomputed_blocks(name):
    net, shape = CASES[name]
    plain, out, program = traced(net, *inputs(shape))
    assert out == ((2, 5) if name == "classifier" else shape, "float32")
    assert not HALF.search(program)
    assert "remat" not in program and "checkpoint" not in program

    half = net.clone(dtype=jnp.bfloat16, remat=True)
    params, out_again, program = traced(half, *inputs(shape))
    assert params == plain and out_again == out  # float32, by the same names
    assert HALF.search(program)
    assert "remat" in program or "checkpoint" in program  # JAX prints it under two names


@pytest.mark.parametrize("name", WITH_CLASSES)
def test_classes_are_a_table_more_and_needed_when_there(name):
    net, shape = CASES[name]
    x, label = inputs(shape)
    y = jnp.array([0, 6])
    more = net.clone(num_classes=7)
    before = jax.eval_shape(net.init, jax.random.key(0), x, label)
    after = jax.eval_shape(more.init, jax.random.key(0), x, label, y)
    paths = lambda tree: {jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(tree)}
    (table,) = paths(after) - paths(before)
    assert "embedding" in table
    assert 7 in {v.shape[0] for v in jax.tree.leaves(after) if v.shape}
    for wrong, given in ((more, ()), (net, (y,))):
        with pytest.raises(ValueError, match="class"):
            jax.eval_shape(wrong.init, jax.random.key(0), x, label, *given)
