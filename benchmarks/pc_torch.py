"""A thousand predictor-corrector steps with an MLP, against PyTorch loops of the same.

    [PYTHONPATH=where/torch/is] python -m benchmarks.pc_torch [--rounds 5] [--batch 64 1024]

Both sides run the VP sampler of the paper on the plane (a Langevin corrector with norms over the batch,
then reverse diffusion, 2,000 evaluations) with the same four layers of 256 and the same weights, in
float32; that they are the same function is checked first. The PyTorch loops: `lean` has every
coefficient as a number before it starts; `authors` computes them as tensors in every step, as the
published program does; with --compiled, `compiled` is the lean one with its step under `torch.compile`,
where that works. Rounds alternate; printed are medians of wall times, the median over the rounds of the
ratio to each peer, the ratio of the least times, and that of the least processor times of all threads,
which alone can be trusted on a busy machine (give torch one thread there: idle ones spin).
"""

import argparse
import functools
import itertools
import math
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import samplers as sm
from score_jax.parametrization import TimeInput
from score_jax.score import score_fn
from score_jax.sde import VP

WIDTH, DEPTH, WAVES = 256, 4, 8
SNR, T0 = 0.16, 1e-3


def weights():
    """[(matrix, bias)] of the layers; a tenth of their output on top of x, so that samples stay near."""
    rng = np.random.default_rng(0)
    sizes = [2 + 2 * WAVES, *[WIDTH] * DEPTH, 2]
    return [
        (rng.normal(size=(a, b)).astype(np.float32) / math.sqrt(a), np.zeros(b, np.float32))
        for a, b in itertools.pairwise(sizes)
    ]


def jax_sampler(steps):
    """(run(seed, x) -> x, network(x, label)), the first one compiled program."""
    params = [(jnp.asarray(w), jnp.asarray(b)) for w, b in weights()]
    sde = VP()

    def apply(params, x, label):
        wave = label[:, None] * jnp.exp(-jnp.arange(float(WAVES)))[None]
        h = jnp.concatenate([x, jnp.sin(wave), jnp.cos(wave)], axis=1)
        for w, b in params[:-1]:
            h = jax.nn.silu(h @ w + b[None])
        return x + 0.1 * (h @ params[-1][0] + params[-1][1][None])

    @jax.jit
    def run(params, key, x):
        score = score_fn(sde, apply, params, noise_input=TimeInput())
        step = sm.chain(sm.langevin(sde, score, snr=SNR), sm.reverse_diffusion(sde, score))
        return sm.simulate(key, step, x, sm.uniform_grid(sde, steps, t0=T0)).x_mean

    return lambda seed, x: run(params, jax.random.key(seed), x), functools.partial(apply, params)


def torch_network():
    """The same network as a torch module's function (x, label) -> noise."""
    import torch

    layers = [(torch.tensor(w), torch.tensor(b)) for w, b in weights()]
    rates = torch.exp(-torch.arange(float(WAVES)))
    linear, silu = torch.nn.functional.linear, torch.nn.functional.silu
    layers = [(w.T.contiguous(), b) for w, b in layers]

    def apply(x, label):
        wave = label[:, None] * rates
        h = torch.cat([x, torch.sin(wave), torch.cos(wave)], dim=1)
        for w, b in layers[:-1]:
            h = silu(linear(h, w, b))
        return x + 0.1 * linear(h, *layers[-1])

    return apply


def lean_step(apply):
    """One step with its coefficients given: label, minus 1/std, 2 - sqrt(1 - beta), beta, its root."""
    import torch

    def norm(v):
        return v.reshape(v.shape[0], -1).norm(dim=1).mean()

    def step(x, label, minus, keep, beta, root):
        score = apply(x, label) * minus
        z = torch.randn_like(x)
        e = 2 * (SNR * norm(z) / norm(score)) ** 2
        x = x + e * score + torch.sqrt(2 * e) * z
        mean = keep * x + beta * (apply(x, label) * minus)
        return mean + root * torch.randn_like(x), mean

    return step


def torch_lean(steps, apply, step=None):
    """run(seed, x): coefficients as numbers, made before the loop."""
    import torch

    step = step or lean_step(apply)
    sde, grid = VP(), sm.uniform_grid(VP(), steps, t0=T0)
    t, t_next = grid[:-1], grid[1:]
    a, variance = jax.vmap(lambda t, u: sde.transition(t, u))(t, t_next)
    minus = -1 / np.asarray(sde.std(t), np.float64)
    table = [np.asarray(v, np.float64).tolist() for v in (minus, 2 - a, variance, variance**0.5)]
    times = np.asarray(t, np.float64) * 999

    @torch.inference_mode()
    def run(seed, x):
        torch.manual_seed(seed)
        labels = [torch.full((x.shape[0],), float(v)) for v in times]
        for label, *coefficients in zip(labels, *table, strict=True):
            x, mean = step(x, label, *coefficients)
        return mean

    return run


