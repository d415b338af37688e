"""VDM's checkpoints: the network computes what the authors' program computed, and says what it is not."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from score_jax.convert import from_vdm, load_pretrained
from score_jax.sde import LinearLogSNR
from tests.helpers.convert_files import drawn, ndarray, write_msgpack
from tests.helpers.fuzz import faults, shapes_once
from tests.helpers.golden_files import golden

FAST = {"xla_backend_optimization_level": 0}


def checkpoint(path, case, change=lambda flat: flat):
    """A TrainState whose average is what the reference was computed with."""
    shapes = json.loads(str(golden("vdm_jax")[f"{case}/shapes"]))
    average = change({name: drawn(name, shape) for name, shape in shapes.items()})
    gamma = {"w": ndarray(np.array([-18.5], "f4")), "b": ndarray(np.array([-13.4], "f4"))}

    def packed(flat):
        net = traverse_util.unflatten_dict({k: ndarray(v) for k, v in flat.items()}, sep="/")
        return {"score_model": net, "gamma": gamma}

    raw = {name: value + 1 for name, value in average.items()}
    state = {"step": 3, "params": packed(raw), "ema_params": packed(average), "opt_state": {}}
    return write_msgpack(path, state)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain", "attention"])
def test_networks_compute_what_they_computed(tmp_path, case):
    path = checkpoint(tmp_path / "ckpt-1.flax", case)
    model, params, info = from_vdm(path, size=8)
    assert model.sde == LinearLogSNR() and info["shape"] == (8, 8, 3) and info["step"] == 3
    np.testing.assert_allclose(info["gamma"], (-13.4, 5.1), rtol=1e-6)
    x, gamma, out = (jnp.asarray(golden("vdm_jax")[f"{case}/{k}"]) for k in ("x", "gamma", "out"))
    t = model.sde.time_of_log_snr(-gamma)
    noise_input = model.noise_input(model.sde, t)
    found = (
        jax.jit(info["module"].apply)
        .lower(params, x, noise_input)
        .compile(FAST)(params, x, noise_input)
    )
    assert float(jnp.abs(found - out).max() / jnp.abs(out).max()) <= 2e-5
    raw = from_vdm(path, ema=False, size=8)[1]["params"]["first"]["kernel"]
    np.testing.assert_allclose(raw, params["params"]["first"]["kernel"] + 1, atol=1e-6)


def test_a_file_is_a_model_without_a_preset_and_other_files_are_named(tmp_path, monkeypatch):
    shapes_once(monkeypatch)
    path = checkpoint(tmp_path / "ckpt-1.flax", "plain")
    assert load_pretrained(path)[0].sde == LinearLogSNR()
    with pytest.raises(ValueError, match="preset must be None"):
        load_pretrained(path, "cifar10_edm_ve")
    for change, named in (
        (
            lambda flat: {k: v for k, v in flat.items() if "mid.attn" not in k},
            "has no tensors|lacks",
        ),
        (lambda flat: {k: v for k, v in flat.items() if "down" not in k}, "number of blocks"),
        (lambda flat: flat | {"conv_in/kernel": np.ones((3, 3), "f4")}, "conv_in and conv_out"),
        (
            lambda flat: flat | {"conv_in/kernel": np.ones((3, 3, 5, 32), "f4")},
            "number of further channels",
        ),
        (lambda flat: flat | {"dense0/kernel": np.ones((7, 128), "f4")}, "which does not fit"),
        (lambda flat: flat | {"more": np.ones(1, "f4")}, "does not use: more"),
    ):
        wrong = checkpoint(tmp_path / "wrong.flax", "plain", change)
        with pytest.raises(ValueError, match=named) as error:
            from_vdm(wrong)
        assert str(wrong) in str(error.value)
    few = lambda flat: {
        k: v for k, v in flat.items() if k.startswith("conv") or "down.block_0" in k
    }
    small = checkpoint(tmp_path / "small.flax", "plain", few)
    for bad, what in faults(from_vdm, small, 15, 5):
        pytest.fail(f"{what}; the file: {bad!r:.300}")
    write_msgpack(tmp_path / "other.flax", {"step": 1})
    with pytest.raises(ValueError, match="no checkpoint of VDM"):
        from_vdm(tmp_path / "other.flax")
