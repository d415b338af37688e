"""Published weights as parameters of the networks of this library; no pickle is ever executed."""

from score_jax.convert.diffusers import from_diffusers as from_diffusers
from score_jax.convert.diffusers import read_safetensors as read_safetensors
from score_jax.convert.edm import from_edm as from_edm
from score_jax.convert.files import PUBLISHED_FILES as PUBLISHED_FILES
from score_jax.convert.files import PublishedFile as PublishedFile
from score_jax.convert.flax_file import read_flax_msgpack as read_flax_msgpack
from score_jax.convert.openai import from_guided_diffusion as from_guided_diffusion
from score_jax.convert.openai import from_improved_diffusion as from_improved_diffusion
from score_jax.convert.pretrained import load_network as load_network
from score_jax.convert.pretrained import load_pretrained as load_pretrained
from score_jax.convert.published import PUBLISHED as PUBLISHED
from score_jax.convert.records import Ingredients as Ingredients
from score_jax.convert.release import find_release as find_release
from score_jax.convert.release import from_release as from_release
from score_jax.convert.release import to_release as to_release
from score_jax.convert.score_sde import default_model as default_model
from score_jax.convert.score_sde import from_score_sde_jax as from_score_sde_jax
from score_jax.convert.score_sde import from_score_sde_pytorch as from_score_sde_pytorch
from score_jax.convert.to_diffusers import to_diffusers as to_diffusers
from score_jax.convert.to_score_sde import to_score_sde_pytorch as to_score_sde_pytorch
from score_jax.convert.torch_file import read_torch as read_torch
from score_jax.convert.vdm import from_vdm as from_vdm
