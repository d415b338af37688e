"""Published weights as parameters of the networks of this library; no pickle is ever executed."""

from score_jax.convert.flax_file import read_flax_msgpack as read_flax_msgpack
from score_jax.convert.torch_file import read_torch as read_torch

__all__ = ["read_flax_msgpack", "read_torch"]
