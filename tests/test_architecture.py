"""The charter, as far as a parser can hold it: layers, strings, sizes, imports, docstrings."""

import ast
import importlib
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT

LIBRARY = sorted((ROOT / "score_jax").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))

# What each part may import of the others. A part is a file of score_jax or a folder of it.
BASE = {
    "types", "_math", "_check", "_files", "_hosts", "_names", "_renamed", "_pickles",
    "_pickled_arrays", "draws", "runtime", "_batched", "_failures", "_hoisted", "_precision",
}  # fmt: skip
MODELS = {
    "analytic",
    "sde",
    "score",
    "nets",
    "data",
    "parametrization",
}  # siblings that do not know each other
ALGORITHMS = {"losses", "samplers", "likelihood", "guidance", "inverse"}
TOOLS = {"training", "checkpoints", "convert", "metrics", "viz"}
ALLOWED = (
    dict.fromkeys(BASE, frozenset({"_renamed", "_check"}))
    | {"_pickled_arrays": frozenset({"_pickles"}), "_pickles": frozenset({"_files"})}
    | {"_batched": frozenset({"_check", "_failures", "_hosts"})}
    | dict.fromkeys(MODELS, BASE)
    | {
        "draws": {"types", "_check"},
        "parametrization": BASE | {"sde"},
        "score": BASE | {"sde", "parametrization"},
        "model": BASE | {"sde", "parametrization", "score", "losses", "samplers"},
    }
    | dict.fromkeys(ALGORITHMS, BASE | MODELS - {"nets"})
    # They receive losses, optimisers and SDEs as arguments.
    | dict.fromkeys(TOOLS, BASE | {"draws"})
)
EXTRA = {
    ("likelihood", "samplers"): "the probability flow is solved in one place",
    ("inverse", "samplers"): "methods wrap steps, and posterior samples are samples",
    ("inverse", "metrics"): "the benchmark of methods measures distances to exact draws",
    ("metrics", "convert"): "published weights are read by the one reader that runs nothing",
    ("convert", "checkpoints"): "load_pretrained reads run folders",
    ("convert", "data"): "a release says what its data look like",
    ("convert", "nets"): "published weights are those of published networks",
    ("convert", "model"): "a published file becomes a model",
    ("convert", "parametrization"): "a published file becomes a model",
    ("convert", "sde"): "a published file becomes a model",
}

# Comparisons with a string outside experiments/ that are right, by file.
STRINGS = {
    "checkpoints/leaves.py": {"cpu"},  # JAX names its platforms so
    "convert/torch_file.py": {"little"},  # Python names the order of bytes so
    "nets/convolution.py": {"b", "i", "w"},  # arrays and indices of one formula
    "_check.py": {"apply"},  # the method of a Flax module, which is no score
    "metrics/inception.py": {"Mixed_6d"},  # the layer of sFID
    "_pickled_arrays.py": {"C"},  # NumPy names the order of arrays so
    "nets/blocks.py": {"none", "up"},  # which way a block resamples, checked by the network
    "nets/edm2.py": {"none", "up"},  # the same
    "convert/score_sde.py": {"plain_fourier"},  # a field of NCSNpp, which a fork has
    "nets/ncsnpp.py": {  # the fields that name the published variations, checked by `_check`
        "ddpm", "fourier", "input_skip", "none", "output_skip", "positional", "sum",
    },
    "nets/ncsnv2.py": {"3"},  # the authors' name of a block
    "nets/periodic.py": {"circular"},  # the field of the networks, checked there
}  # fmt: skip

LONGEST_FILE = 450
LONG_FILES: dict[str, str] = {}
LONGEST_FUNCTION = 60  # lines, the docstring not counted; a network's __call__ may be longer
LONG_FUNCTIONS: dict[str, str] = {}  # {"file.py:function": "why it is one piece"}


def name_of(path):
    """The path as the tables above have it."""
    return path.relative_to(ROOT / "score_jax").as_posix()


def part_of(path):
    """`sde` for score_jax/sde.py, `nets` for score_jax/nets/mlp.py, "" for the front door."""
    first = path.relative_to(ROOT / "score_jax").parts[0].removesuffix(".py")
    return "" if first in ("__init__", "_front") else first


def imported(source, package="score_jax"):
    """(absolute dotted name, line) of everything imported anywhere in a module of `package`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = package.split(".")
            home = home[: len(home) - node.level + 1] if node.level else []
            base = ".".join([*home, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def parts_used(source, package="score_jax"):
    """(part, line) of the parts of score_jax that a module imports."""
    for name, line in imported(source, package):
        home, *rest = name.split(".")
        if home == "score_jax" and rest and rest[0] != "__version__":
            yield rest[0], line


def layer_faults(source, part, package="score_jax"):
    """Imports of one part that the layers forbid."""
    return [
        f"line {line}: {part} imports {used}"
        for used, line in parts_used(source, package)
        if used != part and used not in ALLOWED[part] and (part, used) not in EXTRA
    ]


def package_of(path):
    """The package that relative imports of this file start from."""
    return ".".join(path.relative_to(ROOT).parent.parts)


def string_faults(source, allowed=()):
    """Comparisons with, and cases of, string constants: (string, line)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            tested = []
            for op, left, right in zip(
                node.ops, [node.left, *node.comparators], node.comparators, strict=False
            ):
                if isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
                    tested += [left, right]
                elif isinstance(op, ast.In | ast.NotIn) and isinstance(
                    right, ast.Tuple | ast.List | ast.Set
                ):
                    tested += right.elts
        elif isinstance(node, ast.MatchValue):
            tested = [node.value]
        else:
            continue
        strings = [v.value for v in tested if isinstance(v, ast.Constant)]
        found += [(s, node.lineno) for s in strings if isinstance(s, str) and s not in allowed]
    return found


