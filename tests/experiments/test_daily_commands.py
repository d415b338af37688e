"""What people do every day: single samples, films, latents, paths, pushed runs, restored data."""

import contextlib
import dataclasses
import io
import json
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from PIL import Image

import score_jax as sj
from experiments import cli, encode, interpolate, push, restore, runs, sample
from experiments.config import LossConfig
from experiments.parts import drawing, latents, singles
from experiments.reports import pictures
from score_jax import viz
from score_jax.samplers import as_it_is, identity, stepwise
from tests.helpers.tiny_runs import tiny, write_run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs on digits, on digits with classes, on points and on series of two channels."""
    home = tmp_path_factory.mktemp("daily")
    series = np.random.default_rng(0).normal(size=(40, 12, 2)).astype(np.float32)
    np.save(home / "series.npy", series)
    data = dataclasses.replace(tiny().data, name="array", path=str(home / "series.npy"))
    hidden = {"class_conditional": True, "loss": LossConfig(label_dropout=0.1)}
    return {
        "home": home,
        "plain": write_run(home / "plain", tiny()),
        "classes": write_run(home / "classes", tiny(**hidden)),
        "points": write_run(home / "points", tiny("two_moons_vp")),
        "series": write_run(home / "series", tiny(data=data)),
    }


def call(command, *args, code=0):
    """Run a command in this process: (what it prints, what it says)."""
    out, err, found = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(cli, "start"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main(lambda: command.main([str(arg) for arg in args]))
        except SystemExit as exit:
            found = exit.code
    assert found == code, out.getvalue() + err.getvalue()
    return out.getvalue(), err.getvalue()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_samples_by_number(folders, tmp_path):
    run = ["--workdir", folders["classes"]]
    call(sample, *run, "--num", 6, "--out", tmp_path / "all")
    x, y = (np.load(tmp_path / "all.npz")[k] for k in ("x", "y"))
    np.testing.assert_array_equal(y, np.arange(6))
    out, _ = call(sample, *run, "--seeds", "1-2,5", "--out", tmp_path / "some")
    assert "wrote 3 samples" in out
    assert names(tmp_path / "some") == ["000001.png", "000002.png", "000005.png", "labels.json"]
    assert json.loads((tmp_path / "some" / "labels.json").read_text()) == {"1": 1, "2": 2, "5": 5}
    with Image.open(tmp_path / "some" / "000005.png") as image:
        levels = np.clip(np.asarray(image)[..., None] / 256 * 17, 0, 16)
        np.testing.assert_allclose(levels, x[5], atol=1.01)
    _, err = call(sample, *run, "--seeds", "2", "--out", tmp_path / "some", code=2)
    assert "000002.png already" in err
    call(sample, *run, "--seeds", "2", "--out", tmp_path / "some", "--overwrite")


@pytest.mark.slow
def test_films_precision_and_files_that_are_there(folders, tmp_path):
    run = ["--workdir", folders["plain"], "--num", 4, "--sampler", "ddim", "--steps", 6]
    out, _ = call(sample, *run, "--film", "gif", "--out", tmp_path / "a")
    assert out.endswith(
        f"{tmp_path}/a.npz, {tmp_path}/a.png, {tmp_path}/a.json and {tmp_path}/a.gif\n"
    )
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 6
    before = (tmp_path / "a.npz").read_bytes()
    _, err = call(sample, *run, "--out", tmp_path / "a.npz", code=2)  # not to a.npz.npz
    assert "--overwrite" in err and (tmp_path / "a.npz").read_bytes() == before
    call(sample, *run, "--precision", "bfloat16", "--out", tmp_path / "a", "--overwrite")
    load = lambda path: np.load(path)["x"].astype(int)
    away = abs(load(tmp_path / "a.npz") - load(io.BytesIO(before)))
    assert away.max() > 0 and away.mean() < 1


def test_what_was_drawn_is_kept_after_an_interrupt(folders, tmp_path, monkeypatch):
    drawn = drawing.sampling.Drawn(np.zeros((2, 8, 8, 1), np.float32), 4.0, 0.1, 0.1, None)

    def interrupted(*args):
        yield 0, drawn
        raise KeyboardInterrupt

    monkeypatch.setattr(drawing, "draw_chunks", interrupted)
    args = ["--workdir", folders["plain"], "--num", 4, "--chunk", 2, "--out", tmp_path / "a"]
    out, err = call(sample, *args, code=130)
    assert np.load(tmp_path / "a.npz")["x"].shape == (2, 8, 8, 1)
    assert "2 samples" in out and "interrupted: what has been made is kept" in err


@pytest.mark.slow
def test_latents_and_log_densities(folders, tmp_path):
    np.save(tmp_path / "x.npy", np.asarray([[0.5, 0.2], [-1.0, 0.3]]))
    args = ["--workdir", folders["points"], "--images", tmp_path / "x.npy", "--tol", 1e-5]
    out, _ = call(encode, *args, "--logp", "--out", tmp_path / "a")
    found = np.load(tmp_path / "a.npz")
    assert found["z"].shape == (2, 2) and found["logp"].shape == (2,)
    np.testing.assert_allclose(found["decoded"], found["x"], atol=0.3)
    np.testing.assert_allclose(found["bits_per_dim"], -found["logp"] / 2 / np.log(2), rtol=1e-6)
    assert "bits per dimension" in out and "a.png" in out
    call(encode, "--workdir", folders["plain"], "--test", 2, "--by", "ddim", "--steps", 3,
         "--out", tmp_path / "b")  # fmt: skip
    assert np.load(tmp_path / "b.npz")["z"].shape == (2, 8, 8, 1)
    assert json.loads((tmp_path / "b.json").read_text())["nfe"] == 3


@pytest.mark.slow
def test_paths_between_samples(folders, tmp_path):
    args = ["--workdir", folders["plain"], "--by", "ddim", "--steps", 3, "--seeds", "0-2"]
    out, _ = call(interpolate, *args, "--frames", 3, "--film", "gif", "--out", tmp_path / "a")
    assert "2 paths of 3 frames" in out
    found = np.load(tmp_path / "a.npz")
    assert found["x"].shape == (2, 3, 8, 8, 1) and found["weight"].tolist() == [0, 0.5, 1]
    run = runs.load(folders["plain"])[0]
    start = sj.sample(
        jax.random.key(0), run.sde, lambda x, t: x, (3, 8, 8, 1), grid=[1.0, 0.5], progress=False,
        sampler=stepwise(identity, final_denoising=as_it_is),
    ).x  # fmt: skip
    np.testing.assert_allclose(found["z"][:, 0], start[:2], rtol=1e-6)
    np.testing.assert_allclose(found["z"][1, 2], start[2], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(latents.drawn(run, 0, [2])[0], start[2])
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 5  # the two frames at the middle end are one


def test_a_pushed_run_is_a_run_with_a_card(folders, tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    pushed = []

    class Hub:
        """A hub that keeps what it is given in a local folder."""

        def create_repo(self, repo_id, private, exist_ok):
            pushed.append((repo_id, private, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            pushed.append(names(pathlib.Path(folder_path)))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    args = ["--workdir", folders["plain"], "--to", tmp_path / "run", "--repo", "me/digits"]
    out, _ = call(push, *args, "--license", "mit", "--private")
    assert "https://huggingface.co/me/digits" in out
    files = ["README.md", "checkpoints", "config.json", "data.json", "model.json"]
    assert pushed == [("me/digits", True, True), files] and names(tmp_path / "run") == files
    card = (tmp_path / "run" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: score_jax\n") and "license: mit" in card
    assert "# me/digits" in card and "MLP" in card
    model, params = sj.load_pretrained(tmp_path / "run")
    assert model.sde == runs.load(folders["plain"])[0].sde
    mine = jax.tree.leaves(runs.load(folders["plain"])[1])
    for a, b in zip(mine, jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_masks_of_every_kind_restore(folders, tmp_path):
    known = np.arange(64).reshape(8, 8) % 3 > 0
    alpha = np.concatenate([np.zeros((8, 8, 3)), 255.0 * known[..., None]], axis=2)
    Image.fromarray(alpha.astype(np.uint8)).save(tmp_path / "alpha.png")
    Image.fromarray((known * 65535).astype(np.uint16)).save(tmp_path / "deep.png")
    args = ["--workdir", folders["plain"], "--task", "inpaint", "--test", 2, "--num", 1]
    masks = ["--mask", tmp_path / "alpha.png", tmp_path / "deep.png"]
    call(restore, *args, *masks, "--method", "replacement", "--out", tmp_path / "a")
    x = np.load(tmp_path / "a.npz")["x"][:, 0]
    truth = runs.load(folders["plain"])[0].source.examples(2)["x"]
    away = abs(x.astype(int) - truth)
    assert away[:, known].max() <= 1 < away[:, ~known].max()


@pytest.mark.slow
def test_series_with_missing_values_are_restored(folders, tmp_path):
    y = np.random.default_rng(1).normal(size=(2, 12, 2)).astype(np.float32)
    y[0, 3:6] = y[1, 8:, 1] = np.nan
    zarr.save_array(str(tmp_path / "y.zarr"), y)
    args = ["--workdir", folders["series"], "--task", "inpaint", "--images", tmp_path / "y.zarr"]
    out, _ = call(
        restore,
        *args,
        "--mask",
        "nan",
        "--num",
        2,
        "--method",
        "replacement",
        "--out",
        tmp_path / "a",
    )
    x = np.load(tmp_path / "a.npz")["x"]
    assert x.shape == (2, 2, 12, 2) and np.isfinite(x).all() and "a.png" in out
    seen = np.isfinite(y)
    for k in range(2):
        np.testing.assert_allclose(x[:, k][seen], y[seen], atol=1e-4)


def test_measurements_have_the_noise_of_the_flags(folders):
    """Its kind, its deviation and its levels; the mean count of white is that of --photons."""
    run = runs.load(folders["plain"])[0]
    args = restore.Args(str(folders["plain"]), "superres", test=40, noise_std=0.1, photons=50.0)
    seen = {}
    for kind in restore.NOISES:
        problem = restore.measured(dataclasses.replace(args, noise=kind), run, jax.random.key(0))
        away = problem.y - problem.operators[0].forward(jnp.asarray(problem.truth))
        assert float(np.std(away)) == pytest.approx(problem.noise_std, rel=0.25)
        given = problem.given(problem.operators[0], problem.y)
        assert (given.noise is None) == (kind == "normal")
        seen[kind] = problem
    assert seen["normal"].noise_std == 0.1 == pytest.approx(seen["laplace"].noise_std)
    low, high = run.config.data.range
    cells, counts = seen["rounded"].y / 0.25, 50 * (seen["poisson"].y - low) / (high - low)
    np.testing.assert_allclose(cells, np.round(cells), atol=1e-5)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)


def test_a_picture_is_never_a_reason_to_stop(folders, tmp_path, monkeypatch, capsys):
    run = runs.load(folders["plain"])[0]
    x = np.zeros((2, 8, 8, 1), np.float32)
    assert pictures.save_samples(run, x, tmp_path / "a.png")

    def missing(*args, **kwargs):
        raise ImportError("this picture needs matplotlib")

    monkeypatch.setattr(viz, "picture", missing)
    assert not pictures.save_samples(run, x, tmp_path / "b.png")
    assert "no picture" in capsys.readouterr().err and names(tmp_path) == ["a.png"]


def test_numbers_of_samples():
    assert singles.numbers("3, 0-2,2") == [0, 1, 2, 3]


@pytest.mark.slow
def test_draws_are_summarised(folders, tmp_path):
    """Images of a class with the truth and all draws kept; series with missing values."""
    args = ["--workdir", folders["classes"], "--task", "inpaint", "--test", 2, "--class", 1]
    more = ["--draws", 6, "--chunk", 4, "--keep-draws", "--method", "mmps", "--out", tmp_path / "a"]
    out, _ = call(restore, *args, *more)
    found, x = np.load(tmp_path / "a.npz"), np.load(tmp_path / "a-draws.npy")
    assert x.shape == (2, 6, 8, 8, 1) and x.dtype == np.uint8 and (x[0] != x[1]).any()
    np.testing.assert_allclose(found["mean"], x.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found["std"], x.std(axis=1, ddof=1), atol=1e-6)
    np.testing.assert_allclose(found["low"], np.quantile(x, 0.05, axis=1), atol=1e-6)
    facts = json.loads((tmp_path / "a.json").read_text())
    assert 0 <= facts["coverage"] <= 1 and facts["rms_error"] > 0
    assert "2 examples drawn 6 times by mmps: the mean is" in out and "a-draws.npy" in out
    assert names(tmp_path) == ["a-draws.npy", "a.json", "a.npz", "a.png"]
    y = np.random.default_rng(1).normal(size=(2, 12, 2)).astype(np.float32)
    y[:, 3:6] = np.nan
    np.save(tmp_path / "y.npy", y)
    args = ["--workdir", folders["series"], "--task", "inpaint", "--images", tmp_path / "y.npy"]
    more = ["--mask", "nan", "--draws", 4, "--method", "replacement", "--out", tmp_path / "b"]
    out, _ = call(restore, *args, *more, "--interval", 0.5)
    found, seen = np.load(tmp_path / "b.npz"), np.isfinite(y)
    np.testing.assert_allclose(found["mean"][seen], y[seen], atol=1e-4)
    assert (found["low"] <= found["high"]).all() and found["std"][~seen].min() > 0
    assert (
        found["std"][seen].max() < 1e-4
        and "b.png" in out
        and not (tmp_path / "b-draws.npy").exists()
    )
