"""Latents of a run's data and back: by the probability flow's ODE, or by DDIM."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import likelihood
from score_jax._batched import in_chunks
from score_jax.samplers import ddim, ddim_encode, log_snr_grid, simulate, tweedie
from score_jax.samplers.sampling import latent
from score_jax.score import denoise
from score_jax.types import Params

from ..runs import Run
from . import sampling


class Coder(NamedTuple):
    """How data and latents are mapped to each other: by an ODE of this tolerance, or DDIM's steps."""

    run: Run
    by: str = "ode"
    tol: float = 1e-4
    steps: int = 200
    logp: bool = False  # also the log density, by the same ODE

    @property
    def t0(self) -> float:
        """The time of the data."""
        return self.run.config.sample.t0


class Coded(NamedTuple):
    """Results (n, *d), evaluations of each (n,), and log densities in nats (n,) or None."""

    x: Any
    nfe: Any
    logp: Any = None


def encode(coder: Coder, params: Params, x: Any, label: int | None, chunk: int) -> Coded:
    """The latents of data in the network's range."""
    sampling.check_diffusion(coder.run, "a latent")
    return _mapped(_encoder(coder), coder.run, params, x, label, chunk, "encode")


def decode(coder: Coder, params: Params, z: Any, label: int | None, chunk: int) -> Coded:
    """The data of latents, without the noise at t0."""
    sampling.check_diffusion(coder.run, "a latent")
    return _mapped(_decoder(coder), coder.run, params, z, label, chunk, "decode")


def _mapped(
    function: Any, run: Run, params: Params, x: Any, label: int | None, chunk: int, desc: str
) -> Coded:
    x = np.asarray(x, np.float32)
    given = sampling.labels(run, len(x), None if label is None else np.full(len(x), label))

    def take(index: np.ndarray) -> Any:
        return jax.tree.map(lambda v: v[index % len(x)], (x, given))

    done = in_chunks(function, params, take, len(x), chunk=chunk, desc=desc)
    if not np.isfinite(done.out.x).all():
        raise FloatingPointError(f"{desc}: the results are not finite")
    found: Coded = done.out
    return found


def _each(one: Callable[[Any, Any, Any, Any], Coded]) -> Callable[[Any, Any, Any], Coded]:
    """A function of a chunk of one of an example (1, *d), its number and what the network is given."""

    def function(params: Params, index: Any, part: Any) -> Coded:
        lifted = lambda tree: jax.tree.map(lambda v: v[None], tree)
        each = lambda i, x, given: one(params, i, *lifted((x, given)))
        return jax.vmap(each)(index, *part)

    return function


@functools.lru_cache(maxsize=4)
def _encoder(coder: Coder) -> Any:
    run = coder.run
    options: dict[str, Any] = {"rtol": coder.tol, "atol": coder.tol}

    def one(params: Params, i: Any, x: Any, given: Any) -> Coded:
        score = run.score(params, **given)
        if coder.by == "ddim":
            grid = log_snr_grid(run.sde, coder.steps, t0=coder.t0)
            out = ddim_encode(run.sde, score, x, grid)
            return Coded(out.z[0], jnp.asarray(out.nfe))
        if not coder.logp:
            flow = likelihood.encode(run.sde, score, x, t0=coder.t0, **options)
            return Coded(flow.x[0], flow.nfe)
        key = jax.random.fold_in(jax.random.key(0), i)
        found = likelihood.log_likelihood(key, run.sde, score, x, t0=coder.t0, **options)
        return Coded(found.z[0], found.nfe, found.logp[0])

    return _each(one)


@functools.lru_cache(maxsize=4)
def _decoder(coder: Coder) -> Any:
    run = coder.run
    options: dict[str, Any] = {"rtol": coder.tol, "atol": coder.tol}

    def one(params: Params, i: Any, z: Any, given: Any) -> Coded:
        score = run.score(params, **given)
        if coder.by == "ddim":
            grid = log_snr_grid(run.sde, coder.steps, t0=coder.t0)
            key = jax.random.key(0)  # DDIM with eta 0 draws nothing
            final = tweedie(run.sde, score)
            out = simulate(key, ddim(run.sde, score), z, grid, final_denoising=final)
            return Coded(out.x[0], jnp.asarray(out.nfe))
        flow = likelihood.decode(run.sde, score, z, t0=coder.t0, **options)
        clean = denoise(run.sde, score, flow.x, jnp.asarray(coder.t0))
        return Coded(clean[0], flow.nfe + 1)

    return _each(one)


def drawn(run: Run, seed: int, numbers: Any) -> np.ndarray:
    """The latents from which the samples of these numbers start, as `sample` draws them: (n, *d)."""
    key = jax.random.key(seed)
    return np.stack([latent(jax.random.fold_in(key, i), run.sde, run.shape) for i in numbers])
