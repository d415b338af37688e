"""diffusers' UNet2DModel with its default fields: what it computed, whole, in halves and in parts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from score_jax.convert import from_diffusers
from score_jax.nets import UNet
from score_jax.parametrization import LEARNED_RANGE, SMALL
from tests.golden.make_diffusers import CASES
from tests.golden.make_edm import drawn
from tests.helpers.golden_files import golden

STEM = "diffusion_pytorch_model"


def folder_of(path, case, name=f"{STEM}.safetensors", **fields):
    """A folder of the case, with its weights in one file of this name."""
    arrays = golden("diffusers_unet")
    config = json.loads(str(arrays[f"{case}/config"])) | fields
    tensors = {n: drawn(n, s) for n, s in json.loads(str(arrays[f"{case}/shapes"])).items()}
    (path / "config.json").write_text(json.dumps(config))
    kind = "learned_range" if config["out_channels"] != config["in_channels"] else "fixed_small"
    (path / "scheduler_config.json").write_text(json.dumps({"variance_type": kind}))
    safetensors.numpy.save_file(tensors, path / name)
    return path, tensors


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_it_computed(tmp_path, case):
    model, params, info = from_diffusers(folder_of(tmp_path, case)[0])
    net = info["module"]
    assert isinstance(net, UNet) and net.num_head_channels == 8
    assert model.variance is (SMALL if case == "plain" else LEARNED_RANGE)
    x, out = (jnp.asarray(golden("diffusers_unet")[f"{case}/{k}"]) for k in ("x", "out"))
    y = {"y": jnp.array([1, 4])} if net.num_classes else {}
    found = jax.jit(model.apply)(params, x, jnp.array([3.0, 700.0]), **y)
    assert float(jnp.abs(found - out).max() / jnp.abs(out).max()) <= 2e-5


def test_maps_of_attention_that_cannot_be_divided_are_named(tmp_path):
    path, tensors = folder_of(tmp_path, "plain")
    for q in (np.ones((), "f4"), np.ones((12, 64), "f4")):
        bad = {n: q for n in tensors if n.endswith(("to_q.weight", "to_k.weight", "to_v.weight"))}
        safetensors.numpy.save_file(tensors | bad, path / f"{STEM}.safetensors")
        with pytest.raises(ValueError, match=f"{STEM}.safetensors cannot be read as a UNet2DModel"):
            from_diffusers(path)


def test_weights_in_halves_and_in_parts(tmp_path):
    path, tensors = folder_of(tmp_path, "plain", f"{STEM}.fp16.safetensors")
    _, whole, _ = from_diffusers(path)
    (path / f"{STEM}.fp16.safetensors").unlink()
    names = sorted(tensors)
    half = {f"{STEM}-{n}.safetensors": names[n::2] for n in (0, 1)}
    for file, part in half.items():
        safetensors.numpy.save_file({n: tensors[n] for n in part}, path / file)
    index = path / f"{STEM}.safetensors.index.json"
    places = {n: file for file, part in half.items() for n in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    _, parts, _ = from_diffusers(path)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, whole, parts)))
    for bad, named in (
        ({"a": f"{STEM}-0.safetensors"}, "lack tensors that it names: a"),
        ({"a": f"../{STEM}-0.safetensors"}, "which is no file of weights beside it"),
        ({"a": "x.json"}, "which is no file of weights beside it"),
        ([], "has no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": bad}))
        with pytest.raises(ValueError, match=named):
            from_diffusers(path)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (
            {"resnet_time_scale_shift": "scale_shift"},
            "resnet_time_scale_shift of .* must be one of",
        ),
        ({"norm_eps": 1e-6}, "norm_eps of .* must be one of"),
        ({"out_channels": 5}, "out_channels of .* must be in_channels, or twice as many"),
    ],
)
def test_other_fields_are_named(tmp_path, fields, named):
    with pytest.raises(ValueError, match=named):
        from_diffusers(folder_of(tmp_path, "plain", **fields)[0])
