"""The two networks of diffusers that differ in a detail from those of score_sde."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from score_jax.nets import DDPM, NCSNpp
from score_jax.nets.blocks import ResBlock
from score_jax.nets.layers import (
    Attention,
    Conv,
    Dropout,
    GroupNorm,
    Pointwise,
    default_init,
    residual,
)

GROUPS = 32
Block = Callable[..., Any]


class WideNormBlock(ResBlock):
    """A residual block without resampling whose first norm has 32 groups: fields of `ResBlock`."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], emb: Float[Array, "b e"] | None, train: bool = False
    ) -> Float[Array, "b h w o"]:
        """Transform x given the embedding of the label."""
        y = nn.silu(GroupNorm(GROUPS, name="norm0")(x))
        y = Conv(self.features, dtype=self.dtype, name="conv0")(y)
        if emb is not None:
            init = default_init()
            dense = nn.Dense(self.features, kernel_init=init, dtype=self.dtype, name="label")
            y = y + dense(nn.silu(emb))[:, None, None].astype(y.dtype)
        y = nn.silu(GroupNorm(name="norm1")(y))
        y = Dropout(self.dropout)(y, train=train)
        last = Conv(self.features, init_scale=self.init_scale, dtype=self.dtype, name="conv1")
        y = last(y)
        if x.shape[3] != self.features:
            x = Pointwise(self.features, self.shortcut_scale, dtype=self.dtype, name="skip")(x)
        return residual(x, y, self.skip_rescale)


class WideNormNCSNpp(NCSNpp):
    """NCSN++ with 32 groups in some norms, as diffusers has it; fields and use of `NCSNpp`.

    They are those of attention, the middle's excepted, and the first of every block on the way up at
    sizes with attention. score_sde has min(channels // 4, 32), the same from 128 channels on.
    """

    def _attention(self, name: str) -> Attention:
        make = nn.remat(Attention) if self.remat else Attention
        groups = None if name.startswith("mid") else GROUPS
        return make(self.init_scale, self.skip_rescale, self.dtype, groups, name=name)

    def _block(self, features: int, name: str, resample: Any = "none") -> Any:
        plain: Block = super()._block
        if not name.startswith("dec"):
            return plain(features, name, resample)

        def block(h: Any, emb: Any, train: bool) -> Any:
            if max(h.shape[1], h.shape[2]) not in self.attention:
                return plain(features, name)(h, emb, train)
            make = nn.remat(WideNormBlock, static_argnums=(3,)) if self.remat else WideNormBlock
            made = make(
                features,
                self.dropout,
                skip_rescale=self.skip_rescale,
                init_scale=self.init_scale,
                dtype=self.dtype,
                name=name,
            )
            return made(h, emb, train)

        return block


class FirstDDPM(DDPM):
    """DDPM with attention after every block on the way up, as in arXiv:2006.11239 and diffusers.

    score_sde has one after the last block of a level: `dec{level}_attention`, as here; those of the
    other blocks are `dec{level}_{i}_attention`. Fields and use are those of `DDPM`.
    """

    def _block(self, features: int, name: str) -> Any:
        block = super()._block(features, name)
        # The base class attends after the last block of a level by itself.
        levels, blocks = range(len(self.channel_mult)), range(self.num_blocks)
        if name not in {f"dec{level}_{i}" for level in levels for i in blocks}:
            return block

        def attending(h: Any, emb: Any, train: bool) -> Any:
            h = block(h, emb, train)
            attends = max(h.shape[1], h.shape[2]) in self.attention
            return self._attention(f"{name}_attention")(h) if attends else h

        return attending
