"""What the commands share: reading flags, one clear line for bad input, the run folder."""

import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from experiments import presets, runs
from experiments.config import Config, SampleConfig, with_kinds
from score_jax import runtime, training

INTERRUPTED = 75  # exit code: stopped by a signal, everything is saved; start again to go on
NOT_FINITE = 77  # exit code: too many steps in a row were not finite
SPLIT = (
    "--config",
    "--net.kind",
    "--sde.kind",
    "--loss.kind",
)  # flags that choose what the others mean


def start() -> None:
    """Prepare JAX for a command: compiler options for this CPU, and the cache of programs."""
    runtime.tune_cpu()
    runtime.enable_compilation_cache()


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
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("SCORE_JAX_DEBUG"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def parse(cls: Any, prog: str, argv: Sequence[str] | None = None) -> Any:
    """Read the command line into the dataclass `cls` (its docstring and comments are the help)."""
    return tyro.cli(cls, args=argv, prog=f"python -m {prog}", description=cls.__doc__)


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """The processes of a run on several hosts; not part of its config."""

    # Find out address, number and place from the scheduler: SLURM, Open MPI, Cloud TPU, Kubernetes.
    auto: bool = False
    # Or host:port of the first process, the number of processes, and which one this is.
    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    # A step that takes longer ends the process with exit code 76: another host is gone.
    stall_seconds: float = 600.0
    # Seconds without a sign of life after which JAX takes a process for dead.
    heartbeat_seconds: int = 100

    @property
    def several(self) -> bool:
        """Whether the run has more than one process."""
        return self.auto or self.coordinator is not None

    def connect(self) -> None:
        """Join the other processes, if there are any; before JAX computes anything."""
        if self.auto or (self.coordinator, self.count, self.index) != (None, None, None):
            training.connect(
                coordinator=self.coordinator,
                count=self.count,
                index=self.index,
                heartbeat_seconds=self.heartbeat_seconds,
            )


@dataclasses.dataclass(frozen=True)
class _Overrides:
    """Flags of a command that starts from a preset."""

    # Preset; every other flag overrides a field of it.
    config: str
    # Folder of the run: config, metrics, pictures, checkpoints.
    workdir: str
    # Print what would be built and stop.
    dry_run: bool
    # Go on with a run although fields of its config have changed.
    allow_changes: bool
    hosts: HostsConfig
    cfg: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]


def parse_config(prog: str, description: str, argv: Sequence[str] | None = None) -> _Overrides:
    """Read `--config NAME --workdir DIR --optim.lr 1e-4 ...`: (preset name, workdir, config).

    Raises ValueError listing the presets for an unknown one; unknown fields end the program with
    exit code 2 and the nearest known ones.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    args = [
        part
        for a in given
        for part in (a.split("=", 1) if a.split("=")[0] in SPLIT else [a])
    ]  # fmt: skip
    value = lambda flag, other: args[args.index(flag) + 1] if flag in args[:-1] else other
    name = value("--config", presets.DEFAULT)
    config = presets.get(name)
    config = with_kinds(
        config, {part: value(f"--{part}.kind", None) for part in ("sde", "net", "loss")}
    )
    default = _Overrides(name, f"runs/{name}", False, False, HostsConfig(), config)
    known = "presets: " + ", ".join(presets.CONFIGS)
    return tyro.cli(
        _Overrides,
        default=default,
        args=args,
        prog=f"python -m {prog}",
        description=f"{description} ({known})",
    )


def parse_over_run(cls: Any, prog: str, argv: Sequence[str] | None = None) -> Any:
    """Read the command line into `cls`, whose `sample` starts as that of the run of --workdir.

    The options of the sampler may also be written as in training, --sample.sampler for --sampler.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    parts = [p for a in given for p in (a.split("=", 1) if a.startswith("--") else [a])]
    parts = [re.sub(r"^--sample[.]", "--", p) for p in parts]
    folder = pathlib.Path(parts[parts.index("--workdir") + 1] if "--workdir" in parts[:-1] else "")
    # That a folder holds no run is said later.
    if (folder / runs.CONFIG_FILE).is_file():
        cls = _starting_at(cls, runs.load_config(folder).sample)
    return tyro.cli(cls, args=parts, prog=f"python -m {prog}", description=cls.__doc__)


def _starting_at(cls: Any, sample: SampleConfig) -> Any:
    """The same dataclass with another default of its field `sample`."""
    field = next(f for f in dataclasses.fields(cls) if f.name == "sample")
    new = (field.name, field.type, dataclasses.field(default=sample))
    made = dataclasses.make_dataclass(cls.__name__, [new], bases=(cls,), frozen=True)
    made.__doc__ = cls.__doc__
    return made
