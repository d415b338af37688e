"""Shared by the commands: flags, exit codes, one-line messages for bad input."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

import tyro

from score_jax import runtime, training

from . import presets, runs
from .config import Config
from .parts import flags

INTERRUPTED = 75  # exit code: stopped by a signal, everything is saved; start again to go on
SCRIPT = "score-jax"  # the name of the installed program
NOT_FINITE = 77  # exit code: too many steps in a row were not finite


def start() -> None:
    """Prepare JAX for a command: compiler options for this CPU, and the cache of programs."""
    runtime.tune_cpu()
    runtime.enable_compilation_cache()


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
        sys.exit(130)
    except training.NonFiniteLoss as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(NOT_FINITE)
    except training.LostHost as error:
        training.leave_at_once(training.STALLED, f"error: {error}")
    except (ValueError, OSError, ArithmeticError) as error:
        if os.environ.get("SCORE_JAX_DEBUG"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def parse(cls: Any, prog: str, argv: Sequence[str] | None = None) -> Any:
    """Read the command line into the dataclass `cls` (its docstring and comments are the help)."""
    return tyro.cli(cls, args=argv, prog=program(prog), description=cls.__doc__)


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """The processes of a run on several hosts; not part of its config."""

    # Take address, number and index from the scheduler: SLURM, Open MPI, Cloud TPU, Kubernetes.
    auto: bool = False
    # Or host:port of the first process.
    coordinator: str | None = None
    # The number of processes, with `coordinator`.
    count: int | None = None
    # The index of this process, from 0.
    index: int | None = None
    # A step that takes longer ends the process with exit code 76: another host is lost.
    stall_seconds: float = 600.0
    # Seconds without a heartbeat after which JAX considers a process dead.
    heartbeat_seconds: int = 100

    def connect(self) -> None:
        """Join the other processes, if there are any; before JAX computes anything."""
        if self.auto or (self.coordinator, self.count, self.index) != (None, None, None):
            training.connect(
                coordinator=self.coordinator,
                count=self.count,
                index=self.index,
                heartbeat_seconds=self.heartbeat_seconds,
            )


Flags = TypeVar("Flags")  # the generated dataclass of a config's flags


@dataclasses.dataclass(frozen=True)
class Command(Generic[Flags]):
    """Flags of a command that starts from a preset."""

    # Preset; every other flag overrides a field of it.
    config: str
    # Folder of the run: config, metrics, pictures, checkpoints.
    workdir: str
    # Print what would be built and stop.
    dry_run: bool
    # Continue a run although fields of its config have changed.
    allow_changes: bool
    # The processes of a run on several hosts.
    hosts: HostsConfig
    cfg: Annotated[Flags, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]


def parse_config(
    prog: str, description: str, argv: Sequence[str] | None = None
) -> tuple[Command[Any], Config]:
    """Read `--config NAME --workdir DIR --optim.lr 1e-4 ...`.

    Raises ValueError listing the presets for an unknown one; unknown fields end the program with
    exit code 2 and the nearest known ones.
    """
    first, rest = tyro.cli(
        flags.first_flags(presets.DEFAULT), args=argv, return_unknown_args=True, add_help=False
    )
    kinds = {name: getattr(first, name).kind for name in flags.OBJECTS}
    default = flags.config_flags(presets.get(first.config), kinds)
    cls: Any = Command[type(default)]  # type: ignore[misc]
    args = tyro.cli(
        cls,
        default=Command(first.config, f"runs/{first.config}", False, False, HostsConfig(), default),
        args=rest,
        prog=program(prog),
        description=f"{description} (presets: {', '.join(presets.CONFIGS)})",
    )
    return args, flags.config_of(args.cfg)


def parse_over_run(cls: Any, prog: str, argv: Sequence[str] | None = None) -> Any:
    """Read the command line into `cls`, whose `sample` starts as that of the run of --workdir.

    The options of the sampler may also be written as in training, --sample.sampler for --sampler.
    """
    given = sys.argv[1:] if argv is None else argv
    args = [a.replace("--sample.", "--", 1) if a.startswith("--sample.") else a for a in given]
    first = dataclasses.make_dataclass("First", [("workdir", str, "")])
    named: Any
    named, _ = tyro.cli(first, args=args, return_unknown_args=True, add_help=False)
    default: dict[str, Any] = {}
    # A folder without a run raises its error later.
    if (pathlib.Path(named.workdir) / runs.CONFIG_FILE).is_file():
        none = dataclasses.MISSING
        needed = [f.name for f in dataclasses.fields(cls) if f.default is none is f.default_factory]
        sample = runs.load_config(pathlib.Path(named.workdir)).sample
        default["default"] = cls(**dict.fromkeys(needed, tyro.MISSING) | {"sample": sample})
    return tyro.cli(cls, args=args, prog=program(prog), description=cls.__doc__, **default)
