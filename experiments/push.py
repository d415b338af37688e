"""A run with its model card, in a folder or on the Hugging Face hub: `--workdir runs/x --to folder`."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from score_jax._files import replacing, write_text

from . import cli
from .late import late

with late():
    import jax

    from . import runs
    from .parts import origins
    from .runs import Run

CARD = "README.md"
# Results of other commands that a card quotes, where they are there.
RESULTS = ("evaluation.json", "bits_per_dim.json")
PICTURES = ("samples.png", "compare.png")


@dataclasses.dataclass(frozen=True)
class Args:
    """Write a run's averaged weights, config and model card to a folder, and push it to a hub.

    The folder is a run folder: sample, evaluate and `load_pretrained` take it.
    """

    # Folder of a run made by experiments.train.
    workdir: str
    # Folder to write; it must be new or empty.
    to: str | None = None
    # Name on the hub, USER/NAME, to push to; the token is that of `huggingface-cli login`.
    repo: str | None = None
    # Make a repository that only you can see.
    private: bool = False
    # Licence of the weights, as the hub abbreviates it, such as mit or cc-by-4.0.
    license: str | None = None
    # What the model is for, in a sentence.
    purpose: str | None = None


def check(args: Args) -> None:
    """Raise ValueError for flags that do not fit."""
    if args.to is None and args.repo is None:
        raise ValueError("give --to, a folder, or --repo, a name on the hub, or both")
    if args.repo is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", args.repo):
        raise ValueError(f"--repo must be USER/NAME, got {args.repo!r}")
    if args.license is not None and not re.fullmatch(r"[a-z0-9.-]+", args.license):
        raise ValueError(f"--license must be a short name such as mit, got {args.license!r}")
    if args.private and args.repo is None:
        raise ValueError("--private is for --repo")


def card(
    run: Run, params: Any, step: int, args: Args, results: dict[str, Any], origin: Any = None
) -> str:
    """The model card, in Markdown with the hub's header."""
    count = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))
    head = [
        "---",
        "library_name: score_jax",
        "tags: [score-based-generative-model, diffusion, jax]",
    ]
    head += [f"license: {args.license}"] if args.license else []
    c = run.config
    name = args.repo or pathlib.Path(args.to or "").name
    about = [
        f"| data | {c.data.name}, examples of shape {run.shape} |",
        f"| network | {type(run.net).__name__}, {count:,} parameters, averaged weights |",
        f"| process | {run.sde} |",
        f"| trained | {step:,} updates of {c.train.batch_size} examples |",
        *([] if origin is None else [f"| origin | {'; '.join(origins.said(origin))} |"]),
        f"| classes | {run.num_classes or 'none'} |",
        f"| sampler | {c.sample.sampler}, {c.sample.steps} steps |",
    ]
    found = [f"| {key.replace('_', ' ')} | {value} |" for key, value in _figures(results)]
    lines = [
        *head, "---", "", f"# {name}", "",
        args.purpose or "A score-based generative model, trained with score_jax.", "",
        "| | |", "|---|---|", *about, "",
        *(["## Measured", "", "| | |", "|---|---|", *found, ""] if found else []),
        "## Use", "", "```python", "import jax", "import score_jax as sj", "",
        'model, params = sj.load_pretrained("FOLDER")',
        f"grid = sj.samplers.log_snr_grid(model.sde, 20, t0={c.sample.t0})",
        f"out = sj.sample(jax.random.key(0), model.sde, model.score(params), (16, *{run.shape}),",
        "                sampler=sj.samplers.dpmpp_2m, grid=grid)", "```", "",
        "or `score-jax sample --workdir FOLDER --num 16`.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _figures(results: dict[str, Any]) -> list[tuple[str, str]]:
    """The plain numbers of the results, and the means among them."""
    found = []
    for key, value in results.items():
        if isinstance(value, float | int) and not isinstance(value, bool):
            found.append((key, f"{value:.4g}"))
        elif isinstance(value, dict) and isinstance(value.get("model"), dict):
            for name, number in value["model"].items():
                if isinstance(number, float) and name in ("mean", "frechet", "kid"):
                    found.append((f"{key} {name}", f"{number:.4g}"))
    return found


def export(args: Args, folder: pathlib.Path) -> None:
    """Write the folder, whole or not at all."""
    workdir = pathlib.Path(args.workdir)
    run, params, step = runs.load(workdir)
    origin = origins.read(workdir)
    results: dict[str, Any] = {}
    for name in RESULTS:
        if (workdir / name).is_file():
            results |= json.loads((workdir / name).read_text(encoding="utf-8"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_dir():
        folder.rmdir()  # empty, as was checked
    with replacing(folder) as part:
        runs.write(part, run, params, step, {} if origin is None else {runs.ORIGIN_FILE: origin})
        write_text(part / CARD, card(run, params, step, args, results, origin))
        for name in PICTURES:
            if (workdir / name).is_file():
                shutil.copyfile(workdir / name, part / name)


def upload(repo: str, folder: pathlib.Path, *, private: bool) -> str:
    """Push the folder to the hub: its address."""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=str(folder))
    return f"https://huggingface.co/{repo}"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.push`."""
    args: Args = cli.parse(Args, "experiments.push", argv)
    check(args)
    if args.to is not None:
        runs.check_new("to", pathlib.Path(args.to))
    cli.start(args.workdir, extras={"hub": None if args.repo is None else "--repo"})
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(args.to) if args.to else pathlib.Path(scratch) / "run"
        export(args, folder)
        if args.to is not None:
            print(f"wrote {folder} with its card, {folder / CARD}")
        if args.repo is not None:
            print(f"pushed to {upload(args.repo, folder, private=args.private)}")


if __name__ == "__main__":
    cli.main(main)
