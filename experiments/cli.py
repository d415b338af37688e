"""Shared by the commands: flags, exit codes, one-line messages for bad input. Imports nothing heavy."""

import contextlib
import dataclasses
import inspect
import io
import json
import os
import pathlib
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from .config import DataConfig, SampleConfig
from .late import late
from .parts import describe, fitting, flags, readers, run_folder, unused, upgrade
from .parts.extras import hint, needs

with late():
    from score_jax import runtime, training
    from score_jax.viz import is_image

    from . import runs
    from .run_config import Config

INTERRUPTED = 75  # exit code: stopped by a signal, everything is saved; start again to go on
NOT_FINITE = 77  # exit code: too many steps in a row were not finite
SCRIPT = "score-jax"  # the name of the installed program
DEFAULT = "digits_vp"  # the preset that is taken unless another is named


def start(
    *workdirs: str,
    hosts: "HostsConfig | None" = None,
    options: Any = None,
    data: DataConfig | bool = False,
    pictures: str | None = None,
    extras: Mapping[str, str | None] | None = None,
) -> None:
    """Check what a command needs, join the other hosts, and prepare JAX: before its work begins.

    workdirs: the runs that it reads. options: those of the command, which all hosts must have. data:
    whether it reads their data, or a config of other data. pictures: what draws examples, where those
    of the runs are not images. extras: by the name of an extra, what needs it; None: nothing. Raises
    ValueError for a folder without a run, and for packages that are missing.
    """
    for workdir in workdirs:
        run_folder.check_run(workdir)
    for extra, what in (extras or {}).items():
        if what is not None:
            needs(extra, what)
    shapes = [run_folder.data_shape(workdir) for workdir in workdirs if pictures]
    if pictures and not all(shape and is_image(shape) for shape in shapes):
        needs("plots", pictures)
    of_runs = [run_folder.data_name(workdir) for workdir in workdirs] if data is True else []
    for name in [data.name] if isinstance(data, DataConfig) else of_runs:
        needs_data(name)
    if hosts is not None:
        hosts.connect(options)
    runtime.tune_cpu()
    runtime.enable_compilation_cache()


def needs_data(name: str | None) -> None:
    """Raise ValueError naming the extra to install if the data of this kind need one that is missing."""
    if name in readers.KINDS:
        needs("data", f"data.name {name}", readers.KINDS[name].packages)


def program(command: str = "") -> str:
    """How the program was started: `score-jax train`, or `python -m experiments.train`."""
    command = command.removeprefix("experiments.")
    if pathlib.Path(sys.argv[0]).stem == SCRIPT:
        return f"{SCRIPT} {command}".strip()
    return f"python -m {__package__}.{command}".rstrip(".")


def main(command: Callable[[], Any]) -> None:
    """Run a command; bad input ends it with one line on stderr and exit code 2.

    Set SCORE_JAX_DEBUG=1 to see the traceback as well.
    """
    try:
        command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _leave(130)
    except BrokenPipeError:  # as of `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError, ArithmeticError, ImportError) as error:
        text = f"error: {by_option(' '.join(str(error).split()))}{hint(error)}"
        if _is(error, "LostHost"):
            training.leave_at_once(training.STALLED, text)
        code = NOT_FINITE if _is(error, "NonFiniteLoss") else 2
        if _is(error, "HostsDiffer"):
            code = training.HostsDiffer.CODE
        if code == 2 and os.environ.get("SCORE_JAX_DEBUG"):
            raise
        print(text, file=sys.stderr)
        _leave(code)


# An argument with its value, as messages of the library advise one: levels=2, enlarge=True, size=(8, 8).
_ARGUMENT = re.compile(r"(?<![\w.])([a-z]\w*)=(True|False|-?\d[\w.+-]*\b|\(\d+(?:, \d+)*\))")
# Arguments whose options have another name and the opposite sense.
_RENAMED = {"ema=False": ("raw", "init-raw")}
# The last command line that was read, for messages: prints its help.
_last_help: list[Callable[[], None]] = []


