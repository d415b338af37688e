"""The docs: their code runs, their links lead somewhere, and every public name has a docstring."""

import json
import pathlib
import re
import subprocess
import types

import pytest

from docs import build, checks, mathml, reference, site, which_sampler
from experiments.parts.samplers import SAMPLERS
from score_jax._renamed import RENAMED
from tests.helpers import ROOT
from tests.helpers.tiny_runs import small_release


def blocks(text):
    """(line, code) of the Python blocks of a Markdown text."""
    found = re.finditer(r"^```python *\n(.*?)^``` *$", text, re.M | re.S)
    return [(text.count("\n", 0, m.start(1)) + 1, m.group(1)) for m in found]


def run_blocks(path, folder, monkeypatch):
    """Execute the blocks of a file in one namespace, in an empty folder; errors show their line."""
    monkeypatch.chdir(folder)
    space = {"__name__": "__main__"}
    for line, code in blocks(path.read_text()):
        # Empty lines before it, so that a traceback names the line of the Markdown file.
        exec(compile("\n" * (line - 1) + code, str(path), "exec"), space)
    return space


PREPARED = {"weights.md"}  # reads files, which its own test lays out


def with_code():
    """The pages with Python; that of tutorials is run between their commands (test_transcripts)."""
    return [
        p.relative_to(ROOT).as_posix()
        for p in build.guides()
        if p.name not in PREPARED and p.parent.name != "tutorials" and blocks(p.read_text())
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", with_code())
def test_the_code_of_the_docs_runs(name, tmp_path, monkeypatch):
    if name == "README.md":  # the weights themselves are tested in tests/test_pretrained.py
        small_release(tmp_path / "pretrained", monkeypatch)
    run_blocks(ROOT / name, tmp_path, monkeypatch)


def test_every_recipe_is_there():
    text = (ROOT / "docs" / "extending.md").read_text()
    for recipe in ("An SDE", "A predictor", "A network", "A data set", "A hook", "Guidance"):
        section = re.search(rf"^## {recipe}.*?(?=^## |\Z)", text, re.M | re.S)
        assert section, recipe
        assert blocks(section.group(0)), recipe


def test_blocks_know_their_line():
    text = "a\n\n```python\nx = 1\n```\n\n```bash\nno\n```\n```python\ny = x\n```\n"
    assert blocks(text) == [(4, "x = 1\n"), (11, "y = x\n")]


@pytest.mark.slow
def test_the_site_builds_without_faults(tmp_path):
    """Strictly, from the pages of the repository; only links that a reader follows lead away."""
    assert site.assemble(tmp_path) == []
    assert site.render(tmp_path) == 0
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:img|script|source)[^>]*\ssrc=[\"']?(?:https?:)?//[^>\s]*", text)
        loaded += re.findall(r"<link[^>]*href=[\"']?(?:https?:)?//[^>]*", text)
        assert loaded == [], page
    assert (tmp_path / "site" / "reference" / "commands" / "train.html").exists()
    tmp_path = tmp_path / "pages" / "reference"
    page = (tmp_path / "api" / "score_jax.sde.md").read_text()
    assert "## VP\n" in page
    assert "### VP.std\n" in page
    assert "### VP.prior_sample\n" in page  # inherited from a private base
    assert "bcast" not in page  # imported, not offered
    page = (tmp_path / "api" / "score_jax.samplers.md").read_text()
    assert "Sequence[ArrayLike]" in page and "ndarray, bool" not in page
    assert "## fit\n" in (tmp_path / "api" / "score_jax.training.md").read_text()
    assert build.broken_links([tmp_path / "index.md"], tmp_path) == []


def test_links_lead_to_the_same_targets_in_the_site():
    where = {"README.md": "index.md", "docs/a.md": "a.md", "docs/adr/1.md": "adr/1.md"}
    text = "[a](docs/a.md#b) [c](https://x.org/docs/a.md) `[a](docs/a.md)` [s](setup.cfg) [t](#t)"
    want = "[a](a.md#b) [c](https://x.org/docs/a.md) `[a](docs/a.md)` "
    want += f"[s]({site.REPOSITORY}setup.cfg) [t](#t)"
    assert site.relinked(text, "README.md", where) == want
    assert site.relinked(
        "[r](../../README.md)\n```\n[r](../a.md)\n```\n", "docs/adr/1.md", where
    ) == ("[r](../index.md)\n```\n[r](../a.md)\n```\n")
    # A link to a name in a module, which the repository shows as source, leads to its reference.
    found = site.modules()
    assert found["score_jax/model.py"] == "reference/api/score_jax.model.md"
    assert found["score_jax/sde/__init__.py"] == "reference/api/score_jax.sde.md"
    assert "score_jax/_check.py" not in found
    text = "[VP](../score_jax/model.py#model) [m](../score_jax/model.py)"
    assert site.relinked(text, "docs/a.md", where | found) == (
        f"[VP](reference/api/score_jax.model.md#model) [m]({site.REPOSITORY}score_jax/model.py)"
    )


