"""Samples on disk: four formats of the same bytes, and folders that continue after a kill."""

import collections
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import presets, runs, sample
from experiments.data_config import DataConfig
from experiments.parts import drawing, folders, images, sampling
from score_jax.nets import MLP
from tests.experiments.test_experiments import call

NUM, CHUNK = 22, 8


def write_run(folder, name="digits_vp", **changes):
    """A run folder of a network that was not trained."""
    config = dataclasses.replace(presets.get(name), net=MLP(width=16, num_blocks=1), **changes)
    run = runs.build(config)
    runs.write(folder, run, run.init_params(jax.random.key(3)), 7, {})
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on the digits that is conditioned on classes."""
    return write_run(tmp_path_factory.mktemp("run") / "r", class_conditional=True)


def arguments(workdir, out, format, *more):
    """The command's arguments."""
    some = ["--sampler", "ddim", "--steps", 3, "--num", NUM, "--chunk", CHUNK]
    return ["sample", "--workdir", workdir, *some, "--out", out, "--format", format, *more]


@pytest.fixture(scope="module")
def whole(workdir, tmp_path_factory):
    """One folder of each format."""
    home = tmp_path_factory.mktemp("samples")
    for format in ("png", "zip", "npy", "npz"):
        out = call(*arguments(workdir, home / format, format), check=0).stdout
        assert f"{NUM} samples of step 7 by ddim, {NUM} of them drawn now" in out
    return home


def arrays_of(folder):
    """The samples of a folder of .npy shards."""
    return np.concatenate([np.load(path) for path in sorted(folder.glob("*.npy"))])


def test_all_formats_hold_the_same_bytes_labels_and_settings(whole):
    x = arrays_of(whole / "npy")
    assert x.shape == (NUM, 8, 8, 1) and x.dtype == np.uint8 and len(np.unique(x)) > 5
    with np.load(whole / "npz" / "samples.npz") as file:
        assert np.array_equal(file["arr_0"], x)
        assert np.array_equal(file["arr_1"], np.arange(NUM) % 10)
    files = sorted((whole / "png").glob("*.png"))
    assert [path.name for path in files] == [f"{i:06d}.png" for i in range(NUM)]
    assert np.array_equal(np.stack([Image.open(path) for path in files])[..., None], x)
    shutil.unpack_archive(whole / "zip" / "samples.zip", whole / "unpacked")
    for path in files:
        assert (whole / "unpacked" / path.name).read_bytes() == path.read_bytes()
    for format in ("png", "zip", "npy", "npz"):
        record = json.loads((whole / format / "samples.json").read_text())
        settings = record["settings"]
        assert record["complete"] and record["nfe"] == 4
        assert (settings["seed"], settings["step"], settings["num"]) == (0, 7, NUM)
        assert settings["sample"]["steps"] == 3 and len(settings["weights"]) == 64
        assert "viz.to_uint8 of [-1, 1]" in settings["values"]
        labels = json.loads((whole / format / "labels.json").read_text())
        assert labels == [i % 10 for i in range(NUM)]
        assert not (whole / format / "parts").exists()


@pytest.mark.parametrize("format", ["png", "npz"])
def test_a_killed_command_continues_without_gap_or_duplicate(
    whole, workdir, tmp_path, format, monkeypatch
):
    written = collections.Counter()
    write = folders.SampleFolder.write

    def dies_at_second(self, index, x):
        if len(written) == 1:
            raise KeyboardInterrupt
        written[index] += 1
        write(self, index, x)

    command = arguments(workdir, tmp_path / "s", format)
    monkeypatch.setattr(folders.SampleFolder, "write", dies_at_second)
    call(*command, check=130)
    assert not json.loads((tmp_path / "s" / "samples.json").read_text())["complete"]
    with pytest.raises(ValueError, match="is not complete"):
        folders.read_record(tmp_path / "s")

    def counted(self, index, x):
        written[index] += 1
        write(self, index, x)

    monkeypatch.setattr(folders.SampleFolder, "write", counted)
    out = call(*command, check=0)
    assert "2 of 3 chunks are left" in out.stderr and "14 of them drawn now" in out.stdout
    assert written == {0: 1, 1: 1, 2: 1}
    for path in (whole / format).glob("*.[np][pn][gz]"):
        assert (tmp_path / "s" / path.name).read_bytes() == path.read_bytes()
    again = call(*command, check=0)
    assert f"{NUM} samples of step 7 by ddim, 0 of them drawn now" in again.stdout
    assert json.loads((tmp_path / "s" / "samples.json").read_text())["complete"]


