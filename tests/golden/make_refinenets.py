"""Make refinenets.npz: what the authors' JAX program computes for NCSN and NCSNv2.

    python tests/golden/make_refinenets.py CLONE_OF_score_sde

Run by hand, never by the tests; needs the project's own environment only: the authors' definitions are
Linen modules and run under today's flax after two repairs (an initialiser takes the dtype that flax
hands it today; the conditional norm is made before it is called, without which NCSN crashes).
"""

import functools
import pathlib
import sys
import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

COMMIT = "0acb9e0"
REPAIRS = [
    ("lambda key, shape: kernel_init", "lambda key, shape, dtype=None: kernel_init"),
    ("h = self.normalization(h, y)", "h = self.normalization()(h, y)"),
]
NAMES = ("ncsn", "ncsnv2_64", "ncsnv2_128", "ncsnv2_256")
MODEL = {
    "nf": 4, "nonlinearity": "elu", "normalization": "InstanceNorm++", "sigma_max": 50.0,
    "sigma_min": 0.01, "num_scales": 10, "num_classes": 10, "interpolation": "bilinear",
    "scale_by_sigma": True,
}  # fmt: skip


def repaired(clone, folder):
    """The definitions alone: the rest of the program asks for modules that are gone."""
    models = folder / "models"
    models.mkdir()
    (models / "__init__.py").write_text("")
    for name in ("layers", "normalization", "ncsnv2"):
        text = (clone / "models" / f"{name}.py").read_text()
        for old, new in REPAIRS:
            assert name != "layers" or old in text, old
            text = text.replace(old, new)
        (models / f"{name}.py").write_text(text)
    text = (clone / "models" / "utils.py").read_text()
    part = text[text.index("_MODELS = {}") : text.index("def get_ddpm_params")]
    (models / "utils.py").write_text("import jax.numpy as jnp\n" + part)


def draw(rng, path, shape):
    """A parameter of float16 values: kernels keep the variance, scales are near one."""
    value, leaf = rng.normal(size=shape.shape), path[-1].key
    if leaf == "kernel":
        value /= np.sqrt(np.prod(shape.shape[:-1]))
    elif leaf == "embedding":
        value = 0.5 + 0.3 * value
    else:
        value = (leaf in ("alpha", "gamma")) + 0.1 * value
    return value.astype(np.float16)


def record(make, rng, size):
    """One network: its parameters, inputs and output (float32)."""
    config = {"model": MODEL, "data": {"centered": False}}
    space = types.SimpleNamespace(**{k: types.SimpleNamespace(**v) for k, v in config.items()})
    net = make(config=space)
    x = jnp.asarray(rng.normal(size=size), jnp.float32)
    label = jnp.array([0, 3])
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, label)
    half = jax.tree.map_with_path(functools.partial(draw, rng), shapes)
    params = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), half)
    out = jax.jit(net.apply)(params, x, label)
    arrays = traverse_util.flatten_dict(half["params"], sep="/")
    arrays = {f"params/{k}": v for k, v in arrays.items()}
    return arrays | {"net/x": x, "net/label": label, "net/out": out}


def main(clone):
    """Write refinenets.npz beside this file; keys are `network/...`."""
    rng = np.random.default_rng(0)
    sys.modules["ml_collections"] = types.SimpleNamespace(ConfigDict=object)
    with tempfile.TemporaryDirectory() as folder:
        repaired(clone, pathlib.Path(folder))
        sys.path.insert(0, folder)
        from models import ncsnv2, utils  # noqa: F401  (registers the networks)

        arrays = {}
        for name in NAMES:
            size = (2, 8, 12 if name in ("ncsn", "ncsnv2_64") else 16, 2)
            made = record(utils.get_model(name), rng, size)
            arrays |= {f"{name}/{key}": np.asarray(value) for key, value in made.items()}
    place = pathlib.Path(__file__).with_name("refinenets.npz")
    np.savez_compressed(place, source=f"yang-song/score_sde @ {COMMIT}, repaired", **arrays)
    print(place, place.stat().st_size)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
