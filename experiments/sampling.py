"""Drawing any number of samples from a trained network, in chunks, with what they cost."""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.build import Experiment
from experiments.configs import SampleConfig
from score_jax import samplers
from score_jax.score import denoise


class Drawn(NamedTuple):
    """Samples in the network's range (n, *d), and their cost."""

    x: np.ndarray
    nfe: float  # network evaluations per sample
    seconds: float  # without compilation
    compile_seconds: float
    trajectory: np.ndarray | None  # (k, b, *d) of the first chunk


def make_sampler(exp: Experiment, c: SampleConfig, chunk: int, save_every: int | None) -> Any:
    """Make the jitted function (params, key, y) -> (x, nfe, trajectory) of one chunk."""
    shape = (chunk, *exp.shape)
    if not exp.config.sde.t0 <= c.t0 < exp.sde.t1:
        raise ValueError(
            f"sample.t0 must be in [sde.t0={exp.config.sde.t0}, t1={exp.sde.t1}), got {c.t0!r}"
        )

    def by_steps(make_step: Any, params: Any, key: Any, y: Any) -> Any:
        prior_key, step_key = jax.random.split(key)
        score = exp.score_fn(params, y)
        out = samplers.simulate(
            make_step(score),
            step_key,
            exp.sde.prior_sample(prior_key, shape),
            samplers.uniform_grid(exp.sde, c.steps, t0=c.t0),
            denoise=functools.partial(denoise, exp.sde, score),
            save_every=save_every,
        )
        return out.x, out.nfe, out.trajectory

    def pc(score: Any) -> Any:
        corrector = samplers.langevin(exp.sde, score, snr=c.snr, n_steps=c.corrector_steps)
        return samplers.chain(corrector, samplers.reverse_diffusion(exp.sde, score))

    def em(score: Any) -> Any:
        return samplers.euler_maruyama(exp.sde, score)

    def ode(params: Any, key: Any, y: Any) -> Any:
        score = exp.score_fn(params, y)
        out = samplers.probability_flow(
            exp.sde, score, exp.sde.prior_sample(key, shape),
            t_from=exp.sde.t1, t_to=c.t0, rtol=c.rtol, atol=c.atol,
        )  # fmt: skip
        x = denoise(exp.sde, score, out.x, jnp.asarray(c.t0))
        return x, out.nfe + 1, None

    makers: dict[str, Any] = {
        "pc": functools.partial(by_steps, pc),
        "em": functools.partial(by_steps, em),
        "ode": ode,
    }
    return jax.jit(makers[c.sampler])


def draw(
    exp: Experiment,
    params: Any,
    key: Any,
    num: int,
    c: SampleConfig,
    *,
    y: Any = None,
    chunk: int = 256,
    save_every: int | None = None,
    progress: bool = True,
) -> Drawn:
    """Draw `num` samples with the sampler of `c`, `chunk` at a time; `y` (num,) are classes.

    The last chunk is drawn whole and cut, so that one program is compiled.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}")
    if exp.num_classes and y is None:
        y = np.arange(num) % exp.num_classes
    chunk = min(chunk, num)
    run = make_sampler(exp, c, chunk, save_every)
    count = -(-num // chunk)
    label = lambda i: (
        None
        if y is None
        else jnp.asarray(np.resize(y[i * chunk : (i + 1) * chunk], chunk), jnp.int32)
    )
    start = time.perf_counter()
    compiled = run.lower(params, key, label(0)).compile()
    compile_seconds = time.perf_counter() - start
    parts, nfes, trajectory = [], [], None
    start = time.perf_counter()
    for i in tqdm(range(count), desc=f"sample {c.sampler}", unit="chunk", disable=not progress):
        x, nfe, path = compiled(params, jax.random.fold_in(key, i), label(i))
        parts.append(np.asarray(x))
        nfes.append(float(np.mean(nfe)))
        trajectory = np.asarray(path) if i == 0 and path is not None else trajectory
    seconds = time.perf_counter() - start
    x = np.concatenate(parts)[:num]
    if not np.isfinite(x).all():
        raise FloatingPointError(f"sampler {c.sampler!r} returned values that are not finite")
    return Drawn(x, float(np.mean(nfes)), seconds, compile_seconds, trajectory)


def quick(config: SampleConfig) -> SampleConfig:
    """A cheaper sampler for pictures during training: at most 100 steps."""
    return dataclasses.replace(config, steps=min(config.steps, 100))
