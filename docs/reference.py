"""The reference of the commands for the site: their options from the help texts, and the presets.

A page is what `--help` says, set as tables, so that it cannot differ from what the program accepts.
"""

import importlib
import os
import pathlib
import re
import shlex
from typing import Any, NamedTuple
from unittest import mock

from docs.build import escaped
from experiments import cli
from experiments.__main__ import commands
from experiments.parts import flags
from experiments.presets.__main__ import DATA
from experiments.presets.figures import PARAMETERS

WIDTH = 100  # of the help text: one column of boxes, and the text of an option on lines of its own
REQUIRED = "required"  # what the column of defaults shows for an option without a default


class Option(NamedTuple):
    """An option of a command: its names, its values, its text and its default."""

    names: str
    values: str
    text: str
    default: str


class Group(NamedTuple):
    """The options in one box of a help text."""

    title: str
    purpose: str
    options: list[Option]


def help_text(module: str) -> str:
    """What a command prints for `--help`."""
    found = importlib.import_module(f"experiments.{module}")
    with mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH), "NO_COLOR": "1"}):
        return cli.printed(lambda: found.main(["--help"]))


def option(head: str, text: str) -> Option:
    """An option from its line (`--steps INT`) and its text with the default at the end."""
    names, values = [], ""
    for part in re.split(r", (?=--?[a-z])", head):
        name, _, value = part.partition(" ")
        names.append(name)
        values = values or value
    default = re.search(r" ?\(default: ?((?:[^()]|\([^()]*\))*)\)\.?$", text)
    required = text.endswith(" (required)")
    text = text[: default.start()] if default else text.removesuffix(" (required)")
    text = text if text.endswith((".", ")")) else f"{text}."
    said = REQUIRED if required else default[1] if default else ""
    return Option(", ".join(names), values, text, said)


def groups(text: str) -> list[Group]:
    """The boxes of a help text with their options; the option --help is left out."""
    found = []
    for title, box in re.findall(r"^╭─ (.*?) ─+╮\n(.*?)^╰", text, re.M | re.S):
        purpose, rows = "", []
        for line in (line.strip("│").rstrip()[1:] for line in box.splitlines()):
            if re.match(r"-|\[", line):
                # The text of an option of few words stands behind it.
                head, _, said = line.partition("  ")
                rows.append([head, said.strip()])
            elif line.startswith("─"):
                purpose, rows = " ".join(said for _, said in rows), []
            elif rows and rows[-1][0] and not line.startswith(" "):
                rows[-1][0] += f" {line}"  # values that take more than a line
            elif rows:
                rows[-1][1] = f"{rows[-1][1]} {line.strip()}".strip()
            else:
                rows.append(["", line])
        options = [option(*row) for row in rows if row[0] and row[0] != "-h, --help"]
        if options:
            found.append(Group(title, purpose, options))
    return found


def code(text: str) -> str:
    """Text as inline code in a table."""
    return f"`{text.replace('|', ' or ')}`" if text else ""


def default_cell(text: str) -> str:
    """A default as inline code; "required" is a word of the page (docs/site.css)."""
    return text if text == REQUIRED else code(text)


def cell(text: str) -> str:
    """Text as a cell of a table; options, dotted names and names of files are set as code."""
    names = r"(--[a-z][\w.-]*\w|`[^`]*`|(?<![\w.])[a-z]\w*(?:[./]\w+)*\.[a-z]\w+)"
    parts = re.split(names, text)
    return "".join(code(p.strip("`")) if i % 2 else escaped(p) for i, p in enumerate(parts))


def stacking(rows: list[str]) -> str:
    """A table of options, whose rows become short lists on a phone (docs/site.css)."""
    return "\n".join(['<div class="options" markdown>', "", *rows, "", "</div>"])


def command_page(name: str) -> str:
    """The page of a command: its purpose, its usage, and a table for each group of options."""
    command = commands()[name]
    text = help_text(command.module)
    usage, _, rest = text.partition("\n\n")
    purpose = rest.partition("╭")[0].strip()
    parts = [f"# {name}", "\n\n".join(map(cell, purpose.split("\n\n")))]
    line = " ".join(usage.removeprefix("usage: ").split())
    parts.append(f"```text\n{line}\n```")
    for group in groups(text):
        parts.append(f"## {group.title[:1].upper()}{group.title[1:]}")
        if group.purpose:
            parts.append(cell(group.purpose))
        rows = ["| option | values | default | meaning |", "|---|---|---|---|"]
        for names, values, said, default in group.options:
            cells = [code(names), code(values), default_cell(default), cell(said)]
            rows.append("| " + " | ".join(cells) + " |")
        parts.append(stacking(rows))
    return "\n\n".join(parts) + "\n"


