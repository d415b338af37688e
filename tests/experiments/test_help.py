"""What the commands say of themselves: every text of every command, and that JAX is not needed for it."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from unittest import mock

import pytest

from experiments import cli, presets
from experiments.__main__ import commands, main
from experiments.config import SampleConfig
from experiments.parts import describe, flags
from experiments.run_config import Config, to_record
from tests.helpers import ROOT

# Prints, as JSON, the help of every command and what was imported for it.
SCREENS = """
import contextlib, importlib, io, json, sys
from experiments.__main__ import commands
screens = {}
for name, command in commands().items():
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        importlib.import_module(f"experiments.{command.module}").main(["--help"])
    screens[name] = out.getvalue()
    heavy = {"jax", "flax", "tensorflow_datasets", "optax", "sklearn", "matplotlib"}
    assert not heavy & set(sys.modules), f"{name} --help imports {heavy & set(sys.modules)}"
print(json.dumps(screens))
"""


@pytest.fixture(scope="module")
def screens():
    """The help of every command as an 80-column terminal shows it, by one process without JAX."""
    out = subprocess.run(
        [sys.executable, "-c", SCREENS], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


def shown(*args):
    """The help of a command, in this process."""
    out = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "80"}),
        contextlib.redirect_stdout(out),
        pytest.raises(SystemExit),
    ):
        main([*args, "--help"])
    return out.getvalue()


def texts(screen):
    """{option: its help text without the default} of a screen."""
    found, option = {}, None
    for line in screen.splitlines():
        named, line = re.match(r"│ (-h|--\S)", line), line.strip("│ ")
        if named:
            option, _, text = line.partition("  ")
            option = option.split(",")[0].split(" ")[0]
            found[option] = text.strip()
        elif option and line and not set(line) <= set("─╭╮╰╯"):
            found[option] += f" {line}"
        elif set(line) & set("╭╰"):
            option = None
    strip = lambda text: re.sub(r"\(default: [^()]*\)|\(required\)", "", text)
    # What is left of the values that an option takes, where they need a line of their own.
    return {k: re.sub(r"^[ \w,]*}", "", strip(v)).strip() for k, v in found.items() if k != "-h"}


def check_screen(name, screen):
    """Every option of a screen has a text, which no other has, and no line is too long."""
    assert max(map(len, screen.splitlines())) <= 80, name
    found = texts(screen)
    assert [option for option, text in found.items() if len(text) < 5] == [], name
    twice = [v for v in found.values() if list(found.values()).count(v) > 1]
    assert twice == [], name
    return found


@pytest.mark.slow
def test_every_option_has_a_text_of_its_own_in_80_columns(screens):
    assert set(screens) == set(commands())
    for name, screen in screens.items():
        check_screen(name, screen)
        assert screen.startswith(f"usage: python -m experiments.{name} ")


@pytest.mark.parametrize("name", flags.objects())
def test_the_options_of_every_kind_have_texts(name):
    for kind in flags.objects()[name]:
        flag = f"--{name.replace('_', '-')}"
        found = check_screen(kind, shown("train", f"{flag}.kind", kind))
        fields = flags.objects()[name][kind]["fields"]
        assert {f"{flag}.{field.replace('_', '-')}" for field in fields} <= {
            option.replace(".no-", ".") for option in found
        }


def test_texts_are_those_of_the_option():
    found = texts(shown("train"))
    assert found["--optim.beta1"] == "Decay of the mean of the gradients."
    assert found["--optim.grad-clip"].startswith("Largest global norm")
    assert "MLP" in shown("train").split("--net.kind")[1].split("}")[0]


def test_the_help_over_a_run_keeps_its_texts(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"sample": {"steps": 7}}))
    over, plain = shown("sample", "--workdir", str(tmp_path)), shown("sample")
    assert texts(over) == texts(plain)
    assert "(default: 7)" in over and "(default: 7)" not in plain


def test_the_program_lists_its_commands(capsys):
    main([])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert [name for name in commands() if f"  {name} " not in out] == []
    with pytest.raises(SystemExit) as exit:
        main(["sampel"])
    assert exit.value.code == 2 and "did you mean 'sample'?" in capsys.readouterr().err


def test_the_description_is_that_of_the_classes_and_presets():
    """If not: `python -m experiments.parts.describe`."""
    kept = json.loads(describe.FILE.read_text())
    assert kept == json.loads(json.dumps(describe.gather()))
    assert flags.description() == kept
    for name, config in presets.CONFIGS.items():
        assert flags.preset(name) == to_record(config)


def test_flags_give_the_config_back():
    for name in ("digits_vp", "ve_cifar10_ncsnpp", "iddpm_imagenet64_cond", "ve_ncsn_celeba"):
        made = flags.config_flags(flags.preset(name), dict.fromkeys(flags.objects()))
        assert flags.config_of(made) == presets.get(name)


def test_a_description_that_is_out_of_date_is_not_used(tmp_path):
    old = json.loads(describe.FILE.read_text()) | {"digest": "of yesterday", "presets": {}}
    (tmp_path / "described.json").write_text(json.dumps(old))
    with (
        mock.patch.object(describe, "FILE", tmp_path / "described.json"),
        mock.patch.object(describe, "gather", return_value={"presets": "new"}),
        mock.patch.object(describe, "digest", return_value="of today"),
    ):
        assert describe.description() == {"presets": "new"}


def test_types_as_json():
    for hint in (
        int,
        float | None,
        tuple[int, ...],
        tuple[float, str],
        flags.Literal["a", 1] | None,
    ):
        assert describe.decode(describe.encode(hint)) == hint
    assert describe.encode(list) is None


def test_a_config_file_is_a_preset(tmp_path):
    (tmp_path / "c.json").write_text('{"net": {"kind": "MLP", "width": 8}, "seed": 3}')
    (tmp_path / "c.yaml").write_text("net:\n  kind: MLP\n  width: 8\nseed: 3\n")
    for file in ("c.json", "c.yaml"):
        args = ["--config", str(tmp_path / file), "--optim.lr", "0.5"]
        command, config = cli.parse_config("train", "Train.", args)
        assert (config.net.width, config.seed, config.optim.lr) == (8, 3, 0.5)
        assert config.sample == Config().sample and command.workdir == "runs/c"
    for text, named in (("{", "not JSON"), ("[]", "must be an object"), ('{"nett": 1}', "nett")):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(ValueError, match=named):
            cli.parse_config("train", "Train.", ["--config", str(tmp_path / "c.json")])
    with pytest.raises(ValueError, match="is not a file"):
        cli.parse_config("train", "Train.", ["--config", "no.yaml"])


UNUSED = [
    ("sample --workdir {} --sampler ode --steps 7 --snr 3", "--steps is not used by sampler 'ode'"),
    ("sample --workdir {} --sample.sampler ode --sample.grid song", "--grid is not used"),
    ("sample --workdir {} --sampler heun --together", "--together is not used by sampler 'heun'"),
    ("sample --workdir {} --corrector none --snr=3", "--snr is not used by corrector 'none'"),
    ("train --config two_moons_vp --data.path x.npy", "--data.path is not used by data.name"),
    ("train --data.name array --data.path x.npy --data.size 8", "--data.size is not used"),
    ("train --data.name two_moons --data.no-dequantize", "--data.dequantize is not used"),
    ("train --loss.weight 0.1", "--loss.weight is not used by loss.objective 'dsm'"),
    ("train --optim.rule lion --optim.eps 1e-3", "--optim.eps is not used by optim.rule 'lion'"),
    ("train --optim.final-lr 0.1", "--optim.final-lr is not used by optim.schedule 'constant'"),
    ("train --train.snapshot-every 10", "--train.snapshot-every is not used by a run without"),
    ("train --sample.sampler ode --sample.snr 0.2", "--sample.snr is not used by sampler 'ode'"),
]


@pytest.mark.parametrize(("line", "named"), UNUSED, ids=[line for line, _ in UNUSED])
def test_an_option_that_is_not_used_is_refused(tmp_path, capsys, line, named):
    with pytest.raises(SystemExit) as exit:
        main(line.format(tmp_path).split())
    assert exit.value.code == 2 and named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unused_field_of_a_config_is_mentioned_once(tmp_path, capsys):
    sample = {"sampler": "pc", "steps": 7, "snr": 0.3}
    (tmp_path / "config.json").write_text(json.dumps({"sample": sample}))
    args = cli.parse_over_run(commands_args("sample"), "sample", ["--workdir", str(tmp_path)])
    assert args.sample == SampleConfig(**sample) and capsys.readouterr().err == ""
    options = ["--workdir", str(tmp_path), "--sampler", "ode"]
    cli.parse_over_run(commands_args("sample"), "sample", options)
    err = capsys.readouterr().err
    assert err == "unused by sampler 'ode', and set in the config: snr, steps\n"


def commands_args(name):
    """The options of a command as a class."""
    return __import__(f"experiments.{name}", fromlist=["Args"]).Args


def test_a_default_is_told_once_and_colours_take_no_place(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    box = "\n".join(
        (
            "╭─ options ────────────────────────────╮",
            "│ \x1b[36mOut (default: here).\x1b[0m \x1b[36m(default:\x1b[0m\x1b[36m None)\x1b[0m │",
            "│ Which, of many things (default: all) │",
            "│ (default: None)                      │",
            "╰──────────────────────────────────────╯",
        )
    )
    told = cli._one_default(box)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", told)
    assert "None" not in plain and {len(line) for line in plain.splitlines()} == {40}
    assert [cli._filled(line) for line in told.splitlines()] == told.splitlines()
    assert cli._one_default("│ Seed (default: None) │") == "│ Seed (default: None) │"


@pytest.mark.slow
def test_no_default_is_told_twice(screens):
    for name, screen in screens.items():
        assert not re.search(r"\)\.?\s*\(default: (None)?\)", " ".join(texts_of(screen))), name


def texts_of(screen):
    """The lines of a screen without their frames."""
    return [line.strip("│ ") for line in screen.splitlines()]
