"""Networks: Linen modules with plain fields, `__call__(x, label, y=None, *, train=False)`."""

from score_jax.nets.mlp import MLP as MLP
from score_jax.nets.ncsnpp import NCSNpp as NCSNpp

__all__ = ["MLP", "NCSNpp"]
