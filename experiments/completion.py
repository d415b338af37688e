"""Complete commands and options by the tab key: `eval "$(score-jax completion bash)"`."""

import dataclasses
import importlib
import re
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
    """The script that completes all commands in a shell: files where no other value is known."""
    known = {name: options_of(name, command.module) for name, command in commands().items()}
    subcommands = {name.replace("_", "-"): cls for name, cls in known.items()}
    words = ["--tyro-print-completion", shell]
    found: str = cli.printed(
        lambda: tyro.extras.subcommand_cli_from_dict(subcommands, prog=cli.SCRIPT, args=words)
    )
    # tyro completes no value of a list and no positional one; the mark stands for files in its scripts.
    found = found.replace(
        "    for completion in completions:\n",
        "    for completion in completions or ['__TYRO_COMPLETE_FILES__']:\n",
    )
    # A folder ends in a slash, without a space; the word is that at the cursor alone.
    found = found.replace(
        'COMPREPLY=($(compgen -f -- "$cur"))',
        'compopt -o filenames; COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))',
    )
    presets = rf"\1'choice', 'choices': {list(flags.presets())}"
    return re.sub(r"(\['--config'\], 'description': [^{}]*?'type': )'path'", presets, found)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.completion`."""
    args = cli.parse(Args, "experiments.completion", argv)
    print(script(args.shell))


if __name__ == "__main__":
    cli.main(main)
