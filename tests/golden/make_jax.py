"""What the JAX program of score_sde computes, from weights drawn from their names.

    PYTHONPATH=.:AUTHORS python tests/golden/make_jax.py AUTHORS

AUTHORS is a checkout of github.com/yang-song/score_sde (its networks run under today's Flax once
`flax.optim`, `ml_collections` and two modules that they import and do not use are there by name).
Writes score_sde_jax.npz: case/shapes (JSON: {path: shape}), case/x, label, out, config.
"""

import json
import pathlib
import sys
import types

import flax
import jax
import numpy as np
from flax import traverse_util
from tests.convert_files import drawn

COMMON = dict(
    nf=8, num_res_blocks=1, attn_resolutions=(4,), dropout=0.0, resamp_with_conv=True, fir=True,
    fir_kernel=(1, 3, 3, 1), init_scale=0.0, fourier_scale=16.0, scale_by_sigma=False,
    nonlinearity="swish", normalization="GroupNorm", sigma_max=50.0, sigma_min=0.01, num_scales=10,
    conditional=True, skip_rescale=True,
)  # fmt: skip
CASES = {
    "residuals": dict(
        ch_mult=(1, 2), resblock_type="biggan", progressive="residual",
        progressive_input="residual", progressive_combine="sum", embedding_type="fourier",
    ),
    "skips": dict(
        ch_mult=(1, 1, 2), resblock_type="ddpm", progressive="output_skip",
        progressive_input="input_skip", progressive_combine="cat", embedding_type="positional",
    ),
}  # fmt: skip


class Config(types.SimpleNamespace):
    """A configuration that Flax leaves as it is."""

    __hash__ = object.__hash__


def main(authors):
    sys.path.insert(0, authors)
    flax.optim = types.SimpleNamespace(Optimizer=object)
    sys.modules["ml_collections"] = types.SimpleNamespace(ConfigDict=Config)
    sys.modules["utils"] = types.SimpleNamespace(batch_mul=None)
    unused = "models.wideresnet_noise_conditional"
    sys.modules[unused] = types.ModuleType(unused)
    import models

    models.wideresnet_noise_conditional = sys.modules[unused]
    from models import ncsnpp

    arrays = {"source": np.array("github.com/yang-song/score_sde")}
    for case, fields in CASES.items():
        config = Config(
            model=Config(**COMMON | fields),
            data=Config(centered=True, image_size=8),
            training=Config(continuous=True),
        )
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
        label = np.array([0.5, 3.0], np.float32)
        net = ncsnpp.NCSNpp(config=config)
        shapes = jax.eval_shape(lambda k: net.init(k, x, label, train=False), jax.random.PRNGKey(0))
        flat = traverse_util.flatten_dict(shapes["params"], sep="/")
        shapes = {name: leaf.shape for name, leaf in flat.items()}
        weights = {name: drawn(name, shape) for name, shape in shapes.items()}
        params = {"params": traverse_util.unflatten_dict(weights, sep="/")}
        out = jax.jit(lambda p: net.apply(p, x, label, train=False))(params)
        found = {
            "x": x, "label": label, "out": np.asarray(out),
            "shapes": np.array(json.dumps(shapes)), "config": np.array(json.dumps(COMMON | fields)),
        }  # fmt: skip
        arrays |= {f"{case}/{name}": value for name, value in found.items()}
    np.savez_compressed(pathlib.Path(__file__).with_name("score_sde_jax.npz"), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
