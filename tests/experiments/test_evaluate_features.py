"""Metrics of samples by features, as the commands compute them, and what they refuse."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import evaluate, presets, runs
from experiments.data_config import DataConfig
from experiments.parts import drawing, sampling
from experiments.reports.gaussian import gaussian
from experiments.reports.small_fid import SmallFID
from score_jax import metrics, viz
from score_jax.data import load_digits
from tests.experiments.test_experiments import call
from tests.experiments.test_sample_folders import arrays_of, write_run
from tests.helpers.features import blocks

NUM = 24
BY = ["--features", "tests.helpers.features:blocks"]
MORE = [
    "--kid", "--kid-size", 10, "--kid-subsets", 3, "--precision-recall", "--density-coverage",
    "--memorization", "--jackknife", 4,
]  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of a network that was not trained."""
    return write_run(tmp_path_factory.mktemp("run") / "r")


@pytest.fixture(scope="module")
def measured(workdir):
    """All metrics of a function's features, of samples that the command draws: its output."""
    some = ["--num", NUM, "--sampler", "ddim", "--steps", 3, "--chunk", 10]
    return call("evaluate", "--workdir", workdir, *some, "--overwrite", *BY, *MORE, check=0)


def digits_as_bytes(split):
    """The middle of every level's cell, as bytes."""
    return viz.to_uint8((load_digits(split).x + 0.5) / 17, (0, 1))


