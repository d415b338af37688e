r"""NCSN (arXiv:1907.05600) and NCSNv2 (arXiv:2006.09011): RefineNets with dilated convolutions.

The networks are those of the JAX program of arXiv:2011.13456 or, with `original`, of the papers' own
PyTorch programs. Modules in order, with the names of the latter in brackets:

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
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from score_jax._check import check, check_count
from score_jax.nets.convolution import Image
from score_jax.nets.layers import (
    Levels,
    check_inputs,
    check_size,
    divide_by_sigma,
    noise_levels,
)
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


def _refinenet(net: Any, style: Style, x: Image, index: Array | None) -> Image:
    """The network without the division by sigma; its modules belong to the calling module."""
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


class _RefineNet(nn.Module):
    """The fields that both networks have."""

    channels: int = 128  # of the finest level
    variant: Literal[64, 128, 256] = 64  # the size of images that it is made for
    activation: Callable[[Any], Any] = nn.elu  # between the layers
    scale_by_sigma: bool = True  # divide the output by sigma
    sigmas: Levels | None = None  # (first, last, number) of levels; the noise input is an index
    centered: bool = False  # x is in [-1, 1] rather than in [0, 1]
    original: bool = False  # as the paper's PyTorch program, not score_sde's JAX program
    dtype: Any = None  # of the computation; parameters and output stay float32
    remat: bool = False  # compute every block again in the backward pass: less memory, more time

    def _check(self, x: Array, noise_input: Array, y: Array | None) -> None:
        check("variant", self.variant, self.variant in STAGES, f"one of {tuple(STAGES)}")
        check_count(channels=self.channels)
        if self.sigmas is not None:
            noise_levels(self.sigmas)
        check_size(x.shape, 2, sum(dilation == 1 for _, _, dilation in STAGES[self.variant][0]))
        check_inputs(x, noise_input, y)


class NCSNv2(_RefineNet):
    """RefineNet of NCSNv2: (x (b, h, w, c), noise input (b,)) -> shape of x.

    The noise input only divides the output: it is sigma or, given `sigmas`, the index of a level, of
    which 0 is the first. Height and width must be divisible by 2, 4 or 8 for the variant 64, 128 or
    256.

    Raises ValueError for an unknown variant, numbers out of range, sizes that do not divide, and
    noise inputs of another length than x.

    >>> net = NCSNv2(channels=32, sigmas=(50.0, 0.01, 232))
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1, int))
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        noise_input: Num[Array, " b"],
        y: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
    ) -> Image:
        """Predict the score from x and the noise input; there are no classes y and no dropout."""
        self._check(x, noise_input, y)
        style = Style(self.activation, None, self.original, self.dtype)
        h = _refinenet(self, style, x, None)
        return divide_by_sigma(h, noise_input, self.sigmas) if self.scale_by_sigma else h


class NCSN(_RefineNet):
    """RefineNet of the first NCSN: (x (b, h, w, c), noise input (b,)) -> shape of x.

    The noise input is the index of one of `num_levels` noise levels, for each of which every norm has
    its own scales and shifts. The paper's networks are the variants 64 and 128 ("deeper"). With
    `scale_by_sigma` the output is divided by the entry of `sigmas` at the index.

    Raises ValueError for an unknown variant, numbers out of range, sizes that do not divide, noise
    inputs of another length than x, and `sigmas` of another length than `num_levels`.

    >>> net = NCSN(channels=32, num_levels=10)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1, int))
    """

    scale_by_sigma: bool = False  # divide the output by sigma
    num_levels: int = 10  # number of noise levels

    def _check(self, x: Array, noise_input: Array, y: Array | None) -> None:
        super()._check(x, noise_input, y)
        check_count(num_levels=self.num_levels)
        if self.scale_by_sigma and (self.sigmas is None or self.sigmas[2] != self.num_levels):
            raise ValueError(
                f"scale_by_sigma needs sigmas of num_levels={self.num_levels}, got {self.sigmas}"
            )

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        noise_input: Num[Array, " b"],
        y: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
    ) -> Image:
        """Predict the score from x and the index of the noise level; there are no classes y."""
        self._check(x, noise_input, y)
        style = Style(self.activation, self.num_levels, self.original, self.dtype)
        h = _refinenet(self, style, x, noise_input.astype(jnp.int32))
        return divide_by_sigma(h, noise_input, self.sigmas) if self.scale_by_sigma else h