def test_formulas_become_mathml():
    block = "```math\n\\log p = \\frac{1}{2} \\tag{3a}\n```"
    text = mathml.with_mathml(f"With $x'$ and `$a$`:\n\n{block}\n\n```bash\necho $A $B\n```\n")
    assert '<mi>x</mi><mo lspace="0" rspace="0">&#x02032;</mo></mrow></math> and `$a$`' in text
    assert '<mi>log</mi><mspace width="0.167em" /><mi>p</mi>' in text
    assert "</math></div><span>(3a)</span></div>" in text and "echo $A $B" in text
    with pytest.raises(ValueError, match=r"formula \\nothing: \\nothing is not known"):
        mathml.with_mathml(r"$\nothing$")
    # GitHub takes a backslash before a sign in a line for one of Markdown.
    lines = [re.sub(mathml.CODE, "", p.read_text(), flags=re.M | re.S) for p in build.guides()]
    assert [f for text in lines for f in re.findall(r"\$[^$\n]*\\[,;{}|!][^$\n]*\$", text)] == []


def test_the_navigation_has_every_page_once(tmp_path):
    """Listed pages in their order, the others by patterns; those that are not there are left out."""
    for name in (
        "index.md",
        "overview.md",
        "new.md",
        "training.md",
        "tutorials/2.md",
        "tutorials/1.md",
        "adr/1.md",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert site.navigation(tmp_path) == [
        {"Start": ["index.md", {"Overview": "overview.md"}]},
        {"Tutorials": ["tutorials/1.md", "tutorials/2.md"]},
        {"Guides": ["training.md", "new.md"]},
        {"Explanation": [{"Decisions": ["adr/1.md"]}]},
    ]


def test_the_options_of_a_command_are_read_from_its_help():
    text = """usage: x

╭─ options ───────────────────────────────╮
│ -h, --help                              │
│       show this help message and exit   │
│ --kind {a,b,                            │
│ c}                                      │
│       Which kind, see train.steps       │
│       (default: a (b)).                 │
│ --class INT, --label INT   One. (required) │
╰─────────────────────────────────────────╯
╭─ more options ──────────────────────────╮
│ Others.                                 │
│ ─────────────────────────────────────── │
│ --on, --no-on                           │
│       On. (default: False)              │
╰─────────────────────────────────────────╯
"""
    assert reference.groups(text) == [
        ("options", "", [
            ("--kind", "{a,b, c}", "Which kind, see train.steps.", "a (b)"),
            ("--class, --label", "INT", "One.", "required"),
        ]),
        ("more options", "Others.", [("--on, --no-on", "", "On.", "False")]),
    ]  # fmt: skip
    assert reference.cell("a_b of train.steps|c") == "a\\_b of `train.steps`\\|c"
    # Every option that a command has is on its page.
    page = reference.command_page("sample")
    found = set(re.findall(r"--[a-z][\w.-]*\w", reference.help_text("sample"))) - {"--help"}
    assert {name for name in found if name not in page} == set()
    assert "| `--num` | `INT` | `64` | How many samples. |" in page
    assert "| required |" in page and "`required`" not in page


def test_presets_are_described_by_what_they_change():
    assert reference.changes("digits_vp") == "all fields have their defaults"
    assert reference.changes("digits_vp_conditional") == (
        "--class-conditional\n--loss.label-dropout 0.1"
    )
    for field, value, option in (
        ("data.pair_noise", False, "--data.no-pair-noise"),
        ("net.attention", [], "--net.attention"),
        ("net.channel_mult", [1, 2], "--net.channel-mult 1 2"),
        (
            "parametrization",
            "consistency(0.75, 0.002)",
            "--parametrization 'consistency(0.75, 0.002)'",
        ),
    ):
        assert reference.as_option(field, value) == option
    assert "--net.kind DiT\n" in reference.changes("digits_dit")


def test_the_figure_of_samplers_reads_its_page():
    """Its curves are those of the table, and its samplers and their options exist."""
    found = which_sampler.errors(which_sampler.PAGE.read_text(encoding="utf-8"))
    assert set(found) == {"dpmpp_2m", "unipc", "ddim"}
    assert all(sorted(curve) == [5, 10, 20] for curve in found.values())
    named = [*(choice[1:] for choice in which_sampler.CHOICES), which_sampler.OTHERWISE]
    for name, options, _ in named:
        assert set(re.findall(r"--([a-z]+)", options)) <= SAMPLERS[name].uses(), name


def test_docstrings_are_set_as_text_formulas_and_examples():
    doc = "Sum of a_i * b_i.\n\n    c = a * b   (1)\n\n`a_i`: <b>.\n\n>>> f(1)\n2"
    assert build.set_in_markdown(doc) == (
        "Sum of a\\_i \\* b\\_i.\n\n```text\n    c = a * b   (1)\n```\n\n`a_i`: &lt;b>.\n\n"
        "```pycon\n>>> f(1)\n2\n```"
    )
    long = ", ".join(f"a{i}: tuple[int, int] = (0, 0)" for i in range(9))
    lines = build.call("f", f"({long}) -> int").splitlines()
    assert lines[0] == "f(" and lines[-1] == ") -> int" and len(lines) == 11


def test_a_missing_docstring_is_found():
    module = types.ModuleType("fake", "A module.")
    code = "class A:\n    '''A.'''\n    def f(self): pass\ndef g(): pass\ndef _h(): pass\n"
    code += "from typing import NamedTuple\nclass T(NamedTuple):\n    x: int\n"
    # inspect.getsource needs a file; the names of elsewhere are not what is tested.
    exec(code, vars(module))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "reexported", lambda module: set())
        assert build.missing_docstrings([module]) == ["fake.g", "fake.T"]
    vars(module)["__doc__"] = None
    assert build.written_doc(vars(module)["T"]) == ""
    assert build.written_doc(vars(module)["A"]) == "A."


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("[a](b.md)", None),
        ("[a](b.md#a-heading-of-b)", None),
        ("[a](#here)", None),
        ("[a](sub/)", None),
        ("[a](https://example.org/x.md)", None),
        ("`[a](nowhere.md)`", None),
        ("```\n[a](nowhere.md)\n```\n", None),
        ("[a](nowhere.md)", "no such file"),
        ("![a](nowhere.png 'title')", "no such file"),
        ('<img src="nowhere.png">', "no such file"),
        ("[a]: nowhere.md", "no such file"),
        ("[a](b.md#nowhere)", "no such heading"),
        ("[a](../outside.md)", "outside the repository"),
    ],
)
def test_broken_links_are_found(tmp_path, link, fault):
    root = tmp_path / "repository"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "outside.md").write_text("")
    (root / "b.md").write_text("# A heading, of `b`!\n".replace("`b`", "b"))
    (root / "a.md").write_text(f"# Here\n\n{link}\n")
    found = build.broken_links([root / "a.md"], root)
    assert len(found) == (0 if fault is None else 1)
    assert fault is None or fault in found[0]


