"""Networks: Linen modules with plain fields, `__call__(x, noise_input, y=None, *, train=False)`."""

from score_jax.nets.classifier import EncoderUNet as EncoderUNet
from score_jax.nets.classifier import MLPClassifier as MLPClassifier
from score_jax.nets.dit import DIT_SIZES as DIT_SIZES
from score_jax.nets.dit import DiT as DiT
from score_jax.nets.edm2 import EDM2 as EDM2
from score_jax.nets.magnitude import unit_directions as unit_directions
from score_jax.nets.mlp import MLP as MLP
from score_jax.nets.ncsnpp import DDPM as DDPM
from score_jax.nets.ncsnpp import NCSNpp as NCSNpp
from score_jax.nets.ncsnv2 import NCSN as NCSN
from score_jax.nets.ncsnv2 import NCSNv2 as NCSNv2
from score_jax.nets.series import SeriesUNet as SeriesUNet
from score_jax.nets.unet import UNet as UNet
