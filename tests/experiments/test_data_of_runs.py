"""The data of runs: opened, standardised, conditioned on, described in the folder, or refused."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import presets, runs
from experiments.config import DataConfig
from experiments.parts import datasets, fitting, opening, sampling, upgrade
from score_jax import data
from tests.experiments.test_experiments import LOOP, MLP, call

OWN = "tests.helpers.own_data:"


def config(**changes):
    return dataclasses.replace(presets.get("two_moons_vp"), data=DataConfig(**changes))


def arrays(path, **more):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4, 2)) * [5.0, 200.0] + [100.0, -3.0]
    np.savez(path, x=x.astype(np.float32), past=(x * 2).astype(np.float32), **more)
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, file of the data, options): an MLP on series, conditioned on a vector."""
    folder = tmp_path_factory.mktemp("series")
    rng = np.random.default_rng(1)
    arrays(folder / "x.npz", vector=rng.normal(size=(60, 3)).astype(np.float32))
    options = ["--data.name", "array", "--data.path", folder / "x.npz", "--data.cond", "vector"]
    out = call("train", *options, "--workdir", folder / "run", *MLP, check=0).stdout
    assert "54 training examples and 6 test (test: 0.1 of all, the same in every run)" in out
    assert "standardised by channel" in out
    return folder / "run", folder / "x.npz", options


@pytest.mark.slow
def test_a_run_folder_samples_without_its_data_in_their_units(trained):
    folder, file, options = trained
    record = json.loads((folder / "data.json").read_text())
    assert (record["train"], record["test"]) == (54, 6) and record["cond"]["shape"] == [3]
    moved = file.with_name("moved.npz")
    file.rename(moved)
    call("sample", "--workdir", folder, "--num", 5, check=0)
    x = np.load(folder / "samples" / "ddim.npz")["x"]
    # The second channel of the data is 40 times as wide as the first.
    assert x.shape == (5, 4, 2) and 10 < x[..., 1].std() / x[..., 0].std() < 160
    out = call("evaluate", "--workdir", folder, "--num", 0, check=2)
    assert "x.npz" in out.stderr
    np.save(folder / "c.npy", np.zeros((2, 4), np.float32))
    out = call(
        "sample",
        "--workdir",
        folder,
        "--num",
        5,
        "--cond",
        folder / "c.npy",
        "--overwrite",
        check=2,
    )
    assert "cond must be of shape (m, 3), got" in out.stderr
    # Resuming needs them, wherever they are, with any number of workers.
    longer = ["--train.steps", 25, "--data.path", moved, "--data.workers", 3]
    call("train", *options, "--workdir", folder, *MLP, *longer, check=0)
    np.savez(file, x=np.zeros((50, 4, 2), np.float32), vector=np.zeros((50, 3), np.float32))
    out = call("train", *options, "--workdir", folder, *MLP, "--train.steps", 30, check=2)
    assert "the run began with 54 training examples, but" in out.stderr and "45" in out.stderr


@pytest.mark.slow
def test_bits_of_standardised_data_are_in_their_own_units(trained):
    """Twice as wide data have one bit more a number."""
    folder, _, _ = trained
    out = call("evaluate", "--workdir", folder, "--num", 0, "--tol", "1e-1", check=0)
    assert "bits per dim of density" in out.stdout
    found = json.loads((folder / "evaluation.json").read_text())["bits_per_dim_of_density"]
    run = runs.load(folder)[0]
    x = run.source.split("train")
    z = run.source.from_data(jax.random.key(0), data.take(x, np.arange(54))["x"])
    np.testing.assert_allclose(z.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(z.std((0, 1)), 1, rtol=1e-5)
    np.testing.assert_allclose(run.source.to_data(z), data.take(x, np.arange(54))["x"], rtol=1e-4)
    spreads = np.asarray([1 / s for s in run.source.description.scale])
    assert run.source.log_det == pytest.approx(-4 * np.log(spreads).sum())
    # A normal distribution of these spreads has log2(std sqrt(2 pi e)) bits.
    expected = np.log2(spreads * math.sqrt(2 * math.pi * math.e)).mean()
    assert found["gaussian"]["mean"] == pytest.approx(expected, abs=0.5)


def test_a_condition_is_a_vector_or_a_field(tmp_path):
    x = arrays(tmp_path / "x.npz")
    np.save(tmp_path / "fields.npy", x + 1)
    for cond in ("past", str(tmp_path / "fields.npy")):
        c = config(name="array", path=str(tmp_path / "x.npz"), cond=cond)
        c = dataclasses.replace(c, net=fitting.records.NETS["SeriesUNet"](channels=4, groups=2))
        source, _ = datasets.run_data(c).surveyed()
        run = runs.of_data(c, source)
        assert run.net.super_resolution and run.net.cond_size is None
        batch = jax.tree.map(jnp.asarray, run.source.examples(6))
        ready = run.source.prepare(jax.random.key(0), batch)
        # Of one example, x and the field differ by a linear map, which standardisation removes.
        np.testing.assert_allclose(ready["low_res"], ready["x"], rtol=1e-3, atol=1e-3)
        given = sampling.labels(run, 100)
        assert given["low_res"].shape == (100, 4, 2)
        np.testing.assert_array_equal(given["low_res"][6], given["low_res"][0])
    with pytest.raises(ValueError, match=r"conditioned on a field: use one of .*SeriesUNet"):
        runs.of_data(dataclasses.replace(c, net=presets.get("two_moons_vp").net), source)


def test_missing_entries_leave_the_loss(tmp_path):
    x = arrays(tmp_path / "x.npz")
    x[:, 1] = np.nan
    np.save(tmp_path / "m.npy", x)
    c = config(name="array", path=str(tmp_path / "m.npy"), missing="mask")
    source, notes = datasets.run_data(c).surveyed()
    assert any("25.00% of the entries" in note for note in notes)
    run = runs.of_data(c, source)
    key = jax.random.key(0)
    raw = jax.tree.map(jnp.asarray, run.source.examples(4))
    ready = run.source.prepare(key, raw)
    assert not ready["mask"][:, 1].any() and ready["mask"][:, 0].all()
    # A network that predicts no noise has the mean square of the noise of the entries that are there.
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape), jax.eval_shape(run.init_params, key))
    none = dict(ready, mask=ready["mask"].at[1:].set(False).at[0, 1:].set(False))
    one, two = none["mask"], none["mask"].at[0].set(False).at[0, 2].set(True)
    both = [float(run.test_loss(zero, key, dict(ready, mask=m))[0]) for m in (one, two, one | two)]
    assert both[2] == pytest.approx((both[0] + both[1]) / 2, rel=1e-5)
    finite = dict(ready, x=jnp.where(ready["mask"], ready["x"], 7.0))
    assert run.test_loss(zero, key, finite)[0] == run.test_loss(zero, key, ready)[0]
    with pytest.raises(ValueError, match="objective 'dsm' or 'simple'"):
        hybrid = presets.get("digits_iddpm")
        datasets.run_data(dataclasses.replace(hybrid, data=c.data))


