"""`experiments.convert`: run folders of published weights, that the other commands take; or one line."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import cli, convert, runs
from experiments.config import DataConfig, LossConfig, SampleConfig
from experiments.run_config import Config, to_json
from score_jax._files import sha256_of
from score_jax.convert import (
    from_diffusers,
    from_score_sde_pytorch,
    load_pretrained,
    to_release,
)
from score_jax.nets import DDPM, MLP, NCSNpp, UNet
from score_jax.parametrization import NOISE, SCORE, SMALL, IndexInput, StdInput, TimeInput
from score_jax.sde import VE, VP, CosineBetas, LinearBetas
from tests.convert.test_convert_score_sde import flax_file
from tests.experiments.test_experiments import call
from tests.helpers import port_unet
from tests.helpers.convert_files import unpacked, write_torch

KEY = jax.random.key(0)
DDPMPP = NCSNpp(channels=16, channel_mult=(1, 2), num_blocks=1, attention=(4,))
SCHEDULE = {
    "sde": LinearBetas(), "noise_input": IndexInput(), "variance": SMALL,
    "loss": LossConfig(objective="simple"),
}  # fmt: skip
RGB = DataConfig(name="tfds", builder="cifar10", size=(8,), channels=3)


@pytest.fixture(autouse=True)
def quiet_start(monkeypatch):
    """Commands run in this process leave the compiler's options and its cache alone."""
    monkeypatch.setattr(cli, "start", lambda *workdirs, **needs: None)


def equal(a, b):
    """Whether two trees have the same names and numbers."""
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        jax.tree.leaves(jax.tree.map(np.array_equal, a, b))
    )


def made(tmp_path, source, file, config, *more):
    """Run the command in this process; the parameters of the run folder that it made."""
    (tmp_path / "c.json").write_text(to_json(config))
    work = tmp_path / "run"
    convert.main([
        "--from", source, "--file", str(file), "--config", str(tmp_path / "c.json"),
        "--workdir", str(work), *more,
    ])  # fmt: skip
    exp, params, step = runs.load(work)
    assert runs.load_config(work) == config
    assert json.loads((work / "converted.json").read_text())["from"] == source
    return exp.net, params, step


@pytest.mark.slow
def test_a_checkpoint_of_the_authors_is_sampled_and_evaluated(tmp_path):
    """The whole way on colour images from a file."""
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    np.save(tmp_path / "x.npy", x)
    config = Config(
        data=DataConfig(name="array", path=str(tmp_path / "x.npy")),
        net=DDPMPP,
        sample=dataclasses.replace(SampleConfig(), steps=4),
    )
    (tmp_path / "c.json").write_text(to_json(config))
    work = tmp_path / "runs" / "ddpmpp"
    options = ["--from", "score_sde_pytorch", "--file", unpacked("vp_ddpmpp_continuous.pth")]
    options += ["--config", tmp_path / "c.json", "--workdir", work]
    out = call("convert", *options, check=0)
    assert "parameters of step 1234" in out.stdout
    out = call("convert", *options, check=2)
    assert "exists already" in out.stderr and "Traceback" not in out.stderr
    call("sample", "--workdir", work, "--num", 4, check=0)
    (samples,) = (work / "samples").glob("*.npz")
    with np.load(samples) as file:
        assert file["x"].shape == (4, 8, 8, 3) and file["x"].dtype == np.uint8
    call("evaluate", "--workdir", work, "--num", 4, "--tol", "1e-1", check=0)
    result = json.loads((work / "evaluation.json").read_text())
    assert result["step"] == 1234 and np.isfinite(result["loss"])


@pytest.mark.slow
def test_raw_weights_on_request(tmp_path):
    file, config = unpacked("vp_ddpmpp_continuous.pth"), Config(data=RGB, net=DDPMPP)
    net, params, step = made(tmp_path, "score_sde_pytorch", file, config, "--raw")
    assert step == 1234
    assert equal(params, from_score_sde_pytorch(file, net, VP(), ema=False, size=8)[1])


