"""Latents of data, and log densities: `python -m experiments.encode --workdir runs/x --test 8`."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from score_jax._files import write_json, write_npz

from . import cli
from .late import late
from .parts import coding, outputs, unused

with late():
    import jax

    from score_jax import viz

    from . import runs
    from .parts import latents, problems, sampling
    from .reports import bits, pictures
    from .runs import Run

# The options that each way uses.
WAYS = {"ode": ("tol", "logp"), "ddim": ("steps",)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args(coding.Options):
    """Encode data as latents, and decode them again to see what was kept.

    Writes OUT.npz (x, z, decoded and, with --logp, logp), OUT.json and OUT.png.
    """

    # Also the log density of each example, in nats of the data's own units, and its bits per dimension.
    logp: bool = False
    # Seed of the dequantisation that --logp needs.
    seed: int = 0
    # Where to write (default: WORKDIR/encoded).
    out: str | None = None


def check(args: Args, argv: Sequence[str] | None = None) -> None:
    """Raise ValueError for flags out of range, and for those that are not used."""
    args.check()
    if bool(args.images) == bool(args.test):
        raise ValueError("give the data by exactly one of --images and --test")
    cli.check_unused(argv, unused.of_choice("--by", args.by, WAYS))


def examples(args: coding.Options, run: Run) -> np.ndarray:
    """The data that the flags name, in the network's range: (n, *d)."""
    if args.test is None:
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
    """A row each of the data, their latents and what these are decoded to; of other data the last."""
    if not viz.is_image(run.shape):
        data = pictures.shown(run, x)[0] if len(run.shape) == 1 else None
        return viz.picture(pictures.shown(run, back)[0], reference=data)
    frames, limits = pictures.frames(run, np.stack([z, x, back])[:, :12])
    order = viz.in_range(frames, limits)[[1, 0, 2]]
    return viz.named_grid(order, rows=["data", "latent", "decoded"], range=limits)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.encode`."""
    args: Args = cli.parse(Args, "experiments.encode", argv)
    check(args, argv)
    workdir = pathlib.Path(args.workdir)
    out = pathlib.Path(args.out) if args.out else workdir / "encoded"
    npz, record, png = outputs.files(out, (".npz", ".json", ".png"), overwrite=args.overwrite)
    cli.start(args.workdir, data=bool(args.test), pictures="the pictures of latents")
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
