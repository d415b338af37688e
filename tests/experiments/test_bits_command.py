"""What `experiments.evaluate --bpd` refuses, before and while it computes, in one clear line."""

import dataclasses

import jax
import pytest

from experiments import cli, evaluate, presets, runs
from experiments.reports import bits
from score_jax import likelihood


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--draws", "0"], "--draws must be at least 1 with --bpd"),
        (["--draws", "-1"], "--draws must be at least 0, got -1"),
        (["--chunk", "0"], "--chunk must be at least 1"),
        (["--probes", "0"], "--probes must be at least 1"),
        (["--bound", "-1"], "--bound must be at least 0"),
        (["--bound-steps", "0"], "--bound-steps must be at least 1"),
        (["--examples", "0"], "--examples must be at least 1"),
        (["--tol", "0"], "--tol must be finite and > 0"),
        (["--tol", "nan"], "--tol must be finite and > 0"),
    ],
)
def test_bad_flags_end_with_one_line_and_exit_code_2(flags, named, capsys):
    """By the command's own entry, before any folder is looked at."""
    with pytest.raises(SystemExit) as ended:
        cli.main(lambda: evaluate.main(["--workdir", "no_such_run", "--bpd", *flags]))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("preset", "options", "named"),
    [
        ("digits_vp", {"bound_steps": 10}, "--bound-steps needs a run on a noise schedule"),
        ("digits_iddpm", {"gap": "tweedie"}, "--gap is for runs on an SDE"),
        ("digits_iddpm", {"probes": 4}, "--probes is for runs on an SDE"),
        ("raw", {}, "never dequantised"),
    ],
)
def test_flags_that_do_not_fit_the_run_are_named(preset, options, named, tmp_path):
    config = presets.get("digits_vp" if preset == "raw" else preset)
    if preset == "raw":
        data = dataclasses.replace(config.data, dequantize=False)
        config = dataclasses.replace(config, data=data)
    exp = runs.build(config)
    with pytest.raises(ValueError, match=named):
        bits.measure(exp, None, jax.random.key(0), bits.Options(**options), tmp_path)


def test_the_plain_evaluation_goes_without_where_there_is_no_density():
    config = presets.get("digits_vp")
    raw = dataclasses.replace(config, data=dataclasses.replace(config.data, dequantize=False))
    options = bits.Options()
    assert bits.never_dequantised(runs.build(raw), options)
    assert not bits.never_dequantised(runs.build(config), options)
    assert not bits.never_dequantised(
        runs.build(raw), dataclasses.replace(options, allow_undequantised=True)
    )
    assert "because" in evaluate.report({"no_bits_per_dim": "none, because"})


@pytest.mark.slow
def test_a_solve_that_does_not_end_is_said_in_one_line():
    """diffrax's error comes out of the device in the middle of pages of text."""
    exp = runs.build(presets.get("digits_vp"))

    def estimate(exp, args, key, params, x, y):
        return likelihood.log_likelihood(key, exp.sde, lambda x, t: -50 * x, x, max_steps=2)

    with pytest.raises(ValueError, match=r"choose a larger one") as raised:
        bits._over(exp, estimate, None, jax.random.key(0), bits.Options(chunk=8))
    assert "\n" not in str(raised.value)