def tracked():
    """The files of the repository, relative; [] where git is not at hand (a source archive)."""
    try:
        out = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return [pathlib.Path(name) for name in out.stdout.splitlines() if (ROOT / name).is_file()]


def test_the_repository_passes_its_own_checks(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert checks.check(tracked()) == []


def test_released_weights_may_be_large(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = pathlib.Path("pretrained/a.npz")
    path.parent.mkdir()
    for size, count in ((checks.LARGEST_WEIGHTS, 0), (checks.LARGEST_WEIGHTS + 1, 1)):
        with path.open("wb") as file:
            file.truncate(size)
        assert len(checks.check([path])) == count
    path.rename("pretrained/a.png")
    assert len(checks.check([pathlib.Path("pretrained/a.png")])) == 1


def test_what_notebooks_lack_and_large_files_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = lambda count, *outputs, source=checks.INSTALLS: {
        "cell_type": "code", "outputs": list(outputs), "execution_count": count, "source": source
    }  # fmt: skip
    link = lambda name: {"cell_type": "markdown", "source": [f"({checks.COLAB}{name})"]}
    picture, error = {"data": {"image/png": "x"}}, {"output_type": "error"}
    books = {
        "clear.ipynb": [cell(None)],
        "good.ipynb": [cell(1, picture), {"cell_type": "markdown"}, cell(2)],
        "order.ipynb": [cell(2, picture), cell(1)],
        "wrong.ipynb": [cell(1, picture, error)],
        "blind.ipynb": [cell(1, {"data": {"text/plain": "1"}})],
        "alone.ipynb": [cell(1, picture, source=["import score_jax"])],
        "local.ipynb": [cell(1, picture), cell(2, source=["open('/work/x')"])],
    }
    for name, cells in books.items():
        pathlib.Path(name).write_text(json.dumps({"cells": [link(name), *cells]}))
    pathlib.Path("broken.ipynb").write_text("{")
    pathlib.Path("large.bin").write_bytes(bytes(checks.LARGEST + 1))
    found = checks.check([pathlib.Path(n) for n in sorted([*books, "broken.ipynb", "large.bin"])])
    assert [f.split(":")[0] for f in found] == [
        "alone.ipynb", "blind.ipynb", "broken.ipynb", "clear.ipynb", "clear.ipynb", "large.bin",
        "local.ipynb", "order.ipynb", "wrong.ipynb",
    ]  # fmt: skip


def test_the_changelog_has_every_old_name():
    text = (ROOT / "CHANGELOG.md").read_text()
    old = [name for names in RENAMED.values() for name in names]
    assert [name for name in old if not re.search(rf"\b{name}\b", text)] == []


def test_every_decision_is_listed():
    index = (ROOT / "docs" / "index.md").read_text()
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    numbers = [int(r.name[:4]) for r in records]
    assert len(set(numbers)) == len(numbers), "two records have one number"
    for record in records:
        assert f"(adr/{record.name})" in index, record.name
        text = record.read_text()
        for part in ("Context", "Choice", "Rejected", "Consequence"):
            assert f"**{part}.**" in text, f"{record.name} lacks {part}"
