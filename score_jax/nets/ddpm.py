r"""The U-Net of DDPM (arXiv:2006.11239) as score_sde (arXiv:2011.13456) has it.

It differs from `NCSNpp(block="ddpm")` in its norms, of 32 groups always. The modules are named as
those of NCSN++ (score_jax/nets/ncsnpp.py), in the order of the authors' PyTorch `all_modules.N`:

    embed0   embed1   first
    every level         enc{l}_{i}   enc{l}_{i}_attention (at its sizes)   down{l} (but the last)
    middle              mid0   mid_attention   mid1
    back, every level   dec{l}_{i}   dec{l}_attention   up{l} (but level 0)
    last_norm   last
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from score_jax.nets.blocks import Resample, ResBlock, check_fields, check_images, embed_label
from score_jax.nets.convolution import Image
from score_jax.nets.layers import (
    Attention,
    Conv,
    GroupNorm,
    Levels,
    check_labels,
    divide_by_sigma,
    noise_levels,
    positional_embedding,
)


class DDPM(nn.Module):
    """U-Net of DDPM: (x (b, h, w, c), label (b,), y (b,)) -> shape of x.

    `label` is t * 999 or an index of a table; a network with `conditional` False is not told of it.
    With `scale_by_sigma` the output is divided by the label or, given `sigmas`, by the entry of that
    table at the label. Class labels `y` are needed exactly when `num_classes` is given. Height and
    width must be divisible by 2 ** (len(channel_mult) - 1), all numbers of channels by `groups`.
    With train=True a key for "dropout" is needed if dropout > 0.

    Raises ValueError for numbers out of range, sizes that do not divide, labels of another length
    than x, and missing or unasked y.

    >>> net = DDPM(channels=32, channel_mult=(1, 2), attention=(4,))
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
    """

    channels: int = 128  # of the finest level
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)  # of every level
    num_blocks: int = 2  # residual blocks a level
    attention: tuple[int, ...] = (16,)  # sizes (of the larger side) with self-attention
    dropout: float = 0.1
    resample_with_conv: bool = True
    scale_by_sigma: bool = False  # divide the output by sigma
    sigmas: Levels | None = None  # (first, last, number): the label is an index of this table
    centered: bool = True  # x in [-1, 1]; False: in [0, 1]
    conditional: bool = True  # told of the label at all
    groups: int = 32  # of every norm
    num_classes: int | None = None
    dtype: Any = None  # of the computation; parameters and output stay float32
    remat: bool = False  # compute every block again in the backward pass: less memory, more time

    def _check(self, x: Any, label: Any, y: Any) -> None:
        check_fields(self, ("channels", "num_blocks", "groups"))
        if self.sigmas is not None:
            noise_levels(self.sigmas)
        check_images(x.shape, 2 ** (len(self.channel_mult) - 1))
        check_labels(x, label, y, self.num_classes)

    def _block(self, features: int, name: str) -> ResBlock:
        make = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        return make(
            features, self.dropout, skip_rescale=False, dtype=self.dtype,
            shortcut_scale=0.1, groups=self.groups, name=name,
        )  # fmt: skip

    def _attention(self, name: str) -> Attention:
        make = nn.remat(Attention) if self.remat else Attention
        return make(dtype=self.dtype, groups=self.groups, name=name)

    def _resample(self, h: Image, up: bool, name: str) -> Image:
        features = h.shape[3] if self.resample_with_conv else None
        return Resample(up, None, features, self.dtype, name=name)(h)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        label: Num[Array, " b"],
        y: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
    ) -> Image:
        """Predict the noise (or, with scale_by_sigma, the score) from x, the label and the classes."""
        self._check(x, label, y)
        last = len(self.channel_mult) - 1
        attends = lambda h: max(h.shape[1], h.shape[2]) in self.attention
        emb = None
        if self.conditional:
            emb = positional_embedding(label, self.channels)
            emb = embed_label(emb, y, 4 * self.channels, self.num_classes)
        h = x if self.centered else 2 * x - 1
        skips = [h := Conv(self.channels, dtype=self.dtype, name="first")(h)]
        for level, mult in enumerate(self.channel_mult):
            for i in range(self.num_blocks):
                h = self._block(self.channels * mult, f"enc{level}_{i}")(h, emb, train)
                if attends(h):
                    h = self._attention(f"enc{level}_{i}_attention")(h)
                skips.append(h)
            if level != last:
                skips.append(h := self._resample(h, False, f"down{level}"))

        h = self._block(h.shape[3], "mid0")(h, emb, train)
        h = self._attention("mid_attention")(h)
        h = self._block(h.shape[3], "mid1")(h, emb, train)

        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=3)
                h = self._block(self.channels * mult, f"dec{level}_{i}")(h, emb, train)
            if attends(h):
                h = self._attention(f"dec{level}_attention")(h)
            if level:
                h = self._resample(h, True, f"up{level}")
        # The output keeps the precision of x.
        h = nn.silu(GroupNorm(self.groups, name="last_norm")(h.astype(x.dtype)))
        h = Conv(x.shape[3], init_scale=0.0, name="last")(h)
        return divide_by_sigma(h, label, self.sigmas) if self.scale_by_sigma else h