def torch_compiled(steps, apply):
    """The lean loop with its step compiled; the coefficients are tensors, or each would compile."""
    import torch

    step = torch.compile(lean_step(apply), dynamic=False)

    def with_tensors(x, label, *numbers):
        return step(x, label, *(torch.tensor(v, dtype=torch.float32) for v in numbers))

    return torch_lean(steps, apply, with_tensors)


def torch_authors(steps, apply):
    """run(seed, x): every coefficient a tensor of the batch, computed in the step."""
    import torch

    low, high = 0.1 / steps, 20.0 / steps
    betas = torch.linspace(low, high, steps)
    times = torch.linspace(1.0, T0, steps)

    def score_at(x, t):
        integral = -0.25 * t**2 * (20.0 - 0.1) - 0.5 * t * 0.1
        std = torch.sqrt(1 - torch.exp(2 * integral))
        return -apply(x, t * 999) / std[:, None]

    @torch.inference_mode()
    def run(seed, x):
        torch.manual_seed(seed)
        for now in times:
            t = torch.ones(x.shape[0]) * now
            index = (t * (steps - 1)).long()
            score = score_at(x, t)
            z = torch.randn_like(x)
            score_norm = torch.norm(score.reshape(score.shape[0], -1), dim=-1).mean()
            z_norm = torch.norm(z.reshape(z.shape[0], -1), dim=-1).mean()
            e = (SNR * z_norm / score_norm) ** 2 * 2 * (1 - betas)[index]
            x = x + e[:, None] * score + torch.sqrt(2 * e)[:, None] * z
            beta = betas[index]
            drift = torch.sqrt(1 - beta)[:, None] * x - x
            mean = x - (drift - beta[:, None] * score_at(x, t))
            x = mean + torch.sqrt(beta)[:, None] * torch.randn_like(x)
        return mean

    return run


def peers(steps, with_compiled):
    """{name: run(seed, x)} of PyTorch, those that work here."""
    import torch

    apply = torch_network()
    found = {"lean": torch_lean(steps, apply), "authors": torch_authors(steps, apply)}
    if with_compiled:
        try:
            torch_compiled(3, apply)(0, torch.zeros(64, 2))
            found["compiled"] = torch_compiled(steps, apply)
        except Exception as error:
            print(f"torch.compile does not work here: {str(error)[:200]}")
    return found


def check(network, apply):
    """Both networks are the same function."""
    import torch

    x = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    label = np.full(5, 321.0, np.float32)
    ours = np.asarray(jax.jit(network)(x, label))
    theirs = apply(torch.tensor(x), torch.tensor(label)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


def measure(batch, args):
    """Print the times and ratios at one size of the batch."""
    import torch

    ours, network = jax_sampler(args.steps)
    check(network, torch_network())
    x = np.random.default_rng(0).normal(size=(batch, 2)).astype(np.float32)
    here, there = jnp.asarray(x), torch.tensor(x)
    runs = {"jax": lambda seed: np.asarray(ours(seed, here))}
    for name, run in peers(args.steps, args.compiled).items():
        runs[name] = lambda seed, run=run: run(seed, there).numpy()
    for name, run in runs.items():
        end = run(0)  # compiles
        print(f"  {name}: the samples' std is {end.std():.3f}")
    times, spent = ({name: [] for name in runs} for _ in range(2))
    for i in range(args.rounds):
        for name, run in runs.items():
            start, processor = time.perf_counter(), time.process_time()
            run(i)
            times[name].append(time.perf_counter() - start)
            spent[name].append(time.process_time() - processor)
    for name, seconds in times.items():
        line = f"batch {batch:5d} {name:9s} {np.median(seconds):7.3f} s"
        if name != "jax":
            ratio = np.median(np.array(times["jax"]) / np.array(seconds))
            least = min(times["jax"]) / min(seconds), min(spent["jax"]) / min(spent[name])
            line += f"  jax / {name} {ratio:.2f} (least {least[0]:.2f}, processor {least[1]:.2f})"
        print(line, flush=True)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1024, 64])
    parser.add_argument("--threads", type=int, default=None, help="of torch (default: its own)")
    parser.add_argument("--compiled", action="store_true", help="torch.compile as a third peer")
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        raise SystemExit("this benchmark compares with PyTorch, which is not installed") from None
    if args.threads:
        torch.set_num_threads(args.threads)
    print(
        f"jax {jax.__version__}, torch {torch.__version__} with {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    for batch in args.batch:
        measure(batch, args)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
