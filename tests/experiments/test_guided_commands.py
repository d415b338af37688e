"""The commands of controllable generation: a class, a classifier, restored images, one clear line."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import cli, presets, restore, runs, sample, train, train_classifier
from experiments.config import (
    ClassifierConfig,
    GuidanceConfig,
    LossConfig,
    SampleConfig,
    TrainConfig,
)
from experiments.parts import guiding, sampling
from score_jax.nets import MLP

TINY = dataclasses.replace(
    presets.get("digits_vp"),
    net=MLP(width=8, num_blocks=1),
    train=TrainConfig(
        steps=10,
        steps_per_call=5,
        log_every=5,
        sample_every=1_000,
        checkpoint_every=10,
        batch_size=16,
    ),
    sample=SampleConfig(sampler="ddim", steps=3),
)


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    """The commands run in this process, whose settings are those of the tests."""
    monkeypatch.setattr(cli, "start", lambda *workdirs, **needs: None)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run without labels, with a classifier."""
    folder = tmp_path_factory.mktemp("plain")
    train.train(TINY, folder, progress=False)
    train_classifier.fit(folder, ClassifierConfig("mlp", width=8, steps=10), False)
    return folder


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A run with labels that were hidden now and then."""
    folder = tmp_path_factory.mktemp("conditional")
    config = dataclasses.replace(
        TINY,
        class_conditional=True,
        loss=LossConfig(label_dropout=0.5),
    )
    train.train(config, folder, progress=False)
    return folder


@pytest.mark.slow
def test_a_class_by_either_guidance(plain, conditional, capsys):
    for folder in (plain, conditional):
        options = ["--num", "3", "--class", "7", "--guidance", "2.0", "--out", folder / "seven"]
        sample.main([str(a) for a in ["--workdir", folder, *options]])
        facts = json.loads((folder / "seven.json").read_text())
        assert facts["label"] == 7 and facts["guidance"] == 2.0
        assert np.load(folder / "seven.npz")["x"].shape == (3, 8, 8, 1)
    assert "3 samples" in capsys.readouterr().out
    exp, params, _ = runs.load(conditional)
    key, y = jax.random.key(0), np.array([7, 7])
    draw = lambda **kwargs: sampling.draw(
        exp, params, key, 2, TINY.sample, y=y, progress=False, **kwargs
    )
    make = lambda scale: guiding.make_guide(
        exp, params, conditional, GuidanceConfig(guidance=scale)
    )[0]
    # Scale 1 is the network's own class, 0 the hidden one; 3 is neither.
    np.testing.assert_allclose(draw(guide=make(1.0)).x, draw().x, atol=1e-4)
    hidden = sampling.draw(exp, params, key, 2, TINY.sample, y=np.array([10, 10]), progress=False)
    np.testing.assert_allclose(draw(guide=make(0.0)).x, hidden.x, atol=1e-4)
    assert abs(draw(guide=make(3.0)).x - draw().x).max() > 1e-3


@pytest.mark.slow
def test_corrections_and_a_worse_run(plain, conditional):
    """Each changes the samples of plain guidance; a model that is as good as the run changes nothing."""
    flags = ["--guidance-worse", plain, "--guidance-parallel", "0", "--guidance-momentum", "-0.5"]
    args = ["--workdir", conditional, "--num", "2", "--class", "7", "--guidance", "3", *flags]
    sample.main([str(a) for a in [*args, "--out", conditional / "worse"]])
    facts = json.loads((conditional / "worse.json").read_text())
    assert facts["guidance_momentum"] == -0.5 and facts["guidance_worse"] == str(plain)
    run, params, _ = runs.load(conditional)

    def draw(scale, **flags):
        config = GuidanceConfig(guidance=scale, **flags)
        guide, both = guiding.make_guide(run, params, conditional, config)
        y = np.array([7, 7])
        return sampling.draw(
            run, both, jax.random.key(0), 2, TINY.sample, y=y, guide=guide, progress=False
        ).x

    before = draw(30.0)
    assert abs(draw(30.0, guidance_rescale=0.7) - before).max() > 1e-4
    assert abs(draw(30.0, guidance_parallel=0.0) - before).max() > 1e-4
    assert abs(draw(30.0, guidance_worse=str(plain)) - before).max() > 1e-4
    itself = draw(30.0, guidance_worse=str(conditional), guidance_worse_step=10)
    np.testing.assert_allclose(itself, draw(1.0), atol=1e-3)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """A run on colour images."""
    folder = tmp_path_factory.mktemp("coloured")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", x=images)
    data = dataclasses.replace(TINY.data, name="array", path=str(folder / "images.npz"))
    train.train(dataclasses.replace(TINY, data=data), folder / "run", progress=False)
    return folder / "run"


@pytest.mark.slow
def test_a_grey_image_is_coloured(coloured, tmp_path):
    grey = write(tmp_path / "grey.png", np.arange(64).reshape(8, 8) * 4)
    args = ["--task", "colorize", "--images", grey, "--num", "2", "--steps", "3"]
    restore.main(["--workdir", str(coloured), *args])
    x = np.load(coloured / "restored" / "colorize.npz")["x"]
    assert x.shape == (1, 2, 8, 8, 3)
    # In the data's range, before it is brought to levels, the grey is that of the input.
    assert json.loads((coloured / "restored" / "colorize.json").read_text())["residual"] < 1e-5


def write(path, array):
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return str(path)


@pytest.mark.slow
def test_images_are_restored(plain, conditional, tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = [write(tmp_path / f"{i}.png", rng.integers(0, 256, (8, 8))) for i in range(2)]
    small = write(tmp_path / "small.png", rng.integers(0, 256, (4, 4)))
    common = ["--num", "2", "--steps", "3"]
    run = lambda folder, *args: restore.main(
        [str(a) for a in ["--workdir", folder, *args, *common]]
    )
    run(plain, "--task", "inpaint", "--mask", "left", "--images", *images, "--sample.sampler", "pc")
    with Image.open(plain / "restored" / "inpaint.png") as picture:
        assert picture.width > picture.height  # two rows of input and two restorations
    x = np.load(plain / "restored" / "inpaint.npz")["x"]
    assert x.shape == (2, 2, 8, 8, 1)
    # What was known is in the restorations, at the data's 17 levels.
    with Image.open(images[0]) as image:
        known = np.asarray(image)[:, 4:] / 256 * 17
    np.testing.assert_allclose(x[0, 0, :, 4:, 0], np.clip(known, 0, 16), atol=1.01)
    facts = json.loads((plain / "restored" / "inpaint.json").read_text())
    assert facts["residual"] < 1e-6 and "rms_error" not in facts
    run(conditional, "--task", "superres", "--images", small, "--method", "projection")
    run(
        conditional,
        "--task",
        "deblur",
        "--test",
        3,
        "--method",
        "dps",
        "--class",
        3,
        "--noise",
        "laplace",
        "--noise-std",
        0.1,
    )
    facts = json.loads((conditional / "restored" / "deblur.json").read_text())
    assert (
        facts["rms_error"] > 0
        and np.load(conditional / "restored" / "deblur.npz")["x"].shape[0] == 3
    )
    assert "3 examples restored 2 times by dps" in capsys.readouterr().out


@pytest.mark.slow
def test_wrong_use_is_named(plain, conditional, tmp_path):
    grey = write(tmp_path / "grey.png", np.zeros((8, 8)))
    tall = write(tmp_path / "tall.png", np.zeros((9, 8)))
    colour = write(tmp_path / "colour.png", np.zeros((8, 8, 3)))
    inpaint = ["--task", "inpaint"]
    given = [*inpaint, "--images", grey]
    for folder, args, named in (
        (plain, [*inpaint, "--images", tall], "must have 8 x 8 pixels"),
        (plain, [*inpaint, "--images", colour], "must be grey, got mode RGB"),
        (plain, ["--task", "superres", "--images", grey], "must have 4 x 4 pixels"),
        (plain, ["--task", "superres", "--factor", "3", "--images", grey], "divisible by factor=3"),
        (plain, ["--task", "colorize", "--images", grey], "needs a run on colour images"),
        (plain, inpaint, "exactly one of --images, --truth and --test"),
        (plain, [*given, "--truth", grey], "exactly one of"),
        (plain, [*given, "--mask", "middle"], "--mask must be one of center"),
        (plain, [*given, "--mask", tall], "must have 8 x 8 pixels"),
        (plain, [*given, "--class", "3"], "was trained without classes"),
        (plain, [*given, "--num", "0"], "--num must be at least 1"),
        (plain, [*inpaint, "--test", "1000000"], "--test must be at most"),
        (conditional, [*given, "--class", "10"], r"--class must be in \[0, 10\), got 10"),
    ):
        with pytest.raises(ValueError, match=named):
            restore.main(["--workdir", str(folder), "--overwrite", *args])
    with pytest.raises(OSError, match="nowhere"):
        restore.main(["--workdir", str(plain), "--overwrite", *inpaint, "--images", "nowhere.png"])
    for folder, args, named in (
        (plain, ["--class", "3"], "trained without classes .with --guidance"),
        (plain, ["--class", "12", "--guidance", "1"], r"--class must be in \[0, 10\), got 12"),
        (plain, ["--guidance", "2", "--guidance-by", "free"], "not trained with hidden labels"),
        (plain, ["--guidance", "nan"], "scale must be a finite"),
        (plain, ["--guidance", "2", "--guidance-interval", "0.5", "0.1"], "interval must be"),
        (conditional, ["--guidance-interval", "0.1", "0.5"], "needs --guidance"),
        (conditional, ["--guidance", "2", "--guidance-limit", "1"], "needs --guidance-parallel"),
        (conditional, ["--guidance", "2", "--guidance-by", "worse"], "needs --guidance-worse"),
        (conditional, ["--guidance", "2", "--guidance-rescale", "2"], "share must be a number"),
        (
            conditional,
            ["--guidance", "2", "--guidance-worse", str(plain), "--guidance-worse-step", "7"],
            r"has checkpoints \[10\], none of 7",
        ),
        (
            plain,
            ["--guidance", "2", "--guidance-worse", str(conditional)],
            "is conditioned on 10 classes, and the run on none",
        ),
        (
            conditional,
            [
                *("--guidance", "2", "--guidance-parallel", "0", "--guidance-momentum", "-0.5"),
                *("--sampler", "ode"),
            ],
            "--guidance-momentum needs a sampler with fixed steps",
        ),
        (conditional, ["--guidance", "2", "--guidance-by", "classifier"], "has no classifier"),
    ):
        with pytest.raises(ValueError, match=named):
            sample.main(["--workdir", str(folder), "--overwrite", *args])
    path = plain / guiding.FOLDER / guiding.CONFIG_FILE
    text = path.read_text()
    path.write_text(json.dumps({**json.loads(text), "num_classes": 7}))
    with pytest.raises(ValueError, match="has 7 classes, but the data of the run have 10"):
        sample.main(["--workdir", str(plain), "--guidance", "2", "--overwrite"])
    path.write_text(text)


def test_hidden_labels_need_labels():
    with pytest.raises(ValueError, match=r"label_dropout=0\.1 needs class_conditional"):
        dataclasses.replace(TINY, loss=LossConfig(label_dropout=0.1))
