"""docs/weights.md is true: its code runs on small files of every kind, its table is today's."""

import shutil

import jax.numpy as jnp
import pytest

from docs import presets
from tests.convert.test_convert_score_sde import flax_file
from tests.docs import test_docs
from tests.helpers import port_unet
from tests.helpers.convert_files import unpacked, write_torch
from tests.helpers.tiny_runs import small_release


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    shutil.copy(unpacked("vp_ddpmpp_continuous.pth"), tmp_path / "checkpoint_8.pth")
    flax_file(tmp_path / "checkpoint_8", "residuals")
    for file, case in (
        ("ema_0.9999_500000.pt", "iddpm_unet_additive"),
        ("classifier.pt", "unet_variants/classifier_attention"),
    ):
        state = port_unet.read(case)[1]
        write_torch(tmp_path / file, {k: v.astype("f4") for k, v in state.items()})
    shutil.copytree(unpacked("diffusers_ddpm"), tmp_path / "ddpm-small")
    small_release(tmp_path / "pretrained", monkeypatch)
    space = test_docs.run_blocks(presets.PAGE, tmp_path, monkeypatch)
    assert space["noise"].shape == (1, 8, 8, 3)
    assert space["score"].shape == (1, 8, 8, 3)
    assert jnp.isfinite(space["score"]).all()


def test_the_table_of_the_page_is_that_of_the_presets():
    text = presets.PAGE.read_text()
    assert presets.inserted(text) == text, "run: python -m docs.presets"
    assert presets.table().count("\n") == 1 + len(presets.PARAMETERS)
