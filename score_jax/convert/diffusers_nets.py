"""The two networks of diffusers that differ in a detail from those of score_sde."""

import flax.linen as nn

from score_jax.nets import DDPM, NCSNpp
from score_jax.nets.layers import Attention

GROUPS = 32


class WideNormNCSNpp(NCSNpp):
    """NCSN++ whose attention normalises in 32 groups, the middle's excepted.

    diffusers fixes that number; score_sde has min(channels // 4, 32), the same from 128 channels on.
    Fields and use are those of `NCSNpp`.
    """

    def _attention(self, name: str) -> Attention:
        make = nn.remat(Attention) if self.remat else Attention
        groups = None if name.startswith("mid") else GROUPS
        return make(self.init_scale, self.skip_rescale, self.dtype, groups, name=name)


class FirstDDPM(DDPM):
    """DDPM with attention after every block on the way up, as in arXiv:2006.11239 and diffusers.

    score_sde has one after the last block of a level: `dec{level}_attention`, as here; those of the
    other blocks are `dec{level}_{i}_attention`. Fields and use are those of `DDPM`.
    """

    def _block(self, features, name):  # type: ignore[no-untyped-def, override]
        block = super()._block(features, name)
        # The base class attends after the last block of a level by itself.
        early = {
            f"dec{n}_{i}" for n in range(len(self.channel_mult)) for i in range(self.num_blocks)
        }
        if name not in early:
            return block

        def attending(h, emb, train):  # type: ignore[no-untyped-def]
            h = block(h, emb, train)
            attends = max(h.shape[1], h.shape[2]) in self.attention
            return self._attention(f"{name}_attention")(h) if attends else h

        return attending