def commands_page() -> str:
    """The list of all commands."""
    rows = ["| command | what it does |", "|---|---|"]
    rows += [f"| [{name}]({name}.md) | {cell(c.purpose)} |" for name, c in commands().items()]
    text = (
        "`python -m experiments.NAME` in a checkout is `score-jax NAME` of the installed package."
    )
    return "\n\n".join(["# Options of the commands", text, "\n".join(rows)]) + "\n"


def kinds_page() -> str:
    """Networks, processes and noise inputs, with the options that each of them has."""
    titles = {"net": "Networks", "sde": "Processes", "noise_input": "Noise inputs"}
    parts = [
        "# Options of networks and processes",
        "`--net.kind`, `--sde.kind` and `--noise-input.kind` choose an object, which has these options.",
    ]
    for name, known in flags.objects().items():
        parts.append(f"## {titles[name]}")
        for kind, entry in known.items():
            parts += [f"### {kind}", cell(entry["purpose"])]
            rows = ["| option | default | meaning |", "|---|---|---|"]
            for field, said in entry["fields"].items():
                flag = f"--{name}.{field}".replace("_", "-")
                default = shown(said["default"]) if "default" in said else REQUIRED
                rows.append(f"| {code(flag)} | {default_cell(default)} | {cell(said['help'])} |")
            parts.append(stacking(rows) if entry["fields"] else "It has no options.")
    return "\n\n".join(parts) + "\n"


def shown(value: Any) -> str:
    """A default as it is written on a command line."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(shown, value))
    return str(value)


def presets_page() -> str:
    """All presets in a table, and what each of them sets beside the defaults."""
    parts = [
        "# Presets",
        "`train --config NAME` starts from one of these, and every option overrides a field. The fields"
        " below are those that differ from the defaults, which are `digits_vp`."
        " [Published weights](../weights.md#presets) has the authors' figures.",
    ]
    rows = [
        "| preset | data | network | process | steps | parameters |",
        "|---|---|---|---|---|---|",
    ]
    for name in flags.presets():
        tree, size = flags.preset(name), PARAMETERS.get(name)
        data = tree["data"]["builder"] or DATA.get(tree["data"]["name"], tree["data"]["name"])
        cells = [
            f"[{name}](#{name})", data, tree["net"]["kind"], tree["sde"]["kind"],
            f"{tree['train']['steps']:,}", "" if size is None else f"{size:,}",
        ]  # fmt: skip
        rows.append("| " + " | ".join(cells) + " |")
    parts.append("\n".join(rows))
    for name in flags.presets():
        parts += [f"## {name}", f"```text\n{changes(name)}\n```"]
    return "\n\n".join(parts) + "\n"


def changes(name: str) -> str:
    """The options of a preset that differ from those of the default preset, one a line."""
    default, tree = flags.preset(cli.DEFAULT), flags.preset(name)
    found = {}
    for key, value in tree.items():
        if not isinstance(value, dict):
            found |= {key: value} if value != default[key] else {}
            continue
        # All fields of another kind of object are said.
        other = "kind" in value and value["kind"] != default[key]["kind"]
        before = {} if other else default[key]
        found |= {f"{key}.{k}": v for k, v in value.items() if k not in before or before[k] != v}
    lines = [as_option(key, value) for key, value in found.items()]
    return "\n".join(lines) or "all fields have their defaults"


def as_option(field: str, value: Any) -> str:
    """The option that sets a field: `--net.patch 2`, and `--net.no-fir` for False."""
    section, dot, name = field.replace("_", "-").rpartition(".")
    if isinstance(value, bool):
        return f"--{section}{dot}{name if value else f'no-{name}'}"
    text = shlex.quote(value) if isinstance(value, str) else shown(value)
    return f"--{section}{dot}{name} {text}".rstrip()  # nothing behind it is an empty list


def build(target: pathlib.Path) -> None:
    """Write the pages of the commands, the kinds of objects and the presets to `target`."""
    folder = target / "commands"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.md").write_text(commands_page(), encoding="utf-8")
    for name in commands():
        (folder / f"{name}.md").write_text(command_page(name), encoding="utf-8")
    (target / "kinds.md").write_text(kinds_page(), encoding="utf-8")
    (target / "presets.md").write_text(presets_page(), encoding="utf-8")
