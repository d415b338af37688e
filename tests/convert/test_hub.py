"""Names on the hub: what is asked of the package, its cache, and one line for every failure."""

import functools
import shutil

import jax
import numpy as np
import pytest

from score_jax.convert import load_pretrained
from score_jax.convert.hub import from_hub
from tests.helpers.convert_files import unpacked

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with one repository, as the package lays it out, and no network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--me--ddpm"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(unpacked("diffusers_ddpm"), repository / "snapshots" / commit)
    here = {"cache_dir": str(tmp_path), "local_files_only": True}
    for name in ("snapshot_download", "hf_hub_download"):
        function = functools.partial(getattr(huggingface_hub, name), **here)
        monkeypatch.setattr(huggingface_hub, name, function)
    return repository / "snapshots" / commit


def test_what_is_in_the_cache_loads_without_a_network(cache):
    model, params = load_pretrained("hf://me/ddpm")
    same = load_pretrained(cache)
    assert model.sde == same[0].sde
    assert jax.tree.all(jax.tree.map(np.array_equal, params, same[1]))
    assert from_hub("hf://me/ddpm/unet/config.json") == cache / "unet" / "config.json"


@pytest.mark.parametrize("name", ["hf://me/other", "hf://me/ddpm/none.pth", "hf://me/ddpm@v2"])
def test_what_cannot_be_downloaded_is_one_line(cache, name):
    with pytest.raises(OSError, match=f"^{name} cannot be downloaded: ") as error:
        load_pretrained(name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_what_is_asked_of_the_package(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(**given):
        asked.append(given)
        return str(tmp_path)

    def hf_hub_download(**given):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    assert from_hub("hf://me/x.y@v1.0") == tmp_path
    first, second = asked  # without safetensors there, the older weights too
    assert (first["repo_id"], first["revision"]) == ("me/x.y", "v1.0")
    assert "*.bin" not in first["allow_patterns"] and "*.bin" in second["allow_patterns"]
    assert not {"*.py", "*.pkl", "*"} & set(second["allow_patterns"])
    with pytest.raises(OSError, match="cannot be downloaded: ConnectionError: no route to host"):
        from_hub("hf://me/x/folder/checkpoint_8.pth")
    for wrong in ("hf://me", "hf://", "hf://me/x@"):
        with pytest.raises(ValueError, match="must be hf://USER/NAME"):
            from_hub(wrong)
    with pytest.raises(FileNotFoundError, match=r"on the Hugging Face hub it is hf://google/ddpm$"):
        load_pretrained("google/ddpm")
