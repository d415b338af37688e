"""Complete commands and options by the tab key: `eval "$(score-jax completion bash)"`."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro

from . import cli
from .__main__ import commands
from .parts import flags


@dataclasses.dataclass(frozen=True)
class Args:
    """Print the completion of score-jax for a shell: its commands, their options and their values.

    For bash, add eval "$(score-jax completion bash)" to ~/.bashrc. For zsh, write the output of
    score-jax completion zsh to a file _score-jax in a folder of $fpath.
    """

    # The shell.
    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]


def options_of(command: str, module: str) -> Any:
    """The options of a command as a class, and those of `train` for the default preset."""
    found = importlib.import_module(f".{module}", __package__)
    if hasattr(found, "Args"):
        return found.Args
    made = flags.config_flags(flags.preset(cli.DEFAULT), dict.fromkeys(flags.objects()))
    return cli.Command[type(made)]  # type: ignore[misc]


def script(shell: str) -> str:
    """The script that completes all commands in a shell."""
    known = {name: options_of(name, command.module) for name, command in commands().items()}
    subcommands = {name.replace("_", "-"): cls for name, cls in known.items()}
    words = ["--tyro-print-completion", shell]
    found: str = cli.printed(
        lambda: tyro.extras.subcommand_cli_from_dict(subcommands, prog=cli.SCRIPT, args=words)
    )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.completion`."""
    args = cli.parse(Args, "experiments.completion", argv)
    print(script(args.shell))


if __name__ == "__main__":
    cli.main(main)