def by_option(text: str) -> str:
    """A message of the library with options in place of arguments: "--data.levels 2" for "levels=2".

    An argument stays as it is unless exactly one option of the command has its name.
    """
    if not (_ARGUMENT.search(text) and _last_help):
        return text
    lines = [line.strip("│ ") for line in printed(_last_help[-1]).splitlines()]
    heads = (line.split("  ")[0] for line in lines if line.startswith("--"))
    words = {word.strip(",") for head in heads for word in head.split()}
    options = {word[2:] for word in words if word.startswith("--")}

    def option(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        names = _RENAMED.get(found[0], (f"no-{name}" if value == "False" else name,))
        known = [each for each in options if each.rpartition(".")[2] in names]
        given = "" if value in ("True", "False") else f" {value.strip('()').replace(',', '')}"
        return f"--{known[0]}{given}" if len(known) == 1 else found[0]

    return _ARGUMENT.sub(option, text)


def _leave(code: int) -> None:
    """End the program; of several hosts, in bounded time although the others may go on."""
    found = sys.modules.get("jax")
    if found is not None and found.distributed.is_initialized():
        training.leave_soon(code)
    sys.exit(code)


def _is(error: Exception, name: str) -> bool:
    """Whether an error is one of `score_jax.training`, which is not imported to find out."""
    found = sys.modules.get("score_jax.training")
    return found is not None and isinstance(error, getattr(found, name))


class _Screen(io.StringIO):
    """Keeps what tyro prints, which colours it for a terminal."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.isatty = stream.isatty  # type: ignore[method-assign]
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream: tyro draws boxes where it can."""
        return self._encoding


def _read(cls: Any, argv: Sequence[str] | None, **options: Any) -> Any:
    """Call tyro; its texts are set to the width of the screen, and its boxed values errors to a line."""
    out, err = _Screen(sys.stdout), _Screen(sys.stderr)
    if "return_unknown_args" not in options:  # the whole command line, not its first part
        _last_help[:] = [lambda: tyro.cli(cls, args=["--help"], **options)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return tyro.cli(cls, args=argv, **options)
    except SystemExit:
        if out.getvalue():
            print("\n".join(map(_filled, _one_default(out.getvalue()).splitlines())))
        value = re.search(
            r"Value error.*?Error parsing ([\w. -]*): (.*?)[─-]{9}", err.getvalue(), re.S
        )
        if value is not None:
            text = value[2].replace("│", " ")
            # Python's message for a text that is not a number does not name the option.
            plain = re.match(r"\s*(invalid literal|could not convert)", text)
            raise ValueError(f"{value[1]}: {text}" if plain else text) from None
        print(err.getvalue(), end="", file=sys.stderr)
        raise


_CODE = r"\x1b\[[0-9;]*m"  # of a colour
# "(default: None)" behind a text that ends with the default in words, up to the edge of the box.
_SECOND = re.compile(
    rf"(?<=\))\.?(?:[ │\n]|{_CODE})*\(default:(?:[ │\n]|{_CODE})*(?:None)?\)(?:[ │]|{_CODE})*"
)


def _one_default(screen: str) -> str:
    """A screen of help without the "(default: None)" of options whose texts tell the default."""

    def blank(found: re.Match[str]) -> str:
        first, codes = found[0].partition("\n")[0], "".join(re.findall(_CODE, found[0]))
        width = len(re.sub(_CODE, "", first))
        return f".{' ' * (width - 2)}{codes}│"

    return _SECOND.sub(blank, screen)


def _filled(line: str) -> str:
    """A line in as many as the screen needs: tyro wraps those in boxes only."""
    width = shutil.get_terminal_size().columns
    indent = "  " if line.startswith("usage:") else ""
    # The codes of colours take no place on the screen.
    fits = len(re.sub(_CODE, "", line)) <= width
    return line if fits else textwrap.fill(line, width, subsequent_indent=indent)


def printed(call: Callable[[], Any]) -> str:
    """What a call prints before it ends the program."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        call()
    return out.getvalue()


def parse(cls: Any, prog: str, argv: Sequence[str] | None = None, **options: Any) -> Any:
    """Read the command line into the dataclass `cls` (its docstring and comments are the help)."""
    description = inspect.cleandoc(cls.__doc__ or "")
    return _read(cls, argv, prog=program(prog), description=description, **options)


def given(argv: Sequence[str] | None) -> set[str]:
    """The dotted names of the options on a command line: {"sample.steps"} for --sample.steps 7."""
    found = set()
    for word in sys.argv[1:] if argv is None else argv:
        if word.startswith("--"):
            section, dot, name = word[2:].partition("=")[0].replace("-", "_").rpartition(".")
            found |= {f"{section}{dot}{name}", f"{section}{dot}{name.removeprefix('no_')}"}
    return found


def check_unused(
    argv: Sequence[str] | None, unused: Mapping[str, str], changed: Collection[str] = ()
) -> None:
    """Raise ValueError for an option on the command line that is not used.

    unused: {name of the option: what does not use it}; changed: those of them that a config sets,
    which one line on stderr mentions.
    """
    flag = lambda name: f"--{name.replace('_', '-')}"
    refused = [name for name in unused if name in given(argv)]
    if refused:
        texts = [f"{flag(name)} is not used by {unused[name]}" for name in refused]
        raise ValueError("; ".join(texts))
    found: dict[str, list[str]] = {}
    for name in changed:
        found.setdefault(unused[name], []).append(name)
    for why, names in found.items():
        print(f"unused by {why}, and set in the config: {', '.join(names)}", file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """The processes of a run on several hosts; not part of its config."""

    # Take address, number and index from the scheduler: SLURM, Open MPI, Cloud TPU, Kubernetes.
    auto: bool = False
    # Instead of auto: host:port of the first process.
    coordinator: str | None = None
    # The number of processes, with `coordinator`.
    count: int | None = None
    # The index of this process, from 0.
    index: int | None = None
    # A step that takes longer ends the process with exit code 76: another host is lost.
    stall_seconds: float = 600.0
    # Seconds to wait for the other processes at the start.
    join_seconds: float = 300.0
    # Seconds without a heartbeat after which JAX considers a process dead.
    heartbeat_seconds: int = 100

    def connect(self, options: Any = None) -> None:
        """Join the other processes, if there are any; before JAX computes anything.

        options: those of the command, a dataclass, which must be the same on all hosts, except for
        paths.
        """
        if self.auto or (self.coordinator, self.count, self.index) != (None, None, None):
            training.connect(
                coordinator=self.coordinator,
                count=self.count,
                index=self.index,
                heartbeat_seconds=self.heartbeat_seconds,
                join_seconds=self.join_seconds,
            )
            if options is not None:
                tree = {k: v for k, v in dataclasses.asdict(options).items() if k not in OF_A_HOST}
                facts = runs.versions() | describe.flat(tree)
                training.check_same(json.loads(json.dumps(facts, default=str)))


# Options that each host may have of its own.
OF_A_HOST = ("hosts", "workdir", "out", "samples", "reference")

Flags = TypeVar("Flags")  # the generated dataclass of a config's flags


@dataclasses.dataclass(frozen=True)
class Command(Generic[Flags]):
    """Flags of a command that starts from a preset."""

    # Preset, or a JSON or YAML file of a config; every other flag overrides a field of it.
    config: str
    # Folder of the run: config, metrics, pictures, checkpoints.
    workdir: str
    # Examples for each device (with mesh.space, for each group that shares images), by which
    # train.batch_size grows with the number of devices; the learning rate stays as it is.
    per_device: int | None
    # Print what would be built and stop.
    dry_run: bool
    # Continue a run although fields of its config have changed.
    allow_changes: bool
    # Log to TensorBoard (the folder tensorboard of the run) or Weights & Biases too.
    log: tuple[Literal["tensorboard", "wandb"], ...]
    # Start a new run from these weights: a run folder, a published file (with --init-preset, unless it
    # names its network), or a folder of diffusers. A run that has trained resumes and ignores them.
    init: str | None
    # The preset of the network of a published file that --init names.
    init_preset: str | None
    # The weights of the last step of --init rather than their average, where there are both.
    init_raw: bool
    # Draw the leaves that do not fit those of --init (other classes or channels), instead of refusing.
    init_anew: bool
    # Write a trace of the steps first:last, for TensorBoard or XProf, to the run's folder profile.
    profile: str | None
    # The processes of a run on several hosts.
    hosts: HostsConfig
    cfg: Annotated[Flags, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]


def parse_config(
    prog: str, description: str, argv: Sequence[str] | None = None
) -> tuple[Command[Any], "Config"]:
    """Read `--config NAME --workdir DIR --optim.lr 1e-4 ...`.

    Raises ValueError naming the nearest preset for an unknown one; unknown fields end the program
    with exit code 2 and the nearest known ones.
    """
    options: dict[str, Any] = {"return_unknown_args": True, "add_help": False}
    first, rest = _read(flags.first_flags(DEFAULT), argv, prog=program(prog), **options)
    kinds = {name: getattr(first, name).kind for name in flags.objects()}
    tree = flags.tree(first.config)
    if kinds["net"] is None and "data.name" in given(argv) and not {"help", "h"} & given(argv):
        own = DataConfig(**flags.tuples(tree["data"]))
        data = _data_of(own, rest)
        # Before the data are opened, which may take long.
        check_unused(argv, {f"data.{k}": why for k, why in unused.of_data(data).items()})
        needs_data(data.name)
        kinds["net"] = fitting.kind_for(data, own, tree["net"]["kind"])
    default = flags.config_flags(tree, kinds)
    cls: Any = Command[type(default)]  # type: ignore[misc]
    name = pathlib.Path(first.config).stem
    absent: dict[str, Any] = dict.fromkeys(
        ("dry_run", "allow_changes", "init_raw", "init_anew"), False
    )
    absent |= {"log": (), **dict.fromkeys(("per_device", "init", "init_preset", "profile"))}
    args = _read(
        cls,
        rest,
        default=Command(first.config, f"runs/{name}", **absent, hosts=HostsConfig(), cfg=default),
        prog=program(prog),
        description=f"{description} The command presets lists the presets.",
    )
    found = unused.of_config(args.cfg)
    check_unused(argv, found, unused.changed(args.cfg, found))
    return args, flags.config_of(args.cfg)


def _data_of(own: DataConfig, words: Sequence[str]) -> DataConfig:
    """The data that a command line names, over those of a config."""
    cls = dataclasses.make_dataclass("Data", [("data", DataConfig)])
    found: Any
    found, _ = tyro.cli(cls, default=cls(own), args=words, return_unknown_args=True, add_help=False)
    data: DataConfig = found.data
    return data


def parse_over_run(cls: Any, prog: str, argv: Sequence[str] | None = None) -> Any:
    """Read the command line into `cls`, whose `sample` starts as that of the run of --workdir.

    The options of the sampler may also be written as in training, --sample.sampler for --sampler.
    Those that the sampler does not use are refused.
    """
    words = sys.argv[1:] if argv is None else argv
    words = [w.replace("--sample.", "--", 1) if w.startswith("--sample.") else w for w in words]
    first = dataclasses.make_dataclass("First", [("workdir", str, "")])
    named: Any
    named, _ = _read(first, words, return_unknown_args=True, add_help=False)
    default: dict[str, Any] = {}
    sample = _sample_of(pathlib.Path(named.workdir))
    if sample is not None:
        none = dataclasses.MISSING
        needed = [f.name for f in dataclasses.fields(cls) if f.default is none is f.default_factory]
        default["default"] = cls(**dict.fromkeys(needed, tyro.MISSING) | {"sample": sample})
    args = parse(cls, prog, words, **default)
    found = unused.of_sample(args.sample)
    check_unused(words, found, unused.changed(args.sample, found))
    return args


def _sample_of(workdir: pathlib.Path) -> SampleConfig | None:
    """The sampling of a run, without its other parts; None for a folder without a run."""
    path = workdir / run_folder.CONFIG_FILE
    if not path.is_file():
        return None  # an error of its own later
    try:
        tree = json.loads(upgrade.upgraded(path.read_text(encoding="utf-8")))
        return SampleConfig(**tree.get("sample", {}))
    except (ValueError, TypeError, AttributeError):
        return runs.load_config(workdir).sample  # names what is wrong