@pytest.mark.slow
def test_checkpoints_of_the_jax_program(tmp_path):
    fields = {"progressive": "residual", "progressive_input": "residual", "embedding": "fourier"}
    net = DDPMPP.clone(channels=8, fir=True, scale_by_sigma=True, **fields)
    data = dataclasses.replace(RGB, range=(0, 1))
    config = Config(data, net, VE(), StdInput(), SCORE)
    file = flax_file(tmp_path / "checkpoint_8", "residuals")
    _, _, step = made(tmp_path, "score_sde_jax", file, config)
    assert step == 1_300_000


@pytest.mark.slow
@pytest.mark.parametrize("source", ["improved_diffusion", "guided_diffusion"])
def test_files_of_improved_diffusion(source, tmp_path):
    name = "iddpm_unet_additive"
    _, params, _, _ = port_unet.load(name)
    state = {k: np.asarray(v, "f4") for k, v in port_unet.read(name)[1].items()}
    net = UNet(
        channels=32, channel_mult=(1.0, 1.0), num_blocks=1, attention_factors=(2,),
        scale_shift_norm=False,
    )  # fmt: skip
    config = Config(data=RGB, net=net, **SCHEDULE)
    file = write_torch(tmp_path / "ema_0.9999_500000.pt", state)
    assert equal(made(tmp_path, source, file, config)[1], params)


def ddpm_config():
    """A config of the small diffusers folder."""
    net = DDPM(
        channels=32, channel_mult=(1, 1), num_blocks=1, attention=(8,), attend_every_block=True
    )
    return Config(data=dataclasses.replace(RGB, size=(16,)), net=net, **SCHEDULE)


@pytest.mark.slow
def test_folders_of_diffusers(tmp_path):
    """Its noise schedule is compared with that of the process, whichever form that has."""
    folder, config = unpacked("diffusers_ddpm"), ddpm_config()
    _, params, _ = made(tmp_path, "diffusers", folder, config)
    assert equal(params, from_diffusers(folder)[1])
    back = ["--to", "diffusers", "--workdir", str(tmp_path / "run"), "--file"]
    convert.main([*back, str(tmp_path / "back")])
    model, again, _ = from_diffusers(tmp_path / "back")
    assert equal(again, params) and model.parametrization is NOISE
    with pytest.raises(ValueError, match=r"file .*back' exists already"):
        convert.main([*back, str(tmp_path / "back")])
    rounded = IndexInput(rounded=True)
    levels = dataclasses.replace(config, noise_input=rounded, variance=None, loss=LossConfig())
    (tmp_path / "b").mkdir()
    assert equal(made(tmp_path / "b", "diffusers", folder, levels)[1], params)


# Refusals, and nothing is left behind.


def wrong_schedule(config):
    return dataclasses.replace(config, sde=CosineBetas())


def wrong_net(**fields):
    return lambda config: dataclasses.replace(config, net=config.net.clone(**fields))