def import_faults(source):
    """Imports that no file of ours may make: (name, line)."""
    tree = ast.parse(source)
    found = []
    for name, line in imported(source):
        top = name.split(".")[0]
        if top in {"pickle", "dill", "cloudpickle", "joblib"} or name.startswith("jax._src"):
            found.append((name, line))
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, line in imported(ast.unparse(node)):
                if name.split(".")[0] in {"tensorflow", "torch"}:
                    found.append((name, node.lineno + line - 1))
    return found


def function_length(node):
    """Lines of a function without its docstring."""
    doc = node.body[0]
    has_doc = isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
    return node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if has_doc else 0)


def undocumented(source):
    """Public functions, classes and methods without a docstring, and the module itself."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) or not tree.body else ["module"]

    def visit(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (
                not node.name.startswith("_") or node.name == "__call__"
            ):
                if not ast.get_docstring(node):
                    found.append(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")

    visit(tree.body, "")
    return found


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_imports_point_down(path):
    part = part_of(path)
    if not part:
        return  # the front door may name everything
    assert part in ALLOWED, f"{part} has no place in the layers: give it one in ALLOWED"
    assert layer_faults(path.read_text(), part, package_of(path)) == []


def test_the_library_does_not_know_the_experiments():
    for path in LIBRARY:
        names = [name for name, _ in imported(path.read_text(), package_of(path))]
        assert not {n.split(".")[0] for n in names} & {
            "experiments",
            "tests",
            "docs",
            "benchmarks",
        }, path
        # The name under which the experiments are installed.
        assert not [n for n in names if n.startswith("score_jax.commands")], path


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_no_string_chooses_behaviour(path):
    assert string_faults(path.read_text(), STRINGS.get(name_of(path), ())) == []


def long_functions(path):
    """Functions of more than the lines allowed; a network's __call__ is read best in one piece."""
    return {
        f"{name_of(path)}:{node.name}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and function_length(node) > LONGEST_FUNCTION
        and not (part_of(path) == "nets" and node.name == "__call__")
    }


def test_no_file_and_no_function_is_too_long():
    size = lambda path: len(path.read_text().splitlines())
    assert [p.name for p in EXPERIMENTS if size(p) > LONGEST_FILE] == []
    assert {name_of(p) for p in LIBRARY if size(p) > LONGEST_FILE} <= set(LONG_FILES)
    assert set().union(*map(long_functions, LIBRARY)) <= set(LONG_FUNCTIONS)


def test_the_exceptions_are_still_needed():
    parts = {name_of(path) for path in LIBRARY}
    assert {*STRINGS, *LONG_FILES} <= parts
    for name, allowed in STRINGS.items():
        used = {s for s, _ in string_faults((ROOT / "score_jax" / name).read_text())}
        assert allowed <= used, f"{name} no longer compares with {allowed - used}"


