"""Run every command that the README and the guides show, page by page, in a folder with what they name.

    python -m docs.transcripts [--full [--steps N]] [--only WORD] [PAGES]

By default with few steps and examples and in one process, as the tests run them. --full runs the commands
as they stand, each in a process of its own, on runs that are trained first: most of a day on two
processors, because many pages train and some draw 50,000 samples. With --steps a training ends after N
steps and 100 samples stand for 50,000; everything else is as it stands.
"""

import argparse
import contextlib
import importlib
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from PIL import Image

from docs import build
from docs.build import ROOT

PAGES = tuple(
    path.relative_to(ROOT).as_posix() for path in build.guides() if path.name != "CONTRIBUTING.md"
)
TUTORIALS = "docs/tutorials/"  # their Python is run between their commands

# What stands for words of the reader's own.
WORDS = {
    "RUN": "runs/x", "A": "runs/a", "B": "runs/b", "C": "runs/b", "DIR": "out", "NAME": "two_modes",
    "R": "4", "N": "16", "ffhq.zip": "photos.zip",
}  # fmt: skip
# Weights of others that nobody has who did not download them: other features in their place.
FEATURES = (r"--inception \S+", "--features own:colours")
# Commands that are not run here, with the reason.
LEFT_OUT = {
    r"--hosts\.": "several machines",
    r"\.pth|runs/(ncsnpp|ddpmpp|my_ddpm)": "published weights, which the reader has",
    r"--from (cifar|imagenet64|/usr/share|photos/train)|--data.path tfds": "data of others",
    r"cifar10-32x32\.zip|--init network\.pkl": "data of others",
    r"^train --config vp_cifar10\S* --workdir \S+ --net.dtype": "data of others",
    r"runs/(ct|cd|edm)\b": "a run of another process, which a test of its own trains and samples",
    r"--workdir runs/fashion_vp --task": "data of others",
    r"^compare --workdir runs/fashion_vp .*--fit-grid": "a run that another page makes",
    r"^average|--guidance-worse-step": "the snapshots of a long run",
}
LATER = {  # only with --full, without --steps
    r"^demo": "make demo",
    r"^posterior$": "its default takes minutes",
    r"--dry-run": "compiling the published network takes a minute",
}

_LOOP = (
    "--train.steps 2 --train.steps-per-call 1 --train.log-every 1 --train.checkpoint-every 2 "
    "--train.sample-every 2 --train.batch-size 8 --sample.sampler ddim --sample.steps 2 "
)
_MLP = "--net.kind MLP --net.width 8 --net.num-blocks 1"
# Options that make a command short: (pattern, what is appended). The last value of an option counts.
SHORT = (
    (r"^train (?!.*(--help|--dry-run|weather))", _LOOP + _MLP),
    (r"^train .*weather", _LOOP),
    (r"^train .*--data.size", "--data.size 8"),
    (r"^prepare .*--size", "--size 8 --workers 0"),
    (r"^prepare --from", "--workers 0"),
    (r"^sample .*--num 50000", "--num 6"),
    (r"^sample .*--seeds", "--seeds 0-1"),
    (r"^sample (?!.*(--num|--seeds))", "--num 4"),
    (r"^sample .*--num (36|64)", "--num 4"),
    (r"^compare", "--num 4 --repeats 1 --samplers ddim --nfe 4"),
    (
        r"^posterior(?!.*--check-adjoint)",
        "--num 4 --repeats 2 --problems two_modes --methods pigdm --nfe 4",
    ),
    (r"^evaluate .*--bpd", "--draws 1 --tol 0.5"),
    (r"^evaluate --workdir (?!.*--bpd)", "--num 4 --draws 0"),
    (r"^statistics", "--keep 8"),
    (r"^bounds", "--bound-steps 3 --gradient 0"),
    (r"^train_classifier", "--net mlp --width 8 --steps 10 --batch-size 8"),
    (r"^restore (?!.*--draws)", "--num 1"),
    (r"^restore .*--test", "--test 2"),
    (r"^restore .*--draws", "--draws 2"),
    (r"^restore .*--steps", "--steps 2"),
    (r"^(encode|interpolate) (?!.*ddim)", "--tol 0.5"),
    (r"^interpolate .*ddim", "--steps 2"),
    (r"^interpolate", "--frames 2"),
)
# The same of --full --steps N: only what would take hours is shorter.
CUT = (
    (r"^train (?!.*(--help|--dry-run))", "--train.steps {steps}"),
    (r"^train .*--profile", "--profile 10:20"),
    # Networks that are large for a processor.
    (
        r"^train .*(--data.size 64|records)",
        "--train.steps 2 --train.steps-per-call 1 --train.batch-size 4",
    ),
    # The pictures that stand for the reader's own have 64 pixels.
    (r"^prepare .*--size 256", "--size 64"),
    (r"^train_classifier", "--steps {steps}"),
    (r"--num 50000", "--num 100"),
    (r"^posterior (?!.*(--check-adjoint|--join))", "--repeats 2 --num 16"),
)
# Reports that a sentence names more than once: a page is read, and only its blocks are typed in.
REPORTS = ("compare", "posterior", "evaluate", "bounds")