def continuous(config):
    return dataclasses.replace(config, sde=VP(), noise_input=TimeInput(), loss=LossConfig())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (wrong_schedule, "another noise schedule of 1000 betas from 0.0001 to 0.02"),
        (continuous, "a noise schedule, not the SDE 'VP'"),
        (wrong_net(attend_every_block=False), "attend_every_block True, not False"),
        (wrong_net(attention=(16,)), r"attention \(8,\), not \(16,\)"),
    ],
)
def test_a_folder_of_another_process_or_network_is_refused(change, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        made(tmp_path, "diffusers", unpacked("diffusers_ddpm"), change(ddpm_config()))
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.slow
def test_a_run_as_a_checkpoint_of_score_sde(tmp_path):
    file, config = unpacked("vp_ddpmpp_continuous.pth"), Config(data=RGB, net=DDPMPP)
    net, params, _ = made(tmp_path, "score_sde_pytorch", file, config)
    path = tmp_path / "new" / "checkpoint_1.pth"
    given = ["--workdir", str(tmp_path / "run"), "--file", str(path), "--to", "score_sde_pytorch"]
    with pytest.raises(ValueError, match="--raw is not for --to score_sde_pytorch"):
        convert.main([*given, "--raw"])
    convert.main(given)
    _, again, info = from_score_sde_pytorch(path, net, VP(), size=8)
    assert equal(again, params) and info["step"] == 1234


def test_a_release_of_a_run_and_back(tmp_path, capsys):
    """The file has the config and the form of the data, so that neither is given again."""
    config = Config(
        net=MLP(width=16, num_blocks=1), class_conditional=True, loss=LossConfig(label_dropout=0.1)
    )
    first = runs.build(config)
    params = jax.tree.map(lambda leaf: leaf.astype("f2").astype("f4"), first.init_params(KEY))
    runs.write(tmp_path / "a", first, params, 5, {})
    path, names = tmp_path / "digits.npz", [f"digit {i}" for i in range(10)]
    out = ["--workdir", str(tmp_path / "a"), "--file", str(path), "--to", "score_jax"]
    convert.main([*out, "--class-names", *names])
    assert sha256_of(path) in capsys.readouterr().out
    model, loaded = load_pretrained(path)
    assert equal(loaded, params) and model.sde == config.sde
    back = ["--from", "score_jax", "--file", str(path), "--workdir", str(tmp_path / "b")]
    convert.main(back)
    again, read, step = runs.load(tmp_path / "b")
    assert again.config == config and step == 5 and equal(read, params)
    assert again.source.description.class_names == tuple(names)
    note = json.loads((tmp_path / "b" / "converted.json").read_text())
    assert note["sha256"] == sha256_of(path)
    to_release(tmp_path / "c.npz", first.ingredients, params, first.source.description)
    with pytest.raises(ValueError, match=r"c\.npz has no config of a run"):
        convert.main([*back[:3], str(tmp_path / "c.npz"), "--workdir", str(tmp_path / "c")])
    with pytest.raises(ValueError, match=r"'fashion' does not exist"):
        convert.main([*back[:3], "fashion", "--workdir", str(tmp_path / "c")])
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "give --from, to read a file, or --to, to write one"),
        (["--from", "edm", "--to", "diffusers"], "give --from, to read a file, or --to"),
        (["--from", "edm"], "--config is needed with --from"),
        (
            ["--to", "diffusers", "--config", "digits_vp"],
            "--config is for --from: a run folder has",
        ),
        (["--from", "score_jax", "--config", "digits_vp"], "--config is for --from: a release has"),
        (["--from", "score_jax", "--raw"], "--raw is for files that have an average too"),
        (["--to", "diffusers", "--class-names", "a"], "--class-names is for --to score_jax"),
    ],
)
def test_flags_of_the_two_ways_are_not_mixed(flags, named):
    with pytest.raises(ValueError, match=named):
        convert.main(["--file", "x", "--workdir", "y", *flags])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"--config": "cifar10_ddpmp"}, "unknown config 'cifar10_ddpmp'"),
        ({"--config": "nowhere.json"}, "'nowhere.json' is not a file"),
        ({"--file": "nowhere.pth"}, "'nowhere.pth' does not exist$"),
        (
            {"--file": "nowhere.pth", "--config": "cifar10_ncsnpp_continuous"},
            "'nowhere.pth' does not exist: download a checkpoint_N.pth of https://drive",
        ),
        ({"--from": "score_sde_jax"}, "cannot be read as a Flax checkpoint"),
        ({"--from": "improved_diffusion"}, "must be a UNet, got NCSNpp"),
        ({"--config": "cifar10_ddpmpp_continuous"}, "lacks tensors that the network needs"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(change, named, tmp_path):
    (tmp_path / "c.json").write_text(to_json(Config(data=RGB, net=DDPMPP)))
    given = {
        "--from": "score_sde_pytorch", "--file": str(unpacked("vp_ddpmpp_continuous.pth")),
        "--config": str(tmp_path / "c.json"), "--workdir": str(tmp_path / "run"),
    }  # fmt: skip
    with pytest.raises(ValueError, match=named):
        convert.main([part for pair in (given | change).items() for part in pair])
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]