def test_sources_and_streams_of_users():
    found = datasets.opened(DataConfig(name="source", source=OWN + "Plain", cond="cond"))
    assert found.sizes == (36, 4) and found.cond.shape == (2,) and found.num_classes is None
    assert datasets.opened(DataConfig(name="source", source=OWN + "pair")).sizes == (40, 40)
    stream = datasets.opened(DataConfig(name="source", source=OWN + "stream"))
    assert stream.sizes == (None, 40) and "a stream training examples" in stream.report()
    batches = stream.batches(8, seed=0)
    assert [float(next(batches)["x"][0, 0]) for _ in range(3)] == [1, 2, 3]
    state = batches.get_state()
    again = datasets.opened(stream.config).batches(8, seed=0)
    again.set_state(state)
    assert float(next(again)["x"][0, 0]) == 4
    with pytest.raises(ValueError, match=r"8 examples, but train\.batch_size asks for 16"):
        stream.batches(16, seed=0)
    with pytest.raises(ValueError, match="the training data are a stream"):
        stream.split("train")
    with pytest.raises(ValueError, match="no get_state and set_state"):
        opening.open_splits(DataConfig(name="source", source=OWN + "Stateless"))
    loose = DataConfig(name="source", source=OWN + "Stateless", resume=False)
    assert next(datasets.opened(loose).batches(8, seed=0))["x"].shape == (8, 3)


def images(path, **fields):
    """A config for 40 grey images of 12 x 10 pixels with two classes, and the images."""
    x = np.random.default_rng(0).integers(0, 256, (40, 12, 10, 1)).astype(np.uint8)
    np.savez(path / "images.npz", x=x, y=np.arange(40) % 2)
    c = presets.get("digits_vp")
    given = DataConfig(name="array", path=str(path / "images.npz"), **fields)
    return dataclasses.replace(c, data=given, class_conditional=True), x


def test_crops_and_moves_are_of_training_alone(tmp_path):
    c, x = images(tmp_path, crop=(8,), augment=1.0)
    source, _ = datasets.run_data(c).surveyed()
    run = runs.of_data(c, source)
    assert run.shape == (8, 8, 1) and run.net.augment_size == 9 and run.net.num_classes == 2
    # Everything but training sees the centres.
    centres = np.asarray(run.source.on_levels(x[:, 2:10, 1:9]))
    for split in ("train", "test"):
        some = run.source.on_levels(run.source.examples(4, split)["x"])
        assert all(any((one == c).all() for c in centres) for one in np.asarray(some))
    raw = jax.tree.map(jnp.asarray, next(run.source.batches(16, seed=0)))
    assert raw["x"].shape == (16, 12, 10, 1)
    prepare = jax.jit(run.source.prepare, static_argnames="training")
    cut, moved = (prepare(jax.random.key(0), raw, training=on) for on in (False, True))
    assert cut["x"].shape == moved["x"].shape == (16, 8, 8, 1) and "augment" not in cut
    assert moved["augment"].shape == (16, 9) and bool((moved["augment"] != 0).any(1).all())
    back = run.source.to_data(cut["x"])
    parts = {
        image[i : i + 8, j : j + 8].tobytes() for image in x for i in range(5) for j in range(3)
    }
    assert {part.tobytes() for part in back} <= parts
    # A run whose record is known needs no data.
    record = json.loads(json.dumps(run.source.to_record()))
    assert datasets.run_data(c, record).shape == (8, 8, 1)
    for named, net, fields in (
        ("given data.augment: use one of", presets.get("two_moons_vp").net, {}),
        ("data.crop must be at most the size", c.net, {"crop": (11,)}),
        ("fields of data.cond would not fit", c.net, {"cond": "x"}),
    ):
        other = dataclasses.replace(c, net=net, data=dataclasses.replace(c.data, **fields))
        with pytest.raises(ValueError, match=named):
            runs.build(other)