class Shown(NamedTuple):
    """A command of a page as it is run, or why it is not."""

    page: str
    words: tuple[str, ...]
    left_out: str | None = None

    @property
    def line(self) -> str:
        """The command and its options."""
        return " ".join(self.words)


def shortened(line: str, full: bool, steps: int | None) -> list[str]:
    """The options that make a command shorter: none with `full`, few with `full` and `steps`."""
    if full and steps is None:
        return []
    found = [more for pattern, more in (CUT if full else SHORT) if re.search(pattern, line)]
    return [more.format(steps=steps) for more in found]


def shown(page: str, text: str, *, full: bool = False, steps: int | None = None) -> Iterator[Shown]:
    """The commands of a page in their order, with the words of the reader's own filled in."""
    text = text.replace("\\\n", " ").replace("--config NAME", "--config digits_vp")
    seen: set[Shown] = set()  # a reader types a command once
    blocks = [m.span() for m in re.finditer(r"^```.*?^```", text, re.M | re.S)]
    for found in re.finditer(r"python3? -m experiments\.(\w+)\b(?!\.)([^\n`|;&#>\"]*)", text):
        module, given = found.groups()
        words = [WORDS.get(word.strip("'"), word.strip("'")) for word in given.split()]
        line = re.sub(*FEATURES, " ".join([module, *words]).replace("--fid ", ""))
        reasons = LEFT_OUT if full and steps is None else LEFT_OUT | LATER
        why = next(
            (reason for pattern, reason in reasons.items() if re.search(pattern, line)), None
        )
        if "..." in line or (len(line.split()) == 1 and module not in ("demo", "posterior")):
            continue  # the name of a command
        short = shortened(line, full, steps)
        if module in REPORTS and not any(a < found.start() < b for a, b in blocks):
            short.append("--overwrite")
        command = Shown(page, changed(line.split(), " ".join(short).split()), why)
        if command not in seen:
            yield command
        seen.add(command)


class Code(NamedTuple):
    """A block of Python of a tutorial, and the line where it begins."""

    page: str
    line: int
    text: str


def in_order(page: str, text: str, **options: Any) -> Iterator[Shown | Code]:
    """The commands of a page, and the Python of a tutorial, in the order in which a reader runs them.

    The options are those of `shown`.
    """
    if not page.startswith(TUTORIALS):
        yield from shown(page, text, **options)
        return
    end = 0
    for block in re.finditer(r"^```python *\n(.*?)^``` *$", text, re.M | re.S):
        yield from shown(page, text[end : block.start()], **options)
        yield Code(page, text.count("\n", 0, block.start(1)), block[1])
        end = block.end()
    yield from shown(page, text[end:], **options)