def read(path):
    """A JSON file without NaN."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_the_numbers_are_those_of_the_library(workdir, measured):
    result = read(workdir / "metrics.json")
    folder = next((workdir / "samples").glob("evaluate-*"))
    x, train, test = (np.asarray(blocks(v)) for v in (
        arrays_of(folder), digits_as_bytes("train"), digits_as_bytes("test")
    ))  # fmt: skip
    found = result["function"]
    assert len(x) == result["samples"]["n"] == found["frechet"]["n"] == NUM
    same = lambda value, truth: np.testing.assert_allclose(value, truth, rtol=1e-5)
    same(found["frechet"]["value"], metrics.frechet(x, train))
    parts = [metrics.moments_of(part) for part in x.reshape(4, 6, -1)]
    distance = lambda m: metrics.frechet(m, metrics.moments_of(train))
    same(found["frechet"]["stderr"], metrics.jackknife(parts, distance).error)
    kid = metrics.kid_subsets(x, train, subsets=3, size=10)
    same([found["kid"]["value"], found["kid"]["stderr"]], [kid.value, kid.error])
    pr = metrics.precision_recall(train, x, k=3)
    same([found["precision_recall"][k] for k in pr._fields], pr)
    dc = metrics.density_coverage(train, x, k=5)
    same([found["density_coverage"][k] for k in dc._fields], dc)
    near = metrics.memorization(x, train, test)
    same(found["memorization"]["ratio"], near.ratio)
    first = found["memorization"]["nearest"][0]
    assert first["sample"] == near.distance.argmin()
    assert first["train"] == near.where[first["sample"]]
    with Image.open(workdir / "memorization.png") as picture:
        assert picture.width > 500
    assert found["protocol"] == {"network": "tests.helpers.features:blocks"}
    settings = result["samples"]["settings"]
    assert (settings["sample"]["steps"], settings["seed"], settings["step"]) == (3, 0, 7)
    assert len(settings["weights"]) == len(result["samples"]["sha256_of_pixels"]) == 64
    assert "Frechet distance ..." in measured.stderr and "frechet" in measured.stdout


def test_all_formats_give_the_same_numbers_and_samples_need_no_run(workdir, measured, tmp_path):
    folder = next((workdir / "samples").glob("evaluate-*"))
    x = arrays_of(folder)
    np.save(tmp_path / "x.npy", x)
    np.savez_compressed(tmp_path / "x.npz", arr_0=x)
    (tmp_path / "png").mkdir()
    for i, image in enumerate(x):
        Image.fromarray(image[..., 0]).save(tmp_path / "png" / f"{i:03d}.png")
    call("statistics", "--out", tmp_path / "ref.npz", *BY, "--split", "train", check=0)
    reference = metrics.read_reference(tmp_path / "ref.npz")
    assert reference.moments["pool"].n == 1500 and len(reference.features["pool"]) == 1500
    assert reference.protocol["source"] == "digits, train split"
    values = set()
    for samples in (folder, tmp_path / "x.npy", tmp_path / "x.npz", tmp_path / "png"):
        out = tmp_path / "out.json"
        some = ["--samples", samples, "--reference", tmp_path / "ref.npz", "--out", out]
        call("evaluate", *some, "--overwrite", *BY, "--kid", "--kid-size", 10, check=0)
        result = read(out)
        values.add((result["function"]["frechet"]["value"], result["samples"]["sha256_of_pixels"]))
        assert result["function"]["reference"]["sha256"] == reference.sha256
    drawn = read(workdir / "metrics.json")
    pixels = drawn["samples"]["sha256_of_pixels"]
    assert len(values) == 1 and next(iter(values))[1] == pixels
    np.testing.assert_allclose(
        next(iter(values))[0], drawn["function"]["frechet"]["value"], rtol=1e-6
    )


def test_a_part_that_fails_leaves_its_reason_and_the_rest(workdir, measured, tmp_path):
    before = (workdir / "metrics.json").read_text()
    folder = next((workdir / "samples").glob("evaluate-*"))
    some = ["--workdir", workdir, "--samples", folder, "--out", tmp_path / "m.json"]
    out = call("evaluate", *some, "--overwrite", *BY, "--kid", check=2)  # subsets of 1,000 of 24
    result = read(tmp_path / "m.json")
    assert result["function"]["kid"] is None and result["function"]["frechet"]["value"] > 0
    assert "size must be at most" in result["missing"]["function.kid"]
    assert "not everything could be computed: function.kid: size must be" in out.stderr
    bad = ["--features", "tests.helpers.features:nothing"]
    out = call("evaluate", *some, "--overwrite", *bad, check=2)
    assert "finite" in read(tmp_path / "m.json")["missing"]["function"]
    assert (workdir / "metrics.json").read_text() == before


@pytest.mark.slow
def test_a_broken_network_ends_with_null_its_reason_and_exit_code_2(tmp_path, monkeypatch):
    monkeypatch.setattr(
        runs.Run, "init_params",
        lambda self, key, init=runs.Run.init_params: jax.tree.map(lambda v: v * np.nan, init(self, key)),
    )  # fmt: skip
    workdir = write_run(tmp_path / "r")
    out = call("evaluate", "--workdir", workdir, "--num", 12, "--draws", 0, "--steps", 2, check=2)
    result = read(workdir / "evaluation.json")
    assert result["loss"] is None and result["distance"] is None and result["step"] == 7
    assert "not a finite number" in result["missing"]["loss"]
    assert "not finite" in result["missing"]["distance"] and "no loss" in out.stdout
    assert "held-out loss ..." in out.stderr


def test_large_images_are_left_out_and_two_classes_need_no_classifier(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 40, 40, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(40) % 2)
    data = DataConfig(name="array", path=str(tmp_path / "x.npz"))
    workdir = write_run(tmp_path / "r", data=data)
    out = call("evaluate", "--workdir", workdir, "--num", 4, "--draws", 0, check=0)
    result = read(workdir / "evaluation.json")
    assert "distance" not in result and "4,800 numbers" in result["left_out"]["distance"]
    assert result["loss"] > 0 and "no distance: the covariance of" in out.stdout


def test_the_gaussian_of_data_with_constant_entries_is_shrunk(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    x[:, 2] = 0.1
    np.save(tmp_path / "x.npy", x)
    data = DataConfig(name="array", path=str(tmp_path / "x.npy"), standardize="none")
    run = runs.build(dataclasses.replace(presets.get("two_moons_vp"), data=data))
    plain = gaussian(run, jax.random.key(0))
    assert plain.sample(0, 9, (4,)).shape == (9, 4)
    assert np.isfinite(plain.logp(x)).all() and 0.01 < plain.chol[2, 2] < 0.5


WANTED = (
    "pt_inception-2015-12-05-6726825d.pth or weights-inception-2015-12-05-6726825d.pth (95,628,359"
)
BAD = [
    (["--fid"], f"--fid needs --inception FILE: {WANTED}"),
    (["--kid"], "--kid needs --inception FILE"),
    (["--inception-score", *BY], "--inception-score needs --inception FILE"),
    (["--inception", "no_such_file.pth"], "6726825d0af5f729cebd5821db510b11b1cfad8f"),
    (["--inception", "tests/conftest.py"], "it is another file, or not complete"),
    (["--dinov2", "no_such_file.pth"], "dinov2_vitl14_pretrain.pth (1,217,586,395 bytes)"),
    (["--features", "blocks"], "--features must be package.module:function"),
    (["--features", "tests.helpers.features:blocs"], "cannot be imported"),
    (["--features", "tests.helpers.features:no_function"], "is no function"),
    (["--resizing", "tf1", *BY], "--resizing tf1 needs --inception FILE"),
    (["--resizing", "bilinear", *BY], "--resizing must be of tf1"),
    (["--samples", "no_such_folder"], "--samples needs a network"),
    (["--samples", "no_such_folder", *BY], "no_such_folder"),
    (["--num", "0", *BY], "--num must be at least 2"),
    (["--num", "5000", "--samples", "FLOATS", *BY], "must hold images (h, w, 1 or 3) of uint8"),
    (["--num", "50", "--samples", "BYTES", *BY], "--num must be at most the 5 images"),
    (
        ["--samples", "SIZES", *BY],
        "9.png is 9 x 8 pixels (height x width), but the first image is 8 x 8",
    ),
    (["--jackknife", "1", *BY], "--jackknife must be 0 or at least 2"),
    (["--jackknife", "3", "--samples", "BYTES", *BY], "at most half of the 5 samples"),
    (["--kid-size", "1", *BY], "--kid-size must be at least 2"),
    (["--feature-chunk", "0", *BY], "--feature-chunk must be at least 1"),
    (["--workdir", "", *BY], "--workdir is needed"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Samples that cannot be used."""
    home = tmp_path_factory.mktemp("bad")
    np.save(home / "floats.npy", np.zeros((5, 8, 8, 3), np.float32))
    np.save(home / "bytes.npy", np.zeros((5, 8, 8, 3), np.uint8))
    (home / "sizes").mkdir()
    for i in (8, 9):
        Image.fromarray(np.zeros((i, 8, 3), np.uint8)).save(home / "sizes" / f"{i}.png")
    return {"FLOATS": home / "floats.npy", "BYTES": home / "bytes.npy", "SIZES": home / "sizes"}