@pytest.mark.parametrize(
    "path", LIBRARY + EXPERIMENTS, ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_imports_are_safe_and_public_names_documented(path):
    source = path.read_text()
    assert import_faults(source) == []
    assert undocumented(source) == []


# Attributes that would be hidden channels, and the one file that may have them.
CHANNELS = {"ContextVar": "", "default_backend": "runtime.py"}


def channels(source):
    """Uses of names that carry state or the platform past the arguments: (name, line)."""
    for node in ast.walk(ast.parse(source)):
        name = getattr(node, "attr", getattr(node, "id", None))
        if name in CHANNELS:
            yield name, node.lineno


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_what_is_needed_is_an_argument(path):
    found = [f for f in channels(path.read_text()) if CHANNELS[f[0]] != name_of(path)]
    assert found == []


def test_public_functions_give_their_types():
    for path in {*LIBRARY, *EXPERIMENTS}:
        assert "ignore[no-untyped-def]" not in path.read_text(), path


# Words that no name may contain, and the words of the field that stand for them.
OTHER_WORDS = {
    "told": "conditioned on, given, noise_input",
    "table": "schedule",
    "tables": "schedules",
    "tablewise": "IndexInput",
    "judge": "metric",
    "judged": "metric",
    "finish": "final_denoising",
    "wish": "stop",
    "bad_steps": "nonfinite_limit",
}
# Tables that are no noise schedules: of names, weights, rows of an embedding, on paper; and what
# ends a log or a download finishes it.
PLAIN = {
    "experiments/compare.py": {"table"},
    "experiments/reports/tables.py": {"table", "tables"},
    "score_jax/_pickles.py": {"table"},
    "score_jax/convert/torch_file.py": {"table"},
    "score_jax/_pickled_arrays.py": {"table"},
    "score_jax/metrics/reference.py": {"table"},
    "score_jax/metrics/weights.py": {"finish"},
    "score_jax/nets/refinenet.py": {"table"},
    "score_jax/samplers/adaptive.py": {"table"},
    "score_jax/samplers/exponential.py": {"table"},
    "score_jax/training/hooks.py": {"finish"},
    "score_jax/training/usage.py": {"finish"},
}


def words_of(name):
    """The words of a name in snake_case or CamelCase, and the name itself."""
    camel = r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+"
    return {name.lower(), *(w.lower() for w in re.findall(camel, name))}


def names_given(source):
    """(name, line) of functions, classes, arguments, variables and fields."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


def word_faults(source, plain=frozenset()):
    """Names with a word that is not the field's: (name, line)."""
    words = OTHER_WORDS.keys() - plain
    return [(name, line) for name, line in names_given(source) if words_of(name) & words]


@pytest.mark.parametrize(
    "path", LIBRARY + EXPERIMENTS, ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_names_are_words_of_the_field(path):
    plain = PLAIN.get(path.relative_to(ROOT).as_posix(), frozenset())
    assert word_faults(path.read_text(), plain) == []


def test_a_word_that_is_not_the_fields_is_seen():
    source = "class TableVP:\n    bad_steps = 1\ndef f(told): finish = 1\nstable = finished = 1"
    assert [n for n, _ in word_faults(source)] == ["TableVP", "bad_steps", "told", "finish"]
    assert word_faults("table = 1", {"table"}) == []


def test_no_postponed_annotations():
    """`from __future__ import annotations` would blind the run-time checks of shapes."""
    for path in LIBRARY:
        names = {name for name, _ in imported(path.read_text(), package_of(path))}
        assert "__future__.annotations" not in names, path


def test_all_names_exist():
    for path in LIBRARY:
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(dotted)
        listed = getattr(module, "__all__", [])
        assert len(set(listed)) == len(listed), dotted
        assert [name for name in listed if not hasattr(module, name)] == [], dotted


def test_import_is_light():
    """The front door loads no plotting and no data sets; no part of the library loads TensorFlow."""
    code = """
import sys, pkgutil, importlib
import score_jax
heavy = {"tensorflow", "matplotlib", "tensorflow_datasets", "torch"} & set(sys.modules)
assert not heavy, f"import score_jax loads {heavy}"
for module in pkgutil.walk_packages(score_jax.__path__, "score_jax."):
    importlib.import_module(module.name)
heavy = {"tensorflow", "matplotlib.pyplot", "torch"} & set(sys.modules)
assert not heavy, f"a module of score_jax loads {heavy}"
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr


# The rules themselves, on code that breaks them.


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("nets", "from score_jax.sde import VP"),
        ("nets", "def f():\n    import score_jax.sde"),
        ("sde", "from . import nets"),
        ("sde", "from .score import score_fn"),
        ("losses", "from score_jax.nets import MLP"),
        ("training", "from score_jax import losses"),
        ("types", "from ._math import bcast"),
    ],
)
def test_a_wrong_layer_is_seen(part, source):
    assert len(layer_faults(source, part)) == 1


def test_a_relative_import_of_a_folder_is_seen():
    assert layer_faults("from ..sde import VP", "nets", "score_jax.nets") == [
        "line 1: nets imports sde"
    ]
    assert layer_faults("from .layers import Conv", "nets", "score_jax.nets") == []


@pytest.mark.parametrize(
    "source",
    [
        'if kind == "vp": pass',
        'x = 1 if "vp" != kind else 2',
        'if kind in ("vp", other): pass',
        'match kind:\n    case "vp": pass',
        'match kind:\n    case "vp" | Other(): pass',
    ],
)
def test_a_string_that_chooses_is_seen(source):
    assert [s for s, _ in string_faults(source)] == ["vp"]
    assert string_faults(source, {"vp"}) == []


def test_a_key_of_a_dict_is_no_choice():
    assert string_faults('y = batch["y"] if "y" in batch else None') == []


@pytest.mark.parametrize(
    "source",
    [
        "import tensorflow as tf",
        "from torch import nn",
        "def f():\n    import pickle",
        "from jax._src import core",
    ],
)
def test_a_forbidden_import_is_seen(source):
    assert len(import_faults(source)) == 1


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import contextvars\nflag = contextvars.ContextVar('flag')", "ContextVar"),
        ("from contextvars import ContextVar\nflag = ContextVar('flag')", "ContextVar"),
        ("def f():\n    return jax.default_backend() == 'cpu'", "default_backend"),
    ],
)
def test_a_hidden_channel_is_seen(source, name):
    assert list(channels(source)) == [(name, 2)]


def test_a_late_import_of_tensorflow_is_right():
    assert import_faults("def f():\n    import tensorflow") == []