def test_a_run_keeps_small_images_for_super_resolution(tmp_path):
    c, _ = images(tmp_path, crop=(8,), low_res_factor=2)
    source, _ = datasets.run_data(c).surveyed()
    kept = sampling.labels(runs.of_data(c, source), 4)["low_res"]
    test = source.on_levels(source.examples(4)["x"])
    np.testing.assert_allclose(kept, test.reshape(4, 4, 2, 4, 2, 1).mean((2, 4)), atol=1e-6)
    # Without the data they are repeated.
    moved = dataclasses.replace(datasets.run_data(c, source.to_record()), kept=source.kept)
    (tmp_path / "images.npz").unlink()
    found = sampling.labels(runs.of_data(c, moved), 9)["low_res"]
    np.testing.assert_array_equal(found[4:8], kept)


def refused(tmp_path):
    """{what is named: options}."""
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    np.savez(tmp_path / "y.npz", x=x, y=np.arange(40) % 5)
    np.save(tmp_path / "nan.npy", np.where(x > 1, np.nan, x))
    np.save(tmp_path / "few.npy", x[:7])
    array = ["--data.name", "array", "--data.path"]
    labelled = [*array, tmp_path / "y.npz"]
    return {
        "data.num_classes=3": [*labelled, "--data.num-classes", 3],
        "missing": [*array, tmp_path / "nan.npy"],
        "data.cond 'none'": [*labelled, "--data.cond", "none"],
        "data.flip is for images": [*labelled, "--data.flip"],
        "data.augment is for images": [*labelled, "--data.augment", 0.1],
        "data.crop is for images": [*labelled, "--data.crop", 2],
        "few.npy: at least 20 examples are needed": [*array, tmp_path / "few.npy"],
        "use one of MLP, SeriesUNet": [*labelled, "--net.kind", "UNet"],
        "is a vector, and class_conditional": [
            "--data.name", "source", "--data.source", OWN + "Plain", "--data.cond", "cond",
            "--data.num-classes", 2, "--class-conditional",
        ],
        "cannot be imported": ["--data.name", "source", "--data.source", "no_such:thing"],
    }  # fmt: skip


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    for named, options in refused(tmp_path).items():
        out = call("train", *options, "--workdir", tmp_path / "run", *LOOP, check=2)
        last = out.stderr.splitlines()[-1]
        assert named in last and last.startswith("error: "), out.stderr
        assert not (tmp_path / "run").exists()


def test_classes_that_a_split_lacks_are_told(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((40, 3), np.float32), y=(np.arange(40) == 0) * 3)
    found = datasets.opened(DataConfig(name="array", path=str(tmp_path / "x.npz")))
    _, notes = found.surveyed()
    assert any("no example of class 1, 2 among the train" in note for note in notes)


def test_the_usual_network_follows_the_shape(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 2, 4, 4, 1)))
    own = presets.get("digits_vp").data
    volumes = DataConfig(name="array", path=str(tmp_path / "x.npy"))
    assert fitting.kind_for(volumes, own, "NCSNpp") == "UNet"
    assert "net.kind UNet" in capsys.readouterr().err
    assert fitting.kind_for(own, own, "DDPM") is None
    assert [fitting.usual_kind((4,) * n) for n in (1, 2, 3, 4, 5)] == [
        "MLP", "SeriesUNet", "NCSNpp", "UNet", "MLP",
    ]  # fmt: skip


def test_the_data_of_older_configs_are_read():
    tree = {"data": {"name": "tfds", "builder": "cifar10", "image_size": 32, "channels": 3}}
    assert json.loads(upgrade.upgraded(json.dumps(tree)))["data"]["size"] == [32]
    tree["data"]["name"] = "digits"
    assert set(json.loads(upgrade.upgraded(json.dumps(tree)))["data"]) == {"name", "builder"}


def test_a_run_without_a_record_goes_on_as_it_began(tmp_path):
    """Older folders have no data.json: their data were never standardised."""
    arrays(tmp_path / "x.npz")
    c = config(name="array", path=str(tmp_path / "x.npz"))
    runs.save_config(tmp_path / "old", c)
    old, _ = runs.begin(c, tmp_path / "old")
    new, notes = runs.begin(c, tmp_path / "new")
    assert old.source.description.scale == (1.0,) and old.source.sizes == (54, 6)
    assert len(new.source.description.scale) == 2 and "standardised" in notes[0]
