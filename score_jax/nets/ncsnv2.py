r"""NCSN (arXiv:1907.05600) and NCSNv2 (arXiv:2006.09011): RefineNets with dilated convolutions.

As the JAX program of arXiv:2011.13456 defines them or, `original`, as the papers' own PyTorch programs
do. Modules in order, with the names of the latter in brackets:

    first         (begin_conv)
    res{n}_{i}    (res{n}.{i})      i = 0, 1; n = 1, 2, 3, (31,) 4, (5) from fine to coarse
    refine{n}     (refine{n})       n = 1, 2, (31,) 3, 4, (5) from coarse to fine
    last_norm     (normalizer)
    last          (end_conv)

    in res        norm1, norm2 (normalize1, 2), conv1, conv2 (conv1, conv2 or conv2.conv),
                  shortcut (shortcut or shortcut.conv)
    in refine     adapt{i} (adapt_convs.{i}), fuse (msf), pool (crp), output (output_convs)
    in adapt, output   conv{i}_{j}, norm{i}_{j} ({i}_{j}_conv, {i}_{j}_norm)
    in fuse, pool      conv{i}, norm{i} (convs.{i}, norms.{i})
    in a norm     gamma, alpha, beta or, in NCSN, embedding (embed.weight)

The JAX program numbers all by class, in the order of its calls.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from score_jax.nets.blocks import check_images
from score_jax.nets.convolution import Image
from score_jax.nets.layers import Levels, check_labels, divide_by_sigma, noise_levels
from score_jax.nets.refinenet import RefineBlock, RefineResBlock, Style

# (name, multiplier of the channels, dilation) of every level after the first, fine to coarse, and
# (name, multiplier) of every refining block, coarse to fine.
STAGES: dict[int, tuple[tuple[tuple[str, int, int], ...], tuple[tuple[str, int], ...]]] = {
    64: (
        (("2", 2, 1), ("3", 2, 2), ("4", 2, 4)),
        (("1", 2), ("2", 2), ("3", 2), ("4", 1)),
    ),
    128: (
        (("2", 2, 1), ("3", 2, 1), ("4", 4, 2), ("5", 4, 4)),
        (("1", 4), ("2", 2), ("3", 2), ("4", 1), ("5", 1)),
    ),
    256: (
        (("2", 2, 1), ("3", 2, 1), ("31", 2, 1), ("4", 4, 2), ("5", 4, 4)),
        (("1", 4), ("2", 2), ("31", 2), ("3", 2), ("4", 1), ("5", 1)),
    ),
}


def _check(net: Any, x: Any, label: Any, y: Any) -> None:
    if net.variant not in STAGES:
        raise ValueError(f"variant must be one of {tuple(STAGES)}, got {net.variant}")
    if net.channels < 1:
        raise ValueError(f"channels must be at least 1, got {net.channels}")
    if net.sigmas is not None:
        noise_levels(net.sigmas)
    check_images(x.shape, 2 ** sum(dilation == 1 for _, _, dilation in STAGES[net.variant][0]))
    check_labels(x, label, y, None)


def _refinenet(net: Any, style: Style, x: Image, index: Array | None) -> Image:
    """The network without the division by sigma; its modules belong to the module that calls."""
    res: Any = RefineResBlock
    refine: Any = RefineBlock
    if net.remat:
        res, refine = nn.remat(res), nn.remat(refine)
    downs, ups = STAGES[net.variant]
    n = net.channels
    h = x if net.centered else 2 * x - 1
    h = style.conv(n, "first")(h)
    for i in (0, 1):
        h = res(style, n, name=f"res1_{i}")(h, index)
    maps = [h]
    for name, mult, dilation in downs:
        h = res(style, n * mult, True, dilation, name=f"res{name}_0")(h, index)
        h = res(style, n * mult, False, dilation, name=f"res{name}_1")(h, index)
        maps.append(h)
    inputs: list[Any] = []
    for i, (name, mult) in enumerate(ups):
        narrow = style.original and net.variant == 64 and name == "3"
        block = refine(style, n if narrow else n * mult, i == len(ups) - 1, name=f"refine{name}")
        h = block([maps.pop(), *inputs], index)
        inputs = [h]
    # The output keeps the precision of x.
    h = style.activation(style.norm("last_norm")(h.astype(x.dtype), index))
    return style.conv(x.shape[3], "last", dtype=None)(h)


class NCSNv2(nn.Module):
    """RefineNet of NCSNv2: (x (b, h, w, c), label (b,)) -> shape of x.

    The network is not told of the noise level: its output is divided by it, which is the label
    itself or, given `sigmas`, the entry of that table at the label (index 0 is its first). The
    `variant` is 64, 128 or 256, for images of about so many pixels; height and width must be
    divisible by 2, 4 or 8.

    Raises ValueError for an unknown variant, numbers out of range, sizes that do not divide, and
    labels of another length than x.

    >>> net = NCSNv2(channels=32, sigmas=(50.0, 0.01, 232))
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1, int))
    """

    channels: int = 128  # of the finest level
    variant: int = 64
    activation: Callable[[Any], Any] = nn.elu
    scale_by_sigma: bool = True  # divide the output by sigma
    sigmas: Levels | None = None  # (first, last, number): the label is an index of this table
    centered: bool = False  # x in [-1, 1]; False: in [0, 1]
    original: bool = False  # as the paper's PyTorch program, not score_sde's JAX program
    dtype: Any = None  # of the computation; parameters and output stay float32
    remat: bool = False  # compute every block again in the backward pass: less memory, more time

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        label: Num[Array, " b"],
        y: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
    ) -> Image:
        """Predict the score from x and the label; there are no classes y."""
        _check(self, x, label, y)
        style = Style(self.activation, None, self.original, self.dtype)
        h = _refinenet(self, style, x, None)
        return divide_by_sigma(h, label, self.sigmas) if self.scale_by_sigma else h


class NCSN(nn.Module):
    """RefineNet of the first NCSN: (x (b, h, w, c), label (b,)) -> shape of x.

    `label` is the index of one of `num_levels` noise levels, for each of which every norm has its own
    scales and shifts. The `variant` is as in `NCSNv2`; the paper's networks are 64 and 128 ("deeper").
    With `scale_by_sigma` the output is divided by the entry of the table `sigmas` at the index.

    Raises ValueError for an unknown variant, numbers out of range, sizes that do not divide, labels
    of another length than x, and a table of another length than `num_levels`.

    >>> net = NCSN(channels=32, num_levels=10)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1, int))
    """

    num_levels: int = 10
    channels: int = 128  # of the finest level
    variant: int = 64
    activation: Callable[[Any], Any] = nn.elu
    scale_by_sigma: bool = False  # divide the output by sigma
    sigmas: Levels | None = None  # (first, last, number) of the table of noise levels
    centered: bool = False  # x in [-1, 1]; False: in [0, 1]
    original: bool = False  # as the paper's PyTorch program, not score_sde's JAX program
    dtype: Any = None  # of the computation; parameters and output stay float32
    remat: bool = False  # compute every block again in the backward pass: less memory, more time

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        label: Num[Array, " b"],
        y: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
    ) -> Image:
        """Predict the score from x and the index of the noise level; there are no classes y."""
        _check(self, x, label, y)
        if self.num_levels < 1:
            raise ValueError(f"num_levels must be at least 1, got {self.num_levels}")
        if self.scale_by_sigma and (self.sigmas is None or self.sigmas[2] != self.num_levels):
            raise ValueError(
                f"scale_by_sigma needs sigmas of num_levels={self.num_levels}, got {self.sigmas}"
            )
        style = Style(self.activation, self.num_levels, self.original, self.dtype)
        h = _refinenet(self, style, x, label.astype(jnp.int32))
        return divide_by_sigma(h, label, self.sigmas) if self.scale_by_sigma else h
