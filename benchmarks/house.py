"""Count how far the first gradient is from the command, the lines, and the types.

Run `python -m benchmarks.house [train] [sample] [lines] [types]` (all four by default).

train    From `experiments.train.main` to the first gradient: a real start of the digits preset with
         an MLP in a fresh folder. The count ends when the first call of `jax.value_and_grad(loss)`
         returns, which is while the training step is traced.
sample   `log_snr_grid` and the call of `sample` with `dpmpp_2m`, on a score made of an MLP.
         Making the network and the score is not counted.
lines    Lines of all *.py files below score_jax/ and experiments/, as `wc -l` counts them.
types    Annotations of parameters and results of public functions and methods in score_jax: those
         that contain `Any`, those that give a shape (jaxtyping or an alias of it), and the others.

`sys.setprofile` reports each call of a Python function of the main thread. A call counts if its code
lies in score_jax/ or experiments/ and no module is being imported, because the commands import late.
Then

functions  distinct pairs (file, name of the code object); lambdas of a file count as one, and so do
           its generator expressions.
files      distinct files among them.
changes    how often a call lies in another file than the call before it.

Commit 8e14a58 has 178 / 35 / 153 for train, 69 / 13 / 105 for sample and 20,741 lines.
"""

import argparse
import ast
import inspect
import itertools
import os
import pathlib
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
COUNTED = ("score_jax", "experiments")
START = ("--config", "digits_vp", "--net.kind", "MLP")
SHAPES = {
    "Array", "Bool", "Complex", "Data", "Float", "Inexact", "Int", "Integer", "Key", "Num",
    "PerExample", "PRNGKey", "Real", "Scalar", "Shaped", "Time", "UInt8",
}  # fmt: skip


class Way(NamedTuple):
    """The calls of a run, as (file, name) in their order."""

    calls: list[tuple[str, str]]

    def __str__(self) -> str:
        files = [file for file, _ in self.calls]
        changes = sum(a != b for a, b in itertools.pairwise(files))
        return f"{len(set(self.calls))} functions / {len(set(files))} files / {changes} changes of file"

    def by_file(self) -> Counter[str]:
        """Number of functions of each file."""
        return Counter(file for file, _ in set(self.calls))


class _Reached(BaseException):
    """The first gradient has been computed."""


def follow(run: Callable[[], Any]) -> Way:
    """Run a function and record its calls; `_Reached` ends it."""
    calls: list[tuple[str, str]] = []
    folders = tuple(f"{ROOT / name}{os.sep}" for name in COUNTED)
    imports = 0

    def see(frame: FrameType, event: str, _: Any) -> None:
        nonlocal imports
        code = frame.f_code
        if code.co_name == "<module>" and event in ("call", "return"):
            imports += 1 if event == "call" else -1
        if event == "call" and not imports and code.co_filename.startswith(folders):
            calls.append((str(pathlib.Path(code.co_filename).relative_to(ROOT)), code.co_name))

    sys.setprofile(see)
    try:
        run()
    except _Reached:
        pass
    finally:
        sys.setprofile(None)
    return Way(calls)


def way_to_gradient(argv: tuple[str, ...] = START) -> Way:
    """The calls from `experiments.train.main(argv)` to the first gradient."""
    import jax

    from experiments import train

    transform = jax.value_and_grad

    def ending(*args: Any, **kwargs: Any) -> Any:
        gradient = transform(*args, **kwargs)

        def run(*args: Any, **kwargs: Any) -> Any:
            gradient(*args, **kwargs)
            sys.setprofile(None)
            raise _Reached

        return run

    jax.value_and_grad = ending
    try:
        with tempfile.TemporaryDirectory() as folder:
            return follow(lambda: train.main([*argv, "--workdir", f"{folder}/run"]))
    finally:
        jax.value_and_grad = transform


def way_of_sample() -> Way:
    """The calls of `sample(..., dpmpp_2m, log_snr_grid(sde, 20))`."""
    import jax
    import jax.numpy as jnp

    import score_jax as sj
    from score_jax.nets import MLP

    sde, net = sj.VP(), MLP(8, 1)
    params = net.init(jax.random.key(1), jnp.zeros((4, 2)), jnp.ones(4))
    if hasattr(sj, "Model"):
        score = sj.Model(sde, net.apply, sj.TimeInput()).score(params)
    else:  # before the redraw
        given = next(
            n for n in ("noise_input", "label") if n in inspect.signature(sj.score_fn).parameters
        )
        score = sj.score_fn(sde, net.apply, params, **{given: lambda *given: given[-1] * 999.0})

    def run() -> None:
        grid = sj.log_snr_grid(sde, 20)
        out = sj.sample(jax.random.key(0), sde, score, (16, 2), sampler=sj.dpmpp_2m, grid=grid)
        jax.block_until_ready(out.x)

    return follow(run)


def lines() -> dict[str, int]:
    """Number of lines of each counted folder."""
    count = lambda path: path.read_bytes().count(b"\n")
    return {name: sum(map(count, (ROOT / name).rglob("*.py"))) for name in COUNTED}


def annotations(source: str) -> Counter[str]:
    """Kinds of the annotations of public functions and methods of a module."""
    kinds: Counter[str] = Counter()

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            public = not getattr(node, "name", "_").startswith("_") or (
                getattr(node, "name", "") in ("__call__", "__init__")
            )
            if isinstance(node, ast.ClassDef) and public:
                visit(node.body)
            elif isinstance(node, ast.FunctionDef) and public:
                a = node.args
                every = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg]
                given = [arg.annotation for arg in every if arg is not None] + [node.returns]
                kinds.update(_kind(annotation) for annotation in given if annotation is not None)

    visit(ast.parse(source).body)
    return kinds


def _kind(annotation: ast.expr) -> str:
    names = {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(annotation) if isinstance(n, ast.Attribute)}
    return "Any" if "Any" in names else "shaped" if names & SHAPES else "other"


def types() -> Counter[str]:
    """Kinds of the annotations of all public modules of score_jax."""
    public = (
        path
        for path in (ROOT / "score_jax").rglob("*.py")
        if not path.name.startswith("_") or path.name == "__init__.py"
    )
    return sum((annotations(path.read_text()) for path in public), Counter())


def main() -> None:
    """Print the counts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="*", choices=[[], "train", "sample", "lines", "types"])
    parser.add_argument("--files", action="store_true", help="list the functions by file")
    args = parser.parse_args()
    wanted = args.what or ["train", "sample", "lines", "types"]
    for name, way in (("train", way_to_gradient), ("sample", way_of_sample)):
        if name in wanted:
            found = way()
            print(f"{name}: {found}")
            for file, n in found.by_file().most_common() if args.files else ():
                print(f"  {n:3d} {file}")
    if "lines" in wanted:
        count = lines()
        each = ", ".join(f"{name} {n:,}" for name, n in count.items())
        print(f"lines: {sum(count.values()):,} ({each})")
    if "types" in wanted:
        kinds = types()
        total = sum(kinds.values())
        each = ", ".join(
            f"{kinds[k]} ({kinds[k] / total:.0%}) {k}" for k in ("Any", "shaped", "other")
        )
        print(f"types: {total:,} annotations of public functions: {each}")


if __name__ == "__main__":
    main()
