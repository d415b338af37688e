"""Networks: Linen modules with plain fields, `__call__(x, label, y=None, *, train=False)`."""

from score_jax.nets.ddpm import DDPM as DDPM
from score_jax.nets.mlp import MLP as MLP
from score_jax.nets.ncsnpp import NCSNpp as NCSNpp
from score_jax.nets.unet import UNet as UNet

__all__ = ["DDPM", "MLP", "NCSNpp", "UNet"]
