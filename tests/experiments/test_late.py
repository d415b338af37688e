"""Late imports: they are what they stand for, and only what can be imported late is."""

import ast
import math
import sys

import pytest

from experiments.late import Late, late, real
from tests.helpers import ROOT

with late():
    import wave
    import xml.dom.minidom as minidom
    from fractions import Fraction, gcd_of_nothing
    from json import decoder


def test_a_late_import_is_what_it_stands_for():
    assert isinstance(wave, Late) and "wave" in repr(wave)
    assert wave.WAVE_FORMAT_PCM == 1 and wave is not sys.modules["wave"]
    assert real(wave) is sys.modules["wave"] and real(3) == 3
    assert minidom.parseString("<a/>").documentElement.tagName == "a"
    assert Fraction(1, 2) == 0.5 and isinstance(Fraction(1, 2), Fraction)
    assert real(decoder) is sys.modules["json.decoder"]
    with pytest.raises(ModuleNotFoundError, match="gcd_of_nothing"):
        gcd_of_nothing()


def test_imports_are_as_usual_after_the_block():
    with pytest.raises(ZeroDivisionError), late():
        import statistics

        1 / 0  # noqa: B018
    from math import floor

    assert floor is math.floor and isinstance(statistics, Late)


def faults(source):
    """Names of a file that are imported late and cannot be: constants, bases, caught classes."""
    tree = ast.parse(source)
    blocks = [n for n in tree.body if isinstance(n, ast.With)]
    imports = [i for n in blocks for i in ast.walk(n) if isinstance(i, ast.ImportFrom)]
    names = {alias.asname or alias.name for i in imports for alias in i.names}
    used = {name for name in names if name.isupper() and len(name) > 2}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            used |= {b.id for b in node.bases if isinstance(b, ast.Name)} & names
        elif isinstance(node, ast.ExceptHandler) and node.type is not None:
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            used |= {c.id for c in caught if isinstance(c, ast.Name)} & names
    return used


def test_constants_bases_and_errors_are_not_imported_late():
    for path in sorted((ROOT / "experiments").rglob("*.py")):
        assert faults(path.read_text()) == set(), path
    source = "with late():\n    from a import B, CONST, Err\nclass C(B): pass\n"
    source += "try: pass\nexcept (Err, OSError): pass\n"
    assert faults(source) == {"B", "CONST", "Err"}