def test_a_file_cut_short_is_drawn_again(whole, workdir, tmp_path):
    shutil.copytree(whole / "png", tmp_path / "s")
    (tmp_path / "s" / "000009.png").write_bytes((whole / "png" / "000009.png").read_bytes()[:-5])
    (tmp_path / "s" / ".000011.png.part").write_bytes(b"left by a kill")
    out = call(*arguments(workdir, tmp_path / "s", "png"), check=0)
    assert "8 of them drawn now" in out.stdout
    for path in (whole / "png").glob("*.png"):
        assert (tmp_path / "s" / path.name).read_bytes() == path.read_bytes()
    assert list((tmp_path / "s").glob(".*.part")) == []
    shutil.copytree(whole / "npy", tmp_path / "n")
    (tmp_path / "n" / "samples_00001.npy").rename(tmp_path / "n" / ".samples_00001.9.part.npy")
    out = call(*arguments(workdir, tmp_path / "n", "npy"), check=0)
    assert "8 of them drawn now" in out.stdout
    assert np.array_equal(arrays_of(tmp_path / "n"), arrays_of(whole / "npy"))
    assert len(images.of_path(str(tmp_path / "n")).source) == NUM


def test_samples_do_not_depend_on_the_chunk(whole, workdir, tmp_path):
    args = sample.parse(list(map(str, arguments(workdir, tmp_path, "npy")[1:])))
    run, params, _ = runs.load(workdir)
    plan = drawing.Plan(
        run, params, jax.random.key(0), NUM, args.sample, np.arange(NUM) % 10, None, 11
    )
    drawn = [drawing.as_stored(run, d.x) for _, d in drawing.draw_chunks(plan, [1])]
    assert np.abs(drawn[0].astype(int) - arrays_of(whole / "npy")[11:].astype(int)).max() <= 1


def test_continuous_data_are_stored_as_floats(tmp_path):
    workdir = write_run(tmp_path / "r", "two_moons_vp")
    call(*arguments(workdir, tmp_path / "s", "npz"), check=0)
    with np.load(tmp_path / "s" / "samples.npz") as file:
        assert file["arr_0"].shape == (NUM, 2) and file["arr_0"].dtype == np.float32
    out = call(*arguments(workdir, tmp_path / "t", "png"), check=2)
    assert "images of 1 or 3 channels" in out.stderr and not (tmp_path / "t").exists()


def test_other_settings_other_contents_and_full_disks_are_refused(
    whole, workdir, tmp_path, monkeypatch
):
    out = call(*arguments(workdir, whole / "npy", "npy", "--seed", 1), check=2)
    assert "seed: 0 -> 1" in out.stderr and "choose another folder" in out.stderr
    out = call(*arguments(workdir, whole / "npy", "zip"), check=2)
    assert "format: npy -> zip" in out.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    out = call(*arguments(workdir, tmp_path / "mine", "npy"), check=2)
    assert "is no folder of samples" in out.stderr
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000))
    for format in ("png", "npy", "npz", "zip"):
        out = call(*arguments(workdir, tmp_path / format, format), check=2)
        assert "22 samples as" in out.stderr and not (tmp_path / format).exists()


def test_every_sample_has_the_condition_of_its_number(tmp_path):
    """Chunks of samples that are conditioned on vectors, as all of them at once."""
    rng = np.random.default_rng(0)
    x, cond = rng.normal(size=(2, 60, 3)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, c=cond)
    data = DataConfig(name="array", path=str(tmp_path / "x.npz"), key="x", cond="c")
    run, params, _ = runs.load(write_run(tmp_path / "r", "two_moons_vp", data=data))
    config = dataclasses.replace(run.config.sample, sampler="ddim", steps=3)
    plan = drawing.Plan(run, params, jax.random.key(0), 10, config, None, None, 4)
    parts = [drawn.x for _, drawn in drawing.draw_chunks(plan, range(3))]
    whole = sampling.draw(run, params, plan.key, 10, config, chunk=10)
    np.testing.assert_allclose(np.concatenate(parts), whole.x, rtol=1e-4, atol=1e-5)
    cond = run.source.examples(6)["cond"]  # all of the test split: the numbers go round
    np.testing.assert_array_equal(sampling.cond_of(run, np.array([8, 1])), cond[[2, 1]])
