"""Build the documentation as a site: `python -m docs.site [--serve]` writes build/site.

The pages stay plain Markdown that also reads well in the repository. This program copies them to
build/pages in the order of the site, points their links to where the pages lie there (a link to a name in
a public module, `../score_jax/model.py#model`, leads to its reference, and one to another file to the
repository), sets their formulas in MathML (`docs.mathml`), renders the notebooks with their stored
outputs, writes the reference from the docstrings (`docs.build`), and calls mkdocs, where every warning is
an error.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

from docs import build, mathml, reference
from docs.build import ROOT

REPOSITORY = "https://github.com/score-jax/score_jax/blob/main/"
BUILD = ROOT / "build"
# Files of the repository and their places in the site; the other pages of docs/ keep their names.
PLACES = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# The sections of the site with their pages; {name: pages} is a group in one, {name: page} a page under
# another name. A pattern stands for the pages that no other entry names. New pages of docs/ are guides.
Entry = str | dict[str, Any]
SECTIONS: dict[str, list[Entry]] = {
    "Start": ["index.md", {"Overview": "overview.md"}],
    "Tutorials": ["tutorials/index.md", "tutorials/*.md", {"Notebooks": ["notebooks/*.md"]}],
    "How-to": ["how-to/index.md", "how-to/*.md"],
    "Guides": [
        "your-data.md",
        "training.md",
        "accelerators.md",
        "multihost.md",
        "samplers.md",
        "guidance.md",
        "posterior.md",
        "likelihood.md",
        "evaluating.md",
        "weights.md",
        "extending.md",
        "*.md",
    ],
    "Gallery": ["gallery.md"],
    "Reference": [
        "commands.md",
        {"Options of the commands": ["reference/commands/*.md"]},
        "reference/kinds.md",
        "reference/presets.md",
        {"API": ["reference/index.md", "reference/api/*.md"]},
    ],
    "Explanation": [
        "mathematics.md",
        "improved_ddpm.md",
        {"Decisions": ["adr/*.md"]},
    ],
    "Benchmarks": ["benchmarks.md"],
    "Help": [
        "troubleshooting.md",
        "moving.md",
        "glossary.md",
        "compatibility.md",
        "contributing.md",
        "changelog.md",
    ],
}


def places(root: pathlib.Path = ROOT) -> dict[str, str]:
    """Where each file of the repository lies in the site: pages, notebooks and pictures."""
    found = dict(PLACES)
    for path in sorted((root / "docs").rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix in (".md", ".png", ".svg", ".css"):
            found.setdefault(name, name.removeprefix("docs/"))
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        found[path.relative_to(root).as_posix()] = f"notebooks/{path.stem}.md"
    return found


def modules() -> dict[str, str]:
    """Where the reference of each public module lies in the site, by its file in the repository."""
    found = {}
    for path in sorted((ROOT / build.PACKAGE).rglob("*.py")):
        file = path.relative_to(ROOT)
        parts = file.parent.parts if path.stem == "__init__" else file.with_suffix("").parts
        if not any(part.startswith("_") for part in parts):
            found[file.as_posix()] = f"reference/api/{'.'.join(parts)}.md"
    return found


def relinked(text: str, source: str, where: dict[str, str]) -> str:
    """The Markdown of the file `source` with links that lead to the same targets in the site."""
    here = pathlib.PurePosixPath(where[source]).parent

    def place(match: re.Match[str]) -> str:
        link, fragment = match["link"], match["fragment"] or ""
        if re.match(r"[a-z][a-z0-9+.-]*:|//", link) or not link:
            return match[0]
        folder = pathlib.PurePosixPath(source).parent.as_posix()
        target = os.path.normpath(os.path.join(folder, link))
        # A link to a module is one to its source, and one to a name in it is one to its reference.
        if target in where and (fragment or not target.endswith(".py")):
            new = os.path.relpath(where[target], here)
        else:
            new = REPOSITORY + target
        return f"{match['before']}{new}{fragment}{match['after']}"

    link = (
        r"(?P<before>\]\(<?)(?P<link>[^)\s#>]*)(?P<fragment>#[^)\s>]*)?(?P<after>>?(?:\s[^)]*)?\))"
    )
    # Fenced blocks and inline code stay as they are.
    parts = re.split(r"(^```.*?^```\s*?$|`[^`\n]+`)", text, flags=re.M | re.S)
    return "".join(p if i % 2 else re.sub(link, place, p) for i, p in enumerate(parts))


def notebook(path: pathlib.Path, target: pathlib.Path) -> None:
    """Write a stored notebook as Markdown, with its pictures beside it."""
    from nbconvert import MarkdownExporter

    resources = {"output_files_dir": f"{path.stem}_files"}
    text, found = MarkdownExporter().from_filename(str(path), resources=resources)
    # A badge would be a request to another host.
    text = re.sub(r"\[!\[([^\]]*)\]\(https?:[^)]*\)\]", r"[\1]", text)
    target.parent.mkdir(parents=True, exist_ok=True)
    for name, data in found["outputs"].items():
        file = target.parent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    target.write_text(text, encoding="utf-8")


def navigation(pages: pathlib.Path) -> list[Entry]:
    """The sections of the site: the pages that are in the folder, in the order of `SECTIONS`."""
    listed = set(re.findall(r"[\w/.-]+\.md", json.dumps(SECTIONS)))

    def found(entries: list[Any]) -> list[Entry]:
        rows: list[Entry] = []
        for entry in entries:
            if isinstance(entry, dict):
                for name, inner in entry.items():
                    inside = found([inner] if isinstance(inner, str) else inner)
                    named = inside[0] if isinstance(inner, str) and inside else inside
                    rows += [{name: named}] if inside else []
            elif "*" in entry:
                paths = sorted(pages.glob(entry), key=lambda path: path.stem)
                names = [path.relative_to(pages).as_posix() for path in paths]
                rows += [name for name in names if name not in listed]
            elif (pages / entry).exists():
                rows.append(entry)
        return rows

    return found([{name: entries} for name, entries in SECTIONS.items()])


def assemble(folder: pathlib.Path = BUILD) -> list[str]:
    """Write the pages and the settings of the site to `folder`; returns the faults found."""
    pages = folder / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    where = places()
    targets = where | modules()
    for source, place in where.items():
        path, target = ROOT / source, pages / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            notebook(path, target)
        elif path.suffix == ".md":
            text = relinked(path.read_text(encoding="utf-8"), source, targets)
            target.write_text(mathml.with_mathml(text), encoding="utf-8")
        else:
            shutil.copyfile(path, target)
    mathml.write_font(pages / "mathematics.woff")
    faults = build.build(pages / "reference")
    reference.build(pages / "reference")
    settings = {"INHERIT": str(ROOT / "docs" / "mkdocs.yml"), "nav": navigation(pages)}
    # JSON is YAML.
    (folder / "mkdocs.yml").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return faults


def render(folder: pathlib.Path = BUILD) -> int:
    """Build the site from the pages in `folder`; returns the exit code of mkdocs."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # an advertisement of the theme's successor
    return subprocess.run([*command, "-f", str(folder / "mkdocs.yml")], env=env).returncode


def main(argv: list[str] | None = None) -> int:
    """Assemble the pages and build the site; returns the exit code, 1 with a line for each fault."""
    parser = argparse.ArgumentParser(prog="docs.site", description="Build the documentation.")
    parser.add_argument("--serve", action="store_true", help="serve the site on this machine")
    options = parser.parse_args(argv)
    faults = assemble()
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    code = render()
    site = BUILD / "site"
    if code == 0:
        print(f"wrote {len(list(site.rglob('*.html')))} pages: {site.relative_to(ROOT)}/index.html")
    if options.serve and code == 0:
        print("http://localhost:8000 (Ctrl-C ends it)")
        folder = ["--bind", "127.0.0.1", "--directory", str(site)]
        return subprocess.run([sys.executable, "-m", "http.server", "8000", *folder]).returncode
    return 1 if faults else code


if __name__ == "__main__":
    sys.exit(main())