def _options(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Each option with its words; "" has those before the first one."""
    found: dict[str, tuple[str, ...]] = {}
    name = ""
    for word in words:
        name = word if word.startswith("--") else name
        found[name] = (word,) if word.startswith("--") else (*found.get(name, ()), word)
    return found


def changed(words: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """A command line with other values of options, which are added where it does not have them."""
    options = _options(words) | _options(others)
    return tuple(word for each in options.values() for word in each)


def world(folder: pathlib.Path) -> None:
    """Make the pictures, arrays and modules that the pages name."""
    import zarr

    draws = np.random.default_rng(0)
    image = lambda *shape: Image.fromarray(draws.integers(0, 256, shape).astype(np.uint8))
    for name in ("a.png", "b.png"):
        image(8, 8).save(folder / name)
    hole = np.full((8, 8), 255, np.uint8)
    hole[2:5, 2:5] = 0
    Image.fromarray(hole).save(folder / "hole.png")
    (folder / "photos").mkdir()
    for i in np.arange(24):
        image(64, 64, 3).save(folder / "photos" / f"{i:02d}.png")
    shutil.make_archive(str(folder / "photos"), "zip", folder / "photos")
    series = draws.normal(size=(40, 12, 2)).astype(np.float32)
    np.save(folder / "series_train.npy", series)
    series[:2, 3:6] = np.nan
    np.save(folder / "series.npy", series[:2])
    np.save(folder / "waves.npy", draws.normal(size=(4000, 64, 1)).astype(np.float32))
    coloured = draws.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    np.save(folder / "coloured.npy", coloured)
    x = draws.normal(size=(40, 6)).astype(np.float32)
    np.savez(folder / "weather.npz", x=x, yesterday=np.roll(x, 1, axis=0))
    np.save(folder / "today.npy", x[:16])
    own = "def colours(x):\n    return x.astype('float32').mean((1, 2))\n\n\nblocks = colours\n"
    (folder / "own.py").write_text(own)
    (folder / "my_package").mkdir()
    method = "import numpy as np\n\nfrom score_jax.inverse import Mask, pigdm as my_method\n\n"
    method += "operator = Mask(np.indices((64, 64, 1))[0] < 32)\n"
    (folder / "my_package" / "my_module.py").write_text(method)
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "posterior-table.json", folder / "docs")
    fields = draws.normal(size=(40, 4, 4, 1)).astype(np.float32)
    zarr.open_group(folder / "fields.zarr", mode="w").create_array("x", data=fields)


# The runs that the pages name: preset and options.
RUNS = {
    "x": "digits_vp",
    "c": "digits_vp_conditional",
    "a": "digits_iddpm --sde.n 50",
    "b": "digits_iddpm_linear --sde.n 50",
    "series": "digits_vp --data.name array --data.path series_train.npy",
    "coloured": "digits_vp --data.name array --data.path coloured.npy",
    "waves": "digits_vp --data.name array --data.path waves.npy",
    "photos": "digits_dit --data.name folder --data.path photos --data.size 16",
}

# The names of runs in the tutorials, which are copies.
COPIES = {"digits": "x", "classes": "c", "back": "x"}


def runs(folder: pathlib.Path) -> None:
    """Make the runs of the pages, with small networks that are not trained."""
    import jax

    from experiments import cli
    from experiments import runs as folders

    for name, options in RUNS.items():
        plain = "--variance large --loss.objective simple" if "iddpm" in options else ""
        small = f"{options} {_MLP} {plain} --sample.sampler ddim --sample.steps 3"
        argv = ["--config", *small.split()]
        config = cli.parse_config("train", "", argv)[1]
        run = folders.build(config)
        folders.write(folder / "runs" / name, run, run.init_params(jax.random.key(0)), 2, {})
    copies(folder)


def copies(folder: pathlib.Path) -> None:
    """Give the runs of the tutorials their names, where they are made."""
    for name, source in COPIES.items():
        if (folder / "runs" / source).exists():
            shutil.copytree(folder / "runs" / source, folder / "runs" / name)


def needed(commands: Sequence[Shown]) -> list[str]:
    """The runs of `RUNS` that commands name, by their own name or by that of a copy."""
    words = {word for command in commands for word in command.words}
    named = {name for name in (*RUNS, *COPIES) if f"runs/{name}" in words}
    return [name for name in RUNS if name in {COPIES.get(name, name) for name in named}]


def without_own_runs(folder: pathlib.Path, commands: Sequence[Shown]) -> None:
    """Remove the runs that the commands of a page train themselves."""
    for command in commands:
        if command.words[0] == "train" and command.left_out is None:
            workdir = _options(command.words).get("--workdir", ("", "runs/x"))[1]
            shutil.rmtree(folder / workdir, ignore_errors=True)


def program(name: str) -> ModuleType:
    """The module that `python -m name` runs: a package's is in its __main__.py."""
    module = importlib.import_module(name)
    return module if hasattr(module, "main") else importlib.import_module(f"{name}.__main__")


def here(command: Shown) -> str | None:
    """Run a command in this process: what it says where it fails, None if all is well."""
    from experiments import cli

    module = program(f"experiments.{command.words[0]}")

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(cli, "start"),
    ):
        try:
            cli.main(lambda: module.main(list(command.words[1:])))
        except SystemExit as exit:
            code = int(exit.code or 0)
        except Exception as error:  # a fault of the command
            return f"{command.line}: {type(error).__name__}: {error}"
    return f"{command.line}: {out.getvalue()}{err.getvalue()}" if code else None


