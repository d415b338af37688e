"""Formulas of the pages as MathML, which browsers set without a script, and the font for them.

In the Markdown a formula is LaTeX, as GitHub sets it: $x$ within a line, and a block ```math of one line,
which may end with the number of an equation, \\tag{1}.
"""

import html
import importlib.util
import pathlib
import re

# What formulas need of the font: Latin and Greek letters, upright and italic, signs and operators.
CHARACTERS = (
    (0x20, 0x17F), (0x2B0, 0x3FF), (0x2000, 0x206F), (0x2100, 0x214F), (0x2190, 0x22FF),
    (0x2308, 0x230B), (0x27E8, 0x27E9), (0x1D434, 0x1D467), (0x1D6E2, 0x1D71B),
)  # fmt: skip

CODE = r"(^```(?!math).*?^```\s*?$|`[^`\n]+`)"  # fenced blocks and inline code stay as they are
_BLOCK = re.compile(r"^```math *\n(.*?)\n``` *$", re.M | re.S)
_INLINE = re.compile(r"(?<![\w\\$])\$(?=\S)([^$\n]*\S)\$(?![\w$])")
_NUMBER = re.compile(r"\\tag\{(\w+)\}\s*$")
# The names of functions, which LaTeX sets with a space on each side unless a bracket follows.
_NAME = r"<mi>(?:log|exp|cos)</mi>|<msub><mi>log</mi>.*?</msub>|<msup><mi>cos</mi>.*?</msup>"
_SPACE = '<mspace width="0.167em" />'
# The sign of a prime is already raised, so it must not be set as a superscript too.
_PRIME = re.compile(r"<msup>(<mi>[^<]*</mi>)<mi>(&#x02032;)</mi></msup>")


def mathml(latex: str, display: str = "inline") -> str:
    """A formula as an element <math>; ValueError naming a formula that cannot be converted."""
    from latex2mathml.converter import convert

    try:
        text = convert(latex, display=display)
    except Exception as error:  # of the converter, of many kinds
        raise ValueError(f"formula {latex} cannot be converted: {error!r}") from None
    unknown = re.search(r"\\[A-Za-z]+", html.unescape(text))
    if unknown:
        raise ValueError(f"formula {latex}: {unknown[0]} is not known")
    text = _PRIME.sub(r'\1<mo lspace="0" rspace="0">\2</mo>', text)
    text = re.sub(rf"({_NAME})(?=<m(?!o[ >]))", rf"\1{_SPACE}", text)
    return re.sub(rf"(</m(?:[in]|sub|sup|frac|sqrt)>)(?={_NAME})", rf"\1{_SPACE}", text)


def _block(found: re.Match[str]) -> str:
    """An equation on a line of its own, with its number."""
    number = _NUMBER.search(found[1])
    formula = mathml(_NUMBER.sub("", found[1]), "block")
    label = f"<span>({number[1]})</span>" if number else ""
    return f'\n<div class="equation"><div>{formula}</div>{label}</div>\n'


def with_mathml(text: str) -> str:
    """The Markdown with MathML for its formulas; ValueError naming one that cannot be converted."""
    text = _BLOCK.sub(_block, text)
    parts = re.split(CODE, text, flags=re.M | re.S)
    inline = lambda part: _INLINE.sub(lambda found: mathml(found[1]), part)
    return "".join(part if i % 2 else inline(part) for i, part in enumerate(parts))


def write_font(path: pathlib.Path) -> None:
    """Write the part of STIX Two Math (in the package ziamath) that formulas need, as a WOFF file."""
    from fontTools import subset

    options = subset.Options(flavor="woff", layout_features=["*"])
    found = importlib.util.find_spec("ziamath")  # its code is not needed
    if found is None or found.origin is None:
        raise ModuleNotFoundError("ziamath must be installed: pip install ziamath", name="ziamath")
    source = pathlib.Path(found.origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    codes = [code for first, last in CHARACTERS for code in range(first, last + 1)]
    with subset.load_font(str(source), options) as font:
        part = subset.Subsetter(options)
        part.populate(unicodes=codes)
        part.subset(font)
        subset.save_font(font, str(path), options)
