"""Posterior samplers beside those of deepinv: distance to the exact posterior, and time, in turns.

    taskset -c 0 python -m benchmarks.posterior_deepinv [--torch where/site-packages/are] [--rounds 2]

Both sides draw from the posteriors of the same measurements of `digits_half` (experiments.posterior),
with the same mixture as denoiser: ours in JAX, theirs as a torch module, float32 (their DPS computes in
float64). DPS, DDRM and DiffPIR have the same number of steps. Each side has its own defaults and grid,
except that deepinv's DPS is also run with `guidance="annealed"`, and its DDRM has levels from 1 to 0.005.
deepinv works with images between 0 and 1, so data and noise are halved for it. Rounds alternate; compiled
programs are made before. Printed are the figures of `score_jax.inverse.benchmark` of the first round, and
the least wall and processor times of all rounds, with the load of the machine. `taskset` gives both sides
one core. Writes posterior_deepinv.json.
"""

import argparse
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.parts import posteriors
from score_jax import VP, inverse
from score_jax.inverse import benchmark

FIGURES = ("sliced_wasserstein", "weights_error", "std_ratio", "residual", "calibration")


def torch_denoiser(prior: Any) -> Any:
    """E[x0 | x0 + sigma z] of a mixture as a module of images (b, 1, h, w) between 0 and 1."""
    import torch

    covariance = prior.covariance
    arrays = (prior.means.reshape(len(prior.means), -1), covariance.values, covariance.vectors)
    arrays = (*arrays, np.log(prior.weights))

    class Denoiser(torch.nn.Module):
        """The exact one."""

        def forward(self, x: Any, sigma: Any, *args: Any, **kwargs: Any) -> Any:
            """The posterior mean, with one sigma or one for each image."""
            mu, v, axes, logs = (torch.as_tensor(a, dtype=x.dtype) for a in arrays)
            s = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1) * 2
            flat = x.reshape(len(x), 1, -1) * 2 - 1
            c = torch.einsum("bkn,knj->bkj", flat - mu, axes)
            u = v + s**2
            share = torch.softmax(logs - 0.5 * (c**2 / u + torch.log(u)).sum(2), 1)
            x0 = mu + torch.einsum("bkj,knj->bkn", c * v / u, axes)
            return ((share[:, :, None] * x0).sum(1).reshape(x.shape) + 1) / 2

    return Denoiser()


def theirs(posed: Any, num: int, steps: int) -> dict[str, Callable[[], np.ndarray]]:
    """deepinv's samplers as functions to draws (r, num, 8, 8, 1) from -1 to 1."""
    import deepinv as dinv
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    y = (np.asarray(posed.measurement.y) + 1) / 2
    mask = np.asarray(posed.problem.operator.mask)
    y = np.where(mask[None], y, 0)
    std = posed.measurement.noise_std / 2
    many = torch.as_tensor(np.repeat(y, num, axis=0), dtype=torch.float32).permute(0, 3, 1, 2)
    many = many.contiguous()
    shown = torch.as_tensor(mask, dtype=torch.float32).permute(2, 0, 1)[None].contiguous()
    physics = dinv.physics.Inpainting(
        mask=shown, img_size=tuple(shown.shape[1:]), noise_model=dinv.physics.GaussianNoise(std)
    )
    denoiser = torch_denoiser(posed.problem.prior)
    levels = np.linspace(1, 0.005, steps)
    samplers = {
        "DDRM": dinv.sampling.DDRM(denoiser, sigmas=levels),
        "DiffPIR": dinv.sampling.DiffPIR(
            denoiser, dinv.optim.data_fidelity.L2(), sigma=std, max_iter=steps
        ),
        "DPS": dinv.sampling.DPS(denoiser, num_steps=steps),
        "DPS annealed": dinv.sampling.DPS(denoiser, num_steps=steps, guidance="annealed"),
    }

    def drawn(sampler: Any) -> Callable[[], np.ndarray]:
        def draw() -> np.ndarray:
            torch.manual_seed(0)
            with torch.no_grad():
                x = sampler(many, physics, seed=1)
            x = np.asarray(x.permute(0, 2, 3, 1).numpy(), np.float64) * 2 - 1
            return x.reshape(len(y), num, *x.shape[1:])

        return draw

    return {f"deepinv {name}": drawn(sampler) for name, sampler in samplers.items()}


def ours(posed: Any, num: int, steps: int) -> dict[str, Callable[[], np.ndarray]]:
    """The same of score_jax, with as many steps."""
    sde, score = VP(), posed.problem.prior.score(VP())

    def drawn(method: Any, evaluations: int) -> Callable[[], np.ndarray]:
        drawer = benchmark.by_steps(method, nfe=evaluations * steps + 1)
        return lambda: drawer(jax.random.key(1), sde, score, posed.measurement, num).x

    return {
        "ddrm": drawn(inverse.ddrm, 1),
        "diffpir": drawn(inverse.diffpir, 1),
        "dps": drawn(inverse.dps, 2),
    }


def main() -> None:
    """Entry point of `python -m benchmarks.posterior_deepinv`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--torch", help="folder of the packages torch and deepinv")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--num", type=int, default=50)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", default="build/posterior_deepinv")
    args = parser.parse_args()
    if args.torch:
        sys.path.append(args.torch)
    problem = posteriors.problem("digits_half", 0.1)
    posed = benchmark.pose(jax.random.key(0), problem, repeats=args.repeats, num=args.num)
    sides = [ours(posed, args.num, args.steps), theirs(posed, args.num, args.steps)]
    rows: dict[str, dict[str, Any]] = {}
    for draw in sides[0].values():
        draw()  # compiles
    for turn in range(args.rounds):
        for name, draw in [pair for side in sides for pair in side.items()]:
            wall, processor = time.perf_counter(), time.process_time()
            x = draw()
            spent = (time.perf_counter() - wall, time.process_time() - processor)
            row = rows.setdefault(name, {"wall": [], "processor": [], "load": []})
            row["wall"].append(spent[0])
            row["processor"].append(spent[1])
            row["load"].append(os.getloadavg()[0])
            if turn == 0:
                found = benchmark.compare_draws(posed, benchmark.Drawn(x, 0.0, spent[0]))
                row["nonfinite"] = found.nonfinite
                row["figures"] = {k: [v.value, v.error] for k, v in found.figures.items()}
            shown = {k: row["figures"].get(k) for k in FIGURES}
            print(name, f"{spent[0]:.1f} s, {spent[1]:.1f} s of processors", shown, flush=True)
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "posterior_deepinv.json").write_text(json.dumps(rows, indent=2) + "\n")
    for name, row in rows.items():
        figures = "  ".join(f"{k} {row['figures'][k][0]:.2f}" for k in FIGURES)
        print(f"{name:22} {min(row['wall']):7.1f} s {min(row['processor']):7.1f} s  {figures}")


if __name__ == "__main__":
    main()