@pytest.mark.parametrize(("args", "named"), BAD, ids=[" ".join(a[:3]) for a, _ in BAD])
def test_bad_input_ends_with_one_line(workdir, files, args, named):
    args = [files.get(arg, arg) for arg in args]
    out = call("evaluate", "--workdir", workdir, "--overwrite", *args, check=2)
    error = [line for line in out.stderr.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and named in error[0]
    assert "Traceback" not in out.stderr


def test_statistics_of_another_network_are_refused(measured, workdir, tmp_path):
    folder = next((workdir / "samples").glob("evaluate-*"))
    stats = ["statistics", "--out", tmp_path / "s.npz", "--samples", folder]
    call(*stats, *BY, "--keep", 5, "--num", 9, check=0)
    reference = metrics.read_reference(tmp_path / "s.npz")
    assert reference.moments["pool"].n == 9 and len(reference.features["pool"]) == 5
    other = {**reference.protocol, "network": "inception-2015-12-05"}
    with np.load(tmp_path / "s.npz") as file:
        np.savez(tmp_path / "o.npz", **{**file, "protocol": json.dumps(other)})
    some = ["--samples", folder, "--out", tmp_path / "m.json", "--reference", tmp_path / "o.npz"]
    out = call("evaluate", *some, "--overwrite", *BY, check=2)
    assert "was made with network 'inception-2015-12-05'" in out.stderr
    with np.load(tmp_path / "s.npz") as file:  # as other programs write them
        np.savez(tmp_path / "o.npz", mu=file["mu"], sigma=file["sigma"])
    out = call("evaluate", *some, "--overwrite", *BY, "--kid", "--kid-size", 2, check=2)
    assert "holds no features, only their mean" in out.stderr
    assert read(tmp_path / "m.json")["function"]["frechet"]["value"] > 0
    out = call("statistics", "--out", tmp_path / "s.npz", check=2)
    assert "statistics needs --inception FILE" in out.stderr


def test_the_report_shows_what_is_missing():
    text = evaluate.report({"loss": None, "step": 3, "missing": {"loss": "it is nan"}})
    assert "held-out loss - (step 3)" in text and "no loss: it is nan" in text


def test_the_distance_during_training_has_the_number_of_samples_in_its_name(workdir):
    run, params, _ = runs.load(workdir)
    train = dataclasses.replace(run.config.train, fid_every=500, fid_num=12, features=BY[1])
    sampler = dataclasses.replace(run.config.sample, sampler="ddim", steps=3)
    run = dataclasses.replace(
        run, config=dataclasses.replace(run.config, train=train, sample=sampler)
    )
    small = SmallFID(run)
    found = small(500, SimpleNamespace(ema_params=params))
    drawn = sampling.draw(run, params, jax.random.key(3), 12, sampler)
    own = np.asarray(blocks(drawing.as_stored(run, drawn.x)))
    truth = metrics.frechet(own, np.asarray(blocks(digits_as_bytes("train"))))
    assert list(found) == ["frechet_12"]
    np.testing.assert_allclose(found["frechet_12"], truth, rtol=1e-4)
    broken = jax.tree.map(lambda v: v * np.nan, params)
    assert np.isnan(small(500, SimpleNamespace(ema_params=broken))["frechet_12"])


def test_a_distance_during_training_needs_a_network_before_anything_is_written(tmp_path):
    out = call("train", "--workdir", tmp_path / "r", "--train.fid-every", 500, check=2)
    assert f"--train.fid-every needs --inception FILE: {WANTED}" in out.stderr
    assert not (tmp_path / "r").exists()
