"""Bad input to the commands: one line that names the option, exit code 2, and nothing written.

To add a case: one line of CASES, (command and options, pattern of the line). {plain}, {classes}, {points}
are runs without training. {grey}, {colour}, {tall}, {broken}, {x} and {holes} are files. {out} is a path
that does not exist.
"""

import contextlib
import dataclasses
import importlib
import io
import os
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from experiments import cli
from tests.helpers.tiny_runs import tiny, write_run

INPAINT = "restore --workdir {plain} --task inpaint"
CASES = [
    # sample
    ("sample", "--workdir"),
    ("sample --workdir {out}", "holds no run"),
    ("sample --workdir {grey}", "holds no run|not a folder|is a file"),
    ("sample --workdir {plain} --num 0", "--num must be at least 1, got 0"),
    ("sample --workdir {plain} --num x", "num"),
    ("sample --workdir {plain} --chunk -1", "--chunk must be at least 1"),
    ("sample --workdir {plain} --class 3", "trained without classes"),
    ("sample --workdir {classes} --class 10", r"--class must be in \[0, 10\), got 10"),
    ("sample --workdir {classes} --class -1", r"--class must be in \[0, 10\), got -1"),
    ("sample --workdir {plain} --sampler heunn", "sampler"),
    ("sample --workdir {plain} --steps 0", "steps"),
    ("sample --workdir {plain} --grid even", "grid"),
    ("sample --workdir {plain} --t0 2", "t0"),
    ("sample --workdir {plain} --t0 1e-9", "t0 must be"),
    ("sample --workdir {plain} --eta 2", "eta"),
    ("sample --workdir {plain} --sampler edm --churn -1", "churn"),
    ("sample --workdir {plain} --sampler edm --s-min 9 --s-max 1", "s_min"),
    ("sample --workdir {plain} --sampler unipc --order 5", "order"),
    ("sample --workdir {plain} --sampler pc --snr 0", "snr"),
    ("sample --workdir {plain} --sampler ode --rtol 0", "rtol"),
    ("sample --workdir {plain} --sampler ode --steps 7", "--steps is not used by sampler 'ode'"),
    ("sample --workdir {plain} --sampler heun --snr 3", "--snr is not used by sampler 'heun'"),
    ("sample --workdir {points} --threshold static", "--threshold static is for data with levels"),
    ("sample --workdir {plain} --guidance nan", "scale must be a finite|no classifier"),
    ("sample --workdir {plain} --guidance 2", "has no classifier"),
    ("sample --workdir {plain} --guidance 2 --guidance-by free", "hidden labels"),
    ("sample --workdir {plain} --guidance-interval 0.1 0.5", "needs --guidance"),
    ("sample --workdir {plain} --guidance 2 --guidance-momentum -0.5", "needs --guidance-parallel"),
    ("sample --workdir {plain} --guidance 2 --guidance-worse {out}", "holds no run"),
    ("sample --workdir {classes} --guidance 2 --guidance-interval 0.5 0.1", "interval must be"),
    ("sample --workdir {plain} --seeds 5-2", "--seeds must be numbers such as"),
    ("sample --workdir {plain} --seeds a", "--seeds must be numbers such as"),
    ("sample --workdir {plain} --seeds -1", "--seeds|seeds"),
    ("sample --workdir {points} --seeds 0-3 --out {out}", "--seeds is for images"),
    ("sample --workdir {plain} --seeds 0 --format png", "--seeds writes PNG files by itself"),
    ("sample --workdir {plain} --film avi", "film"),
    (
        "sample --workdir {plain} --film gif --sampler ode",
        "--film needs a sampler with fixed steps",
    ),
    ("sample --workdir {points} --film gif", "--film needs data of two or more axes"),
    ("sample --workdir {plain} --film gif --format png", "--film is for samples of one call"),
    ("sample --workdir {plain} --precision float16", "precision"),
    ("sample --workdir {points} --format png --out {out}", "--format png is for images"),
    (
        "sample --workdir {plain} --out {there}",
        "there.npz and there.png exist already.*--overwrite",
    ),
    # restore
    ("restore --workdir {plain}", "task"),
    ("restore --workdir {plain} --task denoise", "task"),
    (INPAINT, "exactly one of --images, --truth and --test"),
    (f"{INPAINT} --images {{grey}} --test 2", "exactly one of"),
    (f"{INPAINT} --test 0", "--test must be at least 1, got 0"),
    (f"{INPAINT} --test -1", "--test must be at least 1, got -1"),
    (f"{INPAINT} --images nowhere.png", "image 'nowhere.png' does not exist"),
    (f"{INPAINT} --images {{broken}}", "image '.*broken.png' cannot be read as a picture"),
    (f"{INPAINT} --images {{tall}}", "must have 8 x 8 pixels .*got 9 x 8: --resize"),
    (f"{INPAINT} --images {{colour}}", "must be grey, got mode RGB"),
    (f"{INPAINT} --images {{x}}", "must have examples of shape"),
    (f"{INPAINT} --test 100000", "--test must be at most"),
    (f"{INPAINT} --test 1 --mask middle", "--mask must be one of center"),
    (f"{INPAINT} --test 1 --mask {{tall}}", "--mask .*must have 8 x 8 pixels"),
    (f"{INPAINT} --test 1 --mask {{white}}", "all of its pixels are known"),
    (f"{INPAINT} --test 1 --mask {{grey}}", "all of its pixels are missing"),
    (f"{INPAINT} --test 1 --mask {{broken}}", "--mask '.*broken.png' cannot be read"),
    (f"{INPAINT} --test 1 --mask nan", "--mask nan: nothing is missing in example 0"),
    (
        f"{INPAINT} --images {{holes}}",
        "3 known entries of example 0 are NaN or infinite; --mask nan",
    ),
    (f"{INPAINT} --test 3 --mask left right", "--mask must be one, or one for each of"),
    (f"{INPAINT} --test 1 --num 0", "--num must be at least 1"),
    (f"{INPAINT} --test 1 --draws 1", "--draws must be 0 or at least 2"),
    (f"{INPAINT} --test 1 --draws 4 --interval 1", "--interval must be between 0 and 1"),
    (f"{INPAINT} --test 1 --draws 4 --num 2", "--num is not used by --draws"),
    (f"{INPAINT} --test 1 --keep-draws", "--keep-draws is not used by a command without --draws"),
    (f"{INPAINT} --test 1 --noise-std -1", "--noise-std must be finite and at least 0"),
    (f"{INPAINT} --test 1 --noise-std nan", "--noise-std must be finite"),
    (f"{INPAINT} --test 1 --noise poisson --photons 0", "--photons must be finite and > 0"),
    (
        f"{INPAINT} --test 1 --noise poisson --noise-std 1",
        "--noise-std is not used by --noise 'poi",
    ),
    (f"{INPAINT} --test 1 --noise laplace", "--noise laplace needs --noise-std"),
    (f"{INPAINT} --test 1 --noise rounded --noise-std 0.1 --step -1", "--step must be finite"),
    (f"{INPAINT} --test 1 --step 1", "--step is not used by --noise 'normal'"),
    (f"{INPAINT} --test 1 --noise salt", "noise"),
    (f"{INPAINT} --images {{out}}.zarr", "does not exist"),
    (f"{INPAINT} --test 1 --class 3", "trained without classes"),
    (f"{INPAINT} --test 1 --factor 7", "--factor is not used by --task 'inpaint'"),
    (f"{INPAINT} --test 1 --resamplings 0", "--resamplings is not used by --method 'pigdm'"),
    (f"{INPAINT} --test 1 --method dps --scale 0", "scale must be"),
    (f"{INPAINT} --test 1 --method repaint --resamplings 0", "resamplings must be"),
    (f"{INPAINT} --test 1 --method repaint --noise-std 0.1", "noise_std 0"),
    (f"{INPAINT} --test 1 --method magic", "method"),
    (f"{INPAINT} --test 1 --method ddrm --scale 2", "--scale is not used by --method 'ddrm'"),
    (f"{INPAINT} --test 1 --sampler ode --method dps", "acts on the steps"),
    ("restore --workdir {plain} --task superres --test 1 --factor 3", "divisible by --factor 3"),
    ("restore --workdir {plain} --task superres --test 1 --factor 0", "--factor must be at least"),
    ("restore --workdir {plain} --task superres --images {grey}", "must have 4 x 4 pixels"),
    ("restore --workdir {plain} --task deblur --test 1 --blur 0", "--blur must be finite and > 0"),
    ("restore --workdir {plain} --task colorize --images {grey}", "needs a run on colour images"),
    ("restore --workdir {points} --task deblur --test 1", "needs axes of space"),
    (
        "restore --workdir {points} --task inpaint --test 1 --noise poisson",
        "needs data with levels",
    ),
    ("restore --workdir {points} --task inpaint --images {grey}", "must be a .npy or .zarr file"),
    # encode and interpolate
    ("encode --workdir {plain}", "exactly one of --images and --test"),
    ("encode --workdir {plain} --test 0", "--test must be at least 1, got 0"),
    ("encode --workdir {plain} --test 2 --tol 0", "--tol must be finite and > 0"),
    ("encode --workdir {plain} --test 2 --steps 0 --by ddim", "--steps must be at least 1"),
    ("encode --workdir {plain} --test 2 --steps 9", "--steps is not used by --by 'ode'"),
    ("encode --workdir {plain} --test 2 --by ddim --logp", "--logp is not used by --by 'ddim'"),
    ("encode --workdir {plain} --test 99999", "--test must be at most"),
    ("encode --workdir {plain} --images {broken}", "broken.png' cannot be read"),
    ("encode --workdir {classes} --test 2 --class 11", r"--class must be in \[0, 10\)"),
    ("encode --workdir {out} --test 2", "holds no run"),
    ("encode --workdir {plain} --test 2 --out {there}", "there.npz and there.png exist already"),
    ("interpolate --workdir {plain}", "exactly one of --images, --test and --seeds"),
    ("interpolate --workdir {plain} --seeds 3", "a path needs two ends or more, got 1"),
    ("interpolate --workdir {plain} --test 1", "a path needs two ends or more, got 1"),
    ("interpolate --workdir {plain} --seeds x", "--seeds must be numbers"),
    ("interpolate --workdir {plain} --seeds 0-1 --frames 1", "--frames must be at least 2"),
    ("interpolate --workdir {plain} --seeds 0-1 --chunk 0", "--chunk must be at least 1"),
    ("interpolate --workdir {plain} --seeds 0-1 --path round", "path"),
    # push
    ("push --workdir {plain}", "give --to, a folder, or --repo"),
    ("push --workdir {plain} --repo digits", "--repo must be USER/NAME"),
    ("push --workdir {plain} --to {home}", "to .*exists already"),
    ("push --workdir {plain} --to {out} --private", "--private is for --repo"),
    (
        "push --workdir {plain} --to {out} --license My_Own",
        "--license must be a short name",
    ),
    ("push --workdir {out} --to {out}/a", "holds no run"),
    # train
    ("train --config digits", "config"),
    ("train --workdir {out} --train.steps 0", "steps"),
    ("train --workdir {out} --train.steps 7 --train.steps-per-call 5", "multiple of"),
    ("train --workdir {out} --optim.lr -1", "lr"),
    ("train --workdir {out} --optim.lr nan", "lr"),
    ("train --workdir {out} --optim.ema-decay 1.5", "ema_decay"),
    ("train --workdir {out} --sde.beta-min -1", "beta_min"),
    ("train --workdir {out} --sde.kind VPP", "kind"),
    ("train --workdir {out} --loss.t0 0", "t0"),
    ("train --workdir {out} --loss.label-dropout 0.1", "label_dropout=0.1 needs class_conditional"),
    ("train --workdir {out} --data.name nothing", "name"),
    ("train --workdir {out} --data.name array", "path"),
    ("train --workdir {out} --data.name array --data.path nowhere.npy", "nowhere.npy"),
    ("train --workdir {out} --mesh.shard fsdp", "shard"),
    ("train --config two_moons_vp --workdir {out} --data.path x.npy", "not used by data.name"),
    ("train --config two_moons_vp --workdir {out} --net.kind NCSNpp", "NCSNpp|shape|net"),
    ("train --workdir {out} --variance learned", "learned|variance"),
    ("train --workdir {out} --no-such-flag 3", "no-such-flag"),
    ("train_classifier --workdir {out}", "holds no run"),
    ("train_classifier --workdir {points} --steps 0", "steps"),
    ("train_classifier --workdir {plain} --lr 0", "lr"),
    # evaluate and compare
    ("evaluate --workdir {out}", "holds no run"),
    ("evaluate --workdir {plain} --num 1", "--num must be"),
    ("evaluate --workdir {plain} --draws -1", "--draws must be at least 0"),
    ("evaluate --workdir {plain} --tol 0", "--tol must be finite"),
    ("evaluate --workdir {plain} --probes 0", "--probes must be at least 1"),
    ("evaluate --workdir {plain} --sampler none", "sampler"),
    ("evaluate --workdir {plain} --chunk 0", "--chunk must be at least 1"),
    ("compare --workdir {out}", "holds no run"),
    ("compare --workdir {plain} --num 1", "--num must be at least 2"),
    ("compare --workdir {plain} --repeats 0", "--repeats must be at least 1"),
    ("compare --workdir {plain} --nfe 0", "--nfe must be numbers of at least 1"),
    ("compare --workdir {plain} --samplers em heunn", "heunn"),
    # the others
    ("average --workdir {plain} --std 0.1", "has no snapshots"),
    ("average --workdir {out}", "holds no run"),
    ("bounds --workdirs {out} --out {out}", "holds no run"),
    ("convert --from score_sde --file nowhere --config x --workdir {out}", "nowhere|config|from"),
    ("convert --from nothing --file {grey} --config x --workdir {out}", "from"),
    ("demo --config nothing --workdir {out}", "nothing"),
    ("prepare --from {out} --out {out}2", "out"),
    # Arguments of the library, which have other names here
    (
        "prepare --from {bits} --out {out}",
        "pass --levels 2 if these are all, or --levels 256",
    ),
    (
        "train --workdir {out} --data.name folder --data.path {sizes} --data.test-path {sizes}",
        "first image is 8 x 8: pass --data.size 8 8 to bring",
    ),
    (
        "train --workdir {out} --data.name folder --data.path {sizes} --data.test-path {sizes} "
        "--data.size 16",
        "smaller than 16 x 16: pass --data.enlarge, or",
    ),
    ("info {out}", "holds no run|workdir|run"),
    # Reports that are there
    ("compare --workdir {plain} --out {reports}", "compare.md exists already.*--overwrite"),
    ("posterior --out {reports}", "posterior.json exists already.*--overwrite"),
    ("bounds --workdirs {plain} --out {reports}", "bounds.json exists already.*--overwrite"),
    ("evaluate --workdir {reports}", "evaluation.json exists already.*--overwrite"),
    ("evaluate --workdir {reports} --bpd", "bits_per_dim.json exists already.*--overwrite"),
    (
        "evaluate --workdir {plain} --features math:sqrt --out {reports}/s.npz",
        "s.npz exists already.*--overwrite",
    ),
    (
        "statistics --features math:sqrt --out {reports}/s.npz",
        "s.npz exists already: choose another --out",
    ),
]
IDS = [f"{i}: {words[:50]}" for i, (words, _) in enumerate(CASES)]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Runs and files by the names in the table."""
    home = tmp_path_factory.mktemp("bad")
    save = lambda name, array: Image.fromarray(np.asarray(array, np.uint8)).save(home / name)
    save("grey.png", np.zeros((8, 8)))
    save("white.png", np.full((8, 8), 255))
    save("tall.png", np.zeros((9, 8)))
    save("colour.png", np.zeros((8, 8, 3)))
    (home / "broken.png").write_bytes((home / "grey.png").read_bytes()[:40])
    np.save(home / "x.npy", np.zeros((3, 5)))
    np.save(home / "holes.npy", np.where(np.arange(64) < 3, np.nan, 0.0).reshape(1, 8, 8, 1))
    np.save(home / "bits.npy", (np.arange(192) % 2).astype(np.uint8).reshape(3, 8, 8, 1))
    (home / "sizes").mkdir()
    for i, name in enumerate(("grey.png", "tall.png")):
        (home / "sizes" / f"{i}.png").write_bytes((home / name).read_bytes())
    for name in ("there.npz", "there.png"):
        (home / name).touch()
    (home / "reports").mkdir()
    for name in (
        "compare.md", "posterior.json", "bounds.json", "evaluation.json", "bits_per_dim.json", "s.npz",
    ):  # fmt: skip
        (home / "reports" / name).touch()
    hidden = dataclasses.replace(tiny().loss, label_dropout=0.1)
    found = {
        "plain": write_run(home / "plain", tiny()),
        "classes": write_run(home / "classes", tiny(class_conditional=True, loss=hidden)),
        "points": write_run(home / "points", tiny("two_moons_vp")),
    }
    names = (
        "grey.png", "white.png", "tall.png", "colour.png", "broken.png", "x.npy", "holes.npy",
        "bits.npy", "sizes",
    )  # fmt: skip
    return (
        found
        | {"home": home, "out": home / "out", "there": home / "there", "reports": home / "reports"}
        | {name.split(".")[0]: home / name for name in names}
    )


def listing(folder):
    """All files below a folder, without locks, with their sizes."""
    found = (path for path in folder.rglob("*") if path.name != ".lock")
    return {str(path): path.stat().st_size for path in found if path.is_file()}


@pytest.mark.parametrize(("words", "named"), CASES, ids=IDS)
def test_one_line_names_the_option(words, named, places, monkeypatch):
    import re

    monkeypatch.chdir(places["home"])
    name, *args = words.format(**places).split()
    module, code = importlib.import_module(f"experiments.{name}"), 0
    before, out, err = listing(places["home"]), io.StringIO(), io.StringIO()
    with (
        mock.patch.object(cli, "start"),
        mock.patch.dict(os.environ, {"SCORE_JAX_DEBUG": ""}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main(lambda: module.main(args))
        except SystemExit as exit:
            code = exit.code
    said = err.getvalue()
    assert code == 2, (code, out.getvalue() + said)
    assert re.search(named, " ".join(said.replace("│", " ").split())), said
    assert "Traceback" not in said
    assert listing(places["home"]) == before


def test_arguments_of_the_library_are_named_as_options():
    """By the help of the command that was read last; what no option or several have stays."""
    help = """
│ --workdir STR       Folder, see --key │
│ --data.levels INT                     │
│         How many grey levels.         │
│ --raw, --no-raw                       │
│ --train.steps INT                     │
│ --sample.steps INT                    │
│ --data.size INT [INT ...]             │
"""
    said = "pass levels=2, or size=(8, 16): key=3, steps=5, loss.levels=3; ema=False takes those it has"
    with mock.patch.object(cli, "_last_help", [lambda: print(help)]):
        assert cli.by_option(said) == (
            "pass --data.levels 2, or --data.size 8 16: key=3, steps=5, loss.levels=3; "
            "--raw takes those it has"
        )
    with mock.patch.object(cli, "_last_help", []):
        assert cli.by_option(said) == said
