"""What the network of variational diffusion models computes, from weights drawn from their names.

    PYTHONPATH=. python tests/golden/make_vdm.py AUTHORS

AUTHORS is a checkout of github.com/google-research/vdm (Apache 2.0), whose model runs under today's Flax
once `chex`, of which it takes the name of a type, is there by name. Writes
vdm_jax.npz: case/shapes (JSON: {path: shape}), case/x, gamma, out.
"""

import json
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tests.helpers.convert_files import drawn

COMMON = dict(
    vocab_size=256, sample_softmax=False, antithetic_time_sampling=True, gamma_min=-13.3, gamma_max=5.0,
    sm_n_timesteps=0, sm_n_embd=32, sm_pdrop=0.1, gamma_type="learnable_scalar",
)  # fmt: skip
CASES = {
    "plain": dict(with_fourier_features=True, with_attention=False, sm_n_layer=2),
    "attention": dict(with_fourier_features=False, with_attention=True, sm_n_layer=1),
}


def main(authors):
    """Run the network of the checkout."""
    sys.path.insert(0, authors)
    sys.modules["chex"] = types.SimpleNamespace(Array=jax.Array)
    import model_vdm

    rng, found = np.random.default_rng(0), {}
    x = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    gamma = np.array([-9.0, 2.5], np.float32)
    for case, fields in CASES.items():
        net = model_vdm.ScoreUNet(model_vdm.VDMConfig(**COMMON, **fields))
        shapes = jax.eval_shape(
            lambda k, net=net: net.init(k, x, gamma, jnp.zeros(2)), jax.random.PRNGKey(0)
        )
        flat = traverse_util.flatten_dict(shapes["params"], sep="/")
        shapes = {name: leaf.shape for name, leaf in flat.items()}
        weights = {name: drawn(name, shape) for name, shape in shapes.items()}
        params = {"params": traverse_util.unflatten_dict(weights, sep="/")}
        out = jax.jit(lambda p, net=net: net.apply(p, x, gamma, jnp.zeros(2)))(params)
        found |= {
            f"{case}/x": x, f"{case}/gamma": gamma, f"{case}/out": np.asarray(out),
            f"{case}/shapes": np.array(json.dumps(shapes)),
        }  # fmt: skip
    np.savez_compressed(pathlib.Path(__file__).with_name("vdm_jax.npz"), **found)


if __name__ == "__main__":
    main(sys.argv[1])
