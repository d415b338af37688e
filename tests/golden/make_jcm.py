"""What the network of OpenAI's JAX consistency models computes, from weights drawn from their names.

    PYTHONPATH=. python tests/golden/make_jcm.py AUTHORS

AUTHORS is a checkout of github.com/openai/consistency_models_cifar10 (Apache 2.0). Its network runs
under today's Flax once the module that joins it to the rest of the program is there by name. Writes
consistency_jax.npz: shapes (JSON: {path: shape}), x, noise_input, out.
"""

import json
import pathlib
import sys
import types

import jax
import numpy as np
from flax import traverse_util

from tests.helpers.convert_files import drawn

FIELDS = dict(
    nf=8, ch_mult=(2, 2), num_res_blocks=1, attn_resolutions=(4,), dropout=0.0, conditional=True,
    resamp_with_conv=True, fir=True, fir_kernel=(1, 3, 3, 1), skip_rescale=True,
    resblock_type="biggan", progressive="none", progressive_input="residual",
    progressive_combine="sum", embedding_type="fourier", init_scale=0.0, fourier_scale=16,
    double_heads=False, nonlinearity="swish", normalization="GroupNorm",
)  # fmt: skip


class Config(types.SimpleNamespace):
    """A configuration that Flax leaves as it is."""

    __hash__ = object.__hash__


def main(authors):
    """Run the network of the checkout."""
    sys.path.insert(0, authors)
    sys.modules["ml_collections"] = types.SimpleNamespace(ConfigDict=Config)
    for name in ("jcm", "jcm.models"):
        package = types.ModuleType(name)
        package.__path__ = [str(pathlib.Path(authors, *name.split(".")))]
        sys.modules[name] = package
    utils = types.ModuleType("jcm.models.utils")
    utils.register_model = lambda name: lambda cls: cls
    sys.modules["jcm.models.utils"] = sys.modules["jcm.models"].utils = utils
    from jcm.models.ncsnpp import NCSNpp

    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    noise_input = (0.25 * np.log([0.7, 5.0])).astype(np.float32)
    net = NCSNpp(config=Config(model=Config(**FIELDS)))
    init = lambda key: net.init(key, x, noise_input, train=False)
    shapes = jax.eval_shape(init, jax.random.PRNGKey(0))["params"]
    shapes = {k: v.shape for k, v in traverse_util.flatten_dict(shapes, sep="/").items()}
    weights = {name: drawn(name, shape) for name, shape in shapes.items()}
    params = {"params": traverse_util.unflatten_dict(weights, sep="/")}
    out = jax.jit(lambda p: net.apply(p, x, noise_input, train=False))(params)
    np.savez_compressed(
        pathlib.Path(__file__).with_name("consistency_jax.npz"),
        x=x, noise_input=noise_input, out=np.asarray(out), shapes=np.array(json.dumps(shapes)),
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
