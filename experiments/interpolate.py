"""Paths between examples through their latents: `--workdir runs/x --images a.png b.png`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from score_jax._files import write_json, write_npz

from . import cli
from .late import late
from .parts import coding, outputs, rules, unused

with late():
    import jax.numpy as jnp

    from score_jax import likelihood, viz

    from . import encode, runs
    from .parts import latents, sampling, singles
    from .reports import pictures
    from .runs import Run

# The options that each way uses.
WAYS = {"ode": ("tol",), "ddim": ("steps",)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args(coding.Options):
    """Draw the paths from each of several examples to the next, through the latents of the flow.

    Writes OUT.npz (the data x of the paths, their latents z and weights), OUT.json and OUT.png.
    """

    # Numbers of samples that the path goes through instead of images, such as 0-3 (see `sample --seeds`).
    seeds: str | None = None
    # Frames of a path, both ends included.
    frames: int = 9
    # The way between two latents: the great circle, which keeps their norm (spherical), or the straight
    # line (linear).
    path: Literal["spherical", "linear"] = "spherical"
    # Also write the paths as an animation, OUT.gif or OUT.mp4.
    film: Literal["gif", "mp4"] | None = None
    # Seed of the samples of --seeds.
    seed: int = 0
    # Where to write (default: WORKDIR/interpolated).
    out: str | None = None


def check(args: Args, argv: Sequence[str] | None = None) -> None:
    """Raise ValueError for flags out of range, and for those that are not used."""
    args.check()
    rules.check_flags(args, frames=2)
    if sum(bool(v) for v in (args.images, args.test, args.seeds)) != 1:
        raise ValueError("give the ends by exactly one of --images, --test and --seeds")
    cli.check_unused(argv, unused.of_choice("--by", args.by, WAYS))


def ends(args: Args, run: Run, params: Any, coder: Any, label: int | None) -> np.ndarray:
    """The latents to go through: (n, *d); ValueError for fewer than two."""
    if args.seeds is not None:
        z = latents.drawn(run, args.seed, singles.numbers(args.seeds))
    else:
        x = encode.examples(args, run)
        z = latents.encode(coder, params, x, label, args.chunk).x if len(x) > 1 else x
    if len(z) < 2:
        raise ValueError(
            f"a path needs two ends or more, got {len(z)}: --images, --test or --seeds"
        )
    return z


def between(z: np.ndarray, frames: int, path: str) -> np.ndarray:
    """The latents of the paths: (n - 1, frames, *d)."""
    way = {"spherical": likelihood.spherical, "linear": likelihood.linear}[path]
    a, b = (jnp.asarray(v) for v in (z[:-1], z[1:]))
    return np.stack([np.asarray(way(a, b, float(w))) for w in np.linspace(0, 1, frames)], axis=1)


def draw(run: Run, x: np.ndarray) -> Any:
    """A row for each path (n, frames, *d)."""
    if not viz.is_image(run.shape):
        return viz.picture(pictures.shown(run, x.reshape(-1, *run.shape))[0])
    frames, limits = pictures.frames(run, np.swapaxes(x, 0, 1))
    names = [f"{w:.2g}" for w in np.linspace(0, 1, x.shape[1])]
    return viz.named_grid(np.swapaxes(frames, 0, 1), columns=names, range=limits)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.interpolate`."""
    args: Args = cli.parse(Args, "experiments.interpolate", argv)
    check(args, argv)
    workdir = pathlib.Path(args.workdir)
    out = pathlib.Path(args.out) if args.out else workdir / "interpolated"
    endings = [".npz", ".json", ".png", *([] if args.film is None else [f".{args.film}"])]
    npz, record, png, *film = outputs.files(out, endings, overwrite=args.overwrite)
    needs = {"video": "--film mp4" if args.film == "mp4" else None}
    cli.start(args.workdir, data=bool(args.test), pictures="the pictures of paths", extras=needs)
    run, params, step = runs.load(workdir)
    label = sampling.one_class(run, args.label, args.workdir)
    coder = latents.Coder(run, args.by, args.tol, args.steps)
    z = between(ends(args, run, params, coder, label), args.frames, args.path)
    flat = z.reshape(-1, *run.shape)
    x = latents.decode(coder, params, flat, label, args.chunk).x.reshape(z.shape)
    npz.parent.mkdir(parents=True, exist_ok=True)
    raw = run.source.to_data(x.reshape(-1, *run.shape)).reshape(x.shape)
    write_npz(npz, x=raw, z=z, weight=np.linspace(0, 1, args.frames))
    write_json(record, {"step": step} | dataclasses.asdict(args))
    written = [npz, record]
    if pictures.written(png, lambda: draw(run, x)):
        written.append(png)
    # One path after the other.
    if film and pictures.save_animation(run, x.reshape(-1, 1, *run.shape), film[0]):
        written += film
    print(f"{len(x)} paths of {args.frames} frames\nwrote {outputs.listed(written)}")


if __name__ == "__main__":
    cli.main(main)