def apart(command: Shown) -> str | None:
    """The same in a process of its own, with its output on the screen."""
    argv = [sys.executable, "-m", f"experiments.{command.words[0]}", *command.words[1:]]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    code = subprocess.run(argv, env=env, check=False).returncode
    return f"{command.line}: exit code {code}" if code else None


def run_code(code: Code, space: dict[str, object]) -> str | None:
    """Run a block of Python in a namespace: what it says where it fails, None if all is well."""
    try:
        # Empty lines before it, so that a traceback names the line of the page.
        exec(compile("\n" * code.line + code.text, code.page, "exec"), space)
    except Exception as error:  # a fault of the page
        return f"{code.page}:{code.line}: {type(error).__name__}: {error}"
    return None


def walk(
    order: dict[str, list[Shown | Code]], home: pathlib.Path, *, full: bool, only: str
) -> Iterator[str | None]:
    """Run the steps of each page in a copy of `home`: what each says where it fails, or None."""
    done: set[str] = set()
    for page, found in order.items():
        place = home.parent / "page"
        shutil.copytree(home, place)
        os.chdir(place)
        without_own_runs(place, [step for step in found if isinstance(step, Shown)])
        space: dict[str, object] = {"__name__": "__main__"}
        for step in found:
            if isinstance(step, Code):
                yield run_code(step, space)
                continue
            if step.left_out or only not in step.line or step.line in done:
                continue
            # What makes files for those after it runs on every page.
            done |= {step.line} if step.words[0] in REPORTS else set()
            clock = time.perf_counter()
            fault = (apart if full else here)(step)
            yield fault
            how = "FAILED" if fault else "ran"
            print(f"{page}: {how} in {time.perf_counter() - clock:.1f} s: {step.line}", flush=True)
        os.chdir(home)
        shutil.rmtree(place)


def trained(
    order: dict[str, list[Shown | Code]], only: str, steps: int | None
) -> Iterator[str | None]:
    """Train the runs that the steps of the pages name."""
    named = [
        step
        for found in order.values()
        for step in found
        if isinstance(step, Shown) and not step.left_out and only in step.line
    ]
    for name in needed(named):
        words = ("train", "--config", *RUNS[name].split(), "--workdir", f"runs/{name}")
        last = steps or (None if name == "x" else 200)
        cut = () if last is None else ("--train.steps", str(last))
        yield apart(Shown("runs", (*words, *cut)))


def main() -> None:
    """Run the commands; exit code 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", default=list(PAGES), help="the pages (default: all)")
    parser.add_argument("--full", action="store_true", help="the commands as they stand")
    parser.add_argument("--steps", type=int, help="with --full: of every training at most")
    parser.add_argument("--only", default="", help="only commands with this word")
    args = parser.parse_args()
    if args.steps is not None and not args.full:
        parser.error("--steps is for --full: without it everything is short")
    options = {"full": args.full, "steps": args.steps}
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in args.pages}
    order = {page: list(in_order(page, text, **options)) for page, text in texts.items()}
    faults: list[str | None] = []
    with tempfile.TemporaryDirectory() as made:
        home = pathlib.Path(made) / "world"
        home.mkdir()
        world(home)
        os.chdir(home)
        if args.full:
            faults += trained(order, args.only, args.steps)
            copies(home)
        else:
            sys.path.insert(0, str(ROOT))
            runs(home)
        faults += walk(order, home, full=args.full, only=args.only)
    failed = [fault for fault in faults if fault]
    print("\n".join(["", *failed, f"{len(faults)} commands, {len(failed)} failed"]))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
