"""Latents of data, and log densities: `python -m experiments.encode --workdir runs/x --test 8`."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from score_jax._files import write_json, write_npz

from . import cli
from .late import late
from .parts import outputs, rules, unused

with late():
    import jax

    from score_jax import viz

    from . import runs
    from .parts import latents, problems, sampling
    from .reports import bits, pictures
    from .runs import Run

# The options that each way uses.
WAYS = {"ode": ("tol", "logp"), "ddim": ("steps",)}


@dataclasses.dataclass(frozen=True)
class Args:
    """Encode data as latents, and decode them again to see what was kept.

    Writes OUT.npz (x, z, decoded and, with --logp, logp), OUT.json and OUT.png.
    """

    # Folder of a run made by experiments.train.
    workdir: str
    # Pictures, or .npy files of examples in the data's own units.
    images: tuple[str, ...] = ()
    # Number of examples of the run's test split to encode instead.
    test: int = 0
    # The probability flow by an ODE solver, which is exact to --tol, or DDIM backwards.
    by: Literal["ode", "ddim"] = "ode"
    # Tolerance of the ODE.
    tol: float = 1e-4
    # Steps of DDIM.
    steps: int = 200
    # Also the log density of each example, in nats of the data's own units, and its bits per dimension.
    logp: bool = False
    # Class of the data, for networks that are conditioned on it (default: unknown).
    label: Annotated[int | None, tyro.conf.arg(aliases=("--class",))] = None
    # Crop the middle of pictures of other sizes and resize it, instead of refusing them.
    resize: bool = False
    # Examples handled at once; the latents do not depend on it.
    chunk: int = 64
    # Seed of the dequantisation that --logp needs.
    seed: int = 0
    # Where to write (default: WORKDIR/encoded).
    out: str | None = None
    # Write over files that are there.
    overwrite: bool = False


def check(args: Args, argv: Sequence[str] | None = None) -> None:
    """Raise ValueError for flags out of range, and for those that are not used."""
    rules.check_flags(args, test=0, steps=1, chunk=1)
    if not (math.isfinite(args.tol) and args.tol > 0):
        raise ValueError(f"--tol must be finite and > 0, got {args.tol}")
    if bool(args.images) == bool(args.test):
        raise ValueError("give the data by exactly one of --images and --test")
    cli.check_unused(argv, unused.of_choice("--by", args.by, WAYS))


def examples(args: Any, run: Run) -> np.ndarray:
    """The data that the flags name, in the network's range: (n, *d)."""
    if args.images:
        return problems.read_examples(run, args.images, run.shape, "image", resize=args.resize)
    if args.test > len(run.source.test):
        raise ValueError(f"--test must be at most {len(run.source.test)}, got {args.test}")
    return np.asarray(run.source.on_levels(run.source.examples(args.test)["x"]), np.float32)


def densities(args: Args, run: Run, x: np.ndarray) -> np.ndarray:
    """Data as they have a density: those with levels dequantised."""
    if run.source.levels is None:
        return x
    raw = run.source.to_data(x)
    return np.asarray(run.source.from_data(jax.random.key(args.seed), raw))


def draw(run: Run, x: np.ndarray, z: np.ndarray, back: np.ndarray) -> Any:
    """A row each of the data, their latents and what these are decoded to."""
    if len(run.shape) < 2 or (len(run.shape) == 2 and run.shape[1] <= 8):
        return viz.picture(pictures.shown(run, back)[0])
    frames, limits = pictures.frames(run, np.stack([z, x, back])[:, :12])
    order = viz.in_range(frames, limits)[[1, 0, 2]]
    grid = viz.image_grid(
        order.reshape(-1, *order.shape[2:]), range=limits, columns=order.shape[1], scale=None
    )
    return viz.labelled(grid, rows=["data", "latent", "decoded"])


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.encode`."""
    args: Args = cli.parse(Args, "experiments.encode", argv)
    check(args, argv)
    workdir = pathlib.Path(args.workdir)
    out = pathlib.Path(args.out) if args.out else workdir / "encoded"
    npz, record, png = outputs.files(out, (".npz", ".json", ".png"), overwrite=args.overwrite)
    cli.start(args.workdir)
    run, params, step = runs.load(workdir)
    x = examples(args, run)
    x = densities(args, run, x) if args.logp else x
    label = sampling.one_class(run, args.label, args.workdir)
    coder = latents.Coder(run, args.by, args.tol, args.steps, args.logp)
    coded = latents.encode(coder, params, x, label, args.chunk)
    back = latents.decode(coder, params, coded.x, label, args.chunk)
    found = {"x": run.source.to_data(x), "z": coded.x, "decoded": run.source.to_data(back.x)}
    facts: dict[str, Any] = {
        "step": step,
        "nfe": float(np.mean(coded.nfe)),
        "rms_error": float(np.sqrt(np.mean((back.x - x) ** 2))),
        "latent_std": float(np.std(coded.x) / run.sde.prior_std),
    }
    if coded.logp is not None:
        bpd = bits.in_bits(run, coded.logp)
        found |= {"logp": -bpd * math.prod(run.shape) * math.log(2), "bits_per_dim": bpd}
        facts["bits_per_dim"] = float(np.mean(bpd))
    npz.parent.mkdir(parents=True, exist_ok=True)
    write_npz(npz, **found)
    write_json(record, facts | dataclasses.asdict(args))
    written = [npz, record]
    if pictures.written(png, lambda: draw(run, x, coded.x, back.x)):
        written.append(png)
    density = f", {facts['bits_per_dim']:.3f} bits per dimension" if args.logp else ""
    print(
        f"{len(x)} examples encoded by {args.by}: {facts['nfe']:.0f} evaluations each, decoded to "
        f"{facts['rms_error']:.2g} (rms) of the data{density}\nwrote {outputs.listed(written)}"
    )


if __name__ == "__main__":
    cli.main(main)
