"""Build the API reference from the docstrings, and check all Markdown links: `python -m docs.build`.

Standard library only. Writes one page a public module to build/docs/api/ and an index beside them.
Fails, naming every place, when a public object has no docstring or a relative link has no target.
"""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "score_jax"
WIDTH = 88  # of a signature in one line
# Generated folders.
SKIPPED = {"build", "dist", "runs", "node_modules", "__pycache__"}


class Entry(NamedTuple):
    """A public object: its dotted name and its entry in the reference."""

    name: str
    kind: str
    signature: str
    doc: str


def public_modules(package: str = PACKAGE) -> list[ModuleType]:
    """Import the package and every module in it whose path has no part with a leading underscore."""
    root = importlib.import_module(package)
    found = pkgutil.walk_packages(root.__path__, package + ".")
    names = [m.name for m in found if not any(p.startswith("_") for p in m.name.split("."))]
    return [root, *(importlib.import_module(name) for name in sorted(names))]


def reexported(module: ModuleType) -> set[str]:
    """Return the names that a module offers from elsewhere: `__all__`, and `import X as X`."""
    names = set(getattr(module, "__all__", ()))
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
            if [alias.name for alias in node.names] == ["*"]:
                names |= reexported(importlib.import_module(str(node.module)))
    return names


def public_objects(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield (name, object) of the functions and classes that a module offers, in order."""
    from_elsewhere = reexported(module)
    # Names from elsewhere may be imported at their first use only.
    offered = {name: getattr(module, name) for name in sorted(from_elsewhere)}
    for name, value in (offered | vars(module)).items():
        if name.startswith("_") or not (inspect.isfunction(value) or inspect.isclass(value)):
            continue
        if value.__module__ == module.__name__ or name in from_elsewhere:
            yield name, value


def written_doc(value: Any) -> str:
    """Return the written docstring: "" for one that dataclass or NamedTuple generates."""
    doc = inspect.cleandoc(getattr(value, "__doc__", None) or "")
    name = getattr(value, "__name__", "")
    return "" if inspect.isclass(value) and re.match(rf"{name}\(.*\)$", doc, re.S) else doc


def signature(value: Any) -> str:
    """Return the call's arguments, without the modules of the types."""
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""
    text = re.sub(r"<(?:function|class) ['\"]?(?:\w+\.)*(\w+)[^>]*>", r"\1", text)
    text = re.sub(r"\b(?:\w+\.)+(?=[A-Za-z_]\w*)", "", text)
    # The alias ArrayLike is written out in a signature, alone or as a part of a longer union.
    text = re.sub(
        r"Array(, | \| )ndarray\1bool_?\1number\1bool\1int\1float\1complex", "ArrayLike", text
    )
    return text.replace("Union[ArrayLike]", "ArrayLike")


def call(name: str, text: str) -> str:
    """A call with its signature; a long one has an argument on each line."""
    whole = f"{name}{text}"
    if len(whole) <= WIDTH:
        return whole
    inside, _, after = text[1:].rpartition(")")
    parts, depth = [""], 0
    for sign in inside:
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    lines = "".join(f"    {part.strip()},\n" for part in parts)
    return f"{name}(\n{lines}){after}"


def methods(owner: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class, those of private bases included."""
    seen = set()
    for base in owner.__mro__:
        if not base.__module__.startswith(PACKAGE):
            continue
        for name, value in vars(base).items():
            if name in seen or (name.startswith("_") and name != "__call__"):
                continue
            function = value.fget if isinstance(value, property) else value
            function = getattr(function, "__func__", function)
            if not inspect.isfunction(function):
                continue
            if inspect.unwrap(function).__code__.co_filename.startswith(str(ROOT / PACKAGE)):
                seen.add(name)
                yield name, value


def entries(module: ModuleType) -> list[Entry]:
    """Collect the public objects of a module with their methods."""
    found = []
    for name, value in public_objects(module):
        kind = "class" if inspect.isclass(value) else "function"
        found.append(Entry(name, kind, signature(value), written_doc(value)))
        if inspect.isclass(value):
            for method, member in methods(value):
                is_property = isinstance(member, property)
                text = "" if is_property else signature(member)
                kind = "property" if is_property else "method"
                found.append(Entry(f"{name}.{method}", kind, text, written_doc(member)))
    return found


def missing_docstrings(modules: list[ModuleType]) -> list[str]:
    """Name every public module, function, class and method without a docstring."""
    missing = []
    for module in modules:
        if not (module.__doc__ or "").strip():
            missing.append(module.__name__)
        for entry in entries(module):
            if not entry.doc:
                missing.append(f"{module.__name__}.{entry.name}")
    return missing


def set_in_markdown(doc: str) -> str:
    """Set a docstring: sentences as text, examples as Python, and formulas as they were written.

    A formula is an indented block, in which spaces matter.
    """
    parts = []
    for block in re.split(r"\n\s*\n", doc):
        if block.lstrip().startswith(">>>"):
            parts.append(f"```pycon\n{inspect.cleandoc(block)}\n```")
        elif any(line.startswith("    ") for line in block.splitlines()):
            parts.append(f"```text\n{block}\n```")
        else:
            # Outside inline code, signs that mean something in Markdown are set as themselves.
            pieces = re.split(r"(`[^`\n]*`)", block)
            parts.append("".join(p if i % 2 else escaped(p) for i, p in enumerate(pieces)))
    return "\n\n".join(parts)


def escaped(text: str) -> str:
    """Text whose signs have no meaning in Markdown; lists stay lists."""
    text = re.sub(r"([\\*_\[\]|#~^$])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
    return re.sub(r"^\\\* ", "* ", text, flags=re.M)


def page(module: ModuleType) -> str:
    """Set the reference of one module as Markdown."""
    parts = [
        f"# {module.__name__}\n",
        set_in_markdown(inspect.cleandoc(module.__doc__ or "")) + "\n",
    ]
    for entry in entries(module):
        level = "###" if "." in entry.name else "##"
        heading = f"{level} {entry.name}\n\n*{entry.kind}*"
        shown = f"\n\n```python\n{call(entry.name.split('.')[-1], entry.signature)}\n```"
        text = set_in_markdown(entry.doc)
        parts.append(f"{heading}{shown if entry.signature else ''}\n\n{text}\n")
    return "\n".join(parts)


def markdown_files(root: pathlib.Path = ROOT) -> list[pathlib.Path]:
    """List the .md files of the repository, without hidden and generated folders."""
    return sorted(
        path
        for path in root.rglob("*.md")
        if not any(
            part.startswith(".") or part in SKIPPED or part.endswith(".egg-info")
            for part in path.relative_to(root).parts
        )
    )


def guides(root: pathlib.Path = ROOT) -> list[pathlib.Path]:
    """List the pages for users: README, CONTRIBUTING, and those of docs/, its tutorials and how-to."""
    pages = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]
    return [
        *pages,
        *sorted(root.glob("docs/tutorials/*.md")),
        *sorted(root.glob("docs/how-to/*.md")),
    ]


def anchors(text: str) -> set[str]:
    """Return the fragments that GitHub gives to the headings of a Markdown text."""
    found: dict[str, int] = {}
    result = set()
    for heading in re.findall(r"^#{1,6} +(.+?)\s*#*$", without_code(text), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result


def without_code(text: str) -> str:
    """Drop fenced blocks and inline code, in which brackets are not links."""
    text = re.sub(r"^(```|~~~).*?^\1\s*$", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def broken_links(files: list[pathlib.Path], root: pathlib.Path = ROOT) -> list[str]:
    """Name every relative link or picture that leads to no file, folder or heading."""
    broken = []
    for file in files:
        text = without_code(file.read_text(encoding="utf-8"))
        links = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)", text)
        links += re.findall(r"<(?:img|a)\s[^>]*?(?:src|href)=[\"']([^\"']+)", text)
        links += re.findall(r"^\[[^\]]+\]:\s+<?(\S+?)>?\s*$", text, re.M)
        for link in links:
            if re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.I):
                continue
            path, _, fragment = link.partition("#")
            target = (file.parent / path).resolve() if path else file
            where = f"{file.relative_to(root)}: {link}"
            if not target.exists():
                broken.append(f"{where} (no such file)")
            elif not target.is_relative_to(root):
                broken.append(f"{where} (outside the repository)")
            elif (
                fragment
                and target.suffix == ".md"
                and fragment not in anchors(target.read_text(encoding="utf-8"))
            ):
                broken.append(f"{where} (no such heading)")
    return broken


def build(target: pathlib.Path) -> list[str]:
    """Write the reference to `target` and return every fault found: [] when all is well."""
    modules = public_modules()
    faults = [f"missing docstring: {name}" for name in missing_docstrings(modules)]
    faults += [f"broken link: {link}" for link in broken_links(markdown_files())]
    api = target / "api"
    api.mkdir(parents=True, exist_ok=True)
    # Remove pages of modules that no longer exist.
    for old in api.glob("*.md"):
        old.unlink()
    rows = []
    for module in modules:
        (api / f"{module.__name__}.md").write_text(page(module), encoding="utf-8")
        first = inspect.cleandoc(module.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        rows.append(f"| [{module.__name__}](api/{module.__name__}.md) | {first} |")
    index = "# score_jax: API reference\n\n| module | what |\n|---|---|\n" + "\n".join(rows) + "\n"
    (target / "index.md").write_text(index, encoding="utf-8")
    return faults


def main() -> int:
    """Build, print the place, and return the exit code: 1 with one line for each fault."""
    target = ROOT / "build" / "docs"
    faults = build(target)
    for fault in faults:
        print(fault, file=sys.stderr)
    pages = len(list((target / "api").glob("*.md")))
    print(f"wrote {pages} pages to {target.relative_to(ROOT)}/index.md and api/")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
