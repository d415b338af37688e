"""Samplers, grids and endings by name: what `--sampler`, `--grid` and `--finish` mean."""

import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from experiments.config import SampleConfig
from score_jax import discrete, samplers
from score_jax.samplers import grids, song
from score_jax.samplers.adaptive import adaptive_multistep
from score_jax.samplers.ddim import ddim
from score_jax.samplers.dpm import dpmpp_2m, dpmpp_2s, dpmpp_3m, sde_dpmpp_2m
from score_jax.samplers.heun import edm, heun
from score_jax.samplers.langevin import annealed_langevin, langevin, langevin_dynamics
from score_jax.samplers.steps import ancestral, euler_maruyama, identity, reverse_diffusion
from score_jax.samplers.threshold import dynamic, static, threshold
from score_jax.samplers.unipc import unipc
from score_jax.types import Step


class Known(NamedTuple):
    """A sampler by name: how it is made, the grid it is usually given, whether it draws noise."""

    make: Callable[[SampleConfig], Any]
    grid: str = "uniform"
    deterministic: bool = False
    adaptive: bool = False


def lookup(kind: str, name: str, table: dict[str, Any]) -> Any:
    """Return the entry of this name; ValueError listing the known ones if there is none."""
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(table)}")
    return table[name]


def _song_times(sde: Any, n: int, *, t0: float) -> Any:
    return song.song_grid(n, t0, t1=sde.t1).times


PREDICTORS: dict[str, Callable[..., Step]] = {
    "reverse_diffusion": reverse_diffusion,
    "euler_maruyama": euler_maruyama,
    "ancestral": ancestral,
    "none": identity,
}
CORRECTORS: dict[str, Callable[..., Step]] = {
    "langevin": langevin,
    "annealed": annealed_langevin,
    "none": lambda sde, score, **options: identity(),
}
FINISHES: dict[str, Any] = {
    "tweedie": samplers.tweedie,
    "mean": samplers.last_mean,
    "none": samplers.as_it_is,
}
GRIDS: dict[str, Callable[..., Any]] = {
    "uniform": grids.uniform_grid,
    "quadratic": grids.quadratic_grid,
    "log_snr": grids.log_snr_grid,
    "karras": grids.karras_grid,
    "song": _song_times,
}
THRESHOLDS: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "static": static,
    "dynamic": dynamic,
}


def predictor_corrector(
    sde: Any, score: Any, *, predictor: str, corrector: str, snr: float, corrector_steps: int
) -> Step:
    """Make the step that corrects at t, then goes to t_next."""
    correct = lookup("corrector", corrector, CORRECTORS)
    predict = lookup("predictor", predictor, PREDICTORS)
    return samplers.chain(
        correct(sde, score, snr=snr, n_steps=corrector_steps), predict(sde, score)
    )


SONG_PREDICTORS: dict[str, Callable[..., Step]] = {
    "reverse_diffusion": song.song_reverse_diffusion,
    "euler_maruyama": song.song_euler_maruyama,
    "ancestral": song.song_ancestral,
    "none": identity,
}
SONG_CORRECTORS: dict[str, Callable[..., Step]] = {
    "langevin": song.song_langevin,
    "annealed": song.song_annealed_langevin,
    "none": lambda sde, score, grid, **options: identity(),
}


def song_predictor_corrector(
    sde: Any,
    score: Any,
    *,
    steps: int,
    t0: float,
    predictor: str,
    corrector: str,
    snr: float,
    corrector_steps: int,
) -> Step:
    """Make the step of the authors' programs, with the tables and times of `steps` steps."""
    grid = song.song_grid(steps, t0, t1=sde.t1)
    correct = lookup("corrector", corrector, SONG_CORRECTORS)
    predict = lookup("predictor", predictor, SONG_PREDICTORS)
    tables = () if predict is identity else (grid,)
    return samplers.chain(
        correct(sde, score, grid, snr=snr, n_steps=corrector_steps), predict(sde, score, *tables)
    )


def _steps(make: Callable[..., Step], **fields: Any) -> Callable[[SampleConfig], Any]:
    """Samplers of steps; each option is a value, or a function of the config."""

    def made(c: SampleConfig) -> Any:
        options = {k: v(c) if callable(v) else v for k, v in fields.items()}
        return samplers.stepwise(make, final_denoising=FINISHES[c.finish], **options)

    return made


def _adaptive(c: SampleConfig) -> Any:
    # The denoised state comes with the last step, at no further evaluation.
    finish = samplers.last_mean if c.finish == "tweedie" else FINISHES[c.finish]
    return samplers.flow(adaptive_multistep, final_denoising=finish, rtol=c.rtol, atol=c.atol)


def _flow(solve: Callable[..., Any]) -> Callable[[SampleConfig], Any]:
    return lambda c: samplers.flow(
        solve, final_denoising=FINISHES[c.finish], rtol=c.rtol, atol=c.atol
    )


def _fields(*names: str) -> dict[str, Callable[[SampleConfig], Any]]:
    """Options of a sampler that are fields of the config by the same name."""
    return {name: operator.attrgetter(name) for name in names}


_PC = _fields("predictor", "corrector", "snr", "corrector_steps")

SAMPLERS: dict[str, Known] = {
    "pc": Known(_steps(predictor_corrector, **_PC)),
    "song": Known(_steps(song_predictor_corrector, **_fields("steps", "t0"), **_PC), "song"),
    "em": Known(_steps(euler_maruyama)),
    "reverse_diffusion": Known(_steps(reverse_diffusion)),
    "ancestral": Known(_steps(ancestral)),
    "langevin": Known(
        _steps(langevin_dynamics, epsilon=lambda c: c.epsilon, n_steps=lambda c: c.corrector_steps),
        "log_snr",
    ),
    "euler": Known(_steps(euler_maruyama, ode=True), deterministic=True),
    "ddim": Known(_steps(ddim, **_fields("eta")), "log_snr", True),
    "heun": Known(_steps(heun), "karras", True),
    "edm": Known(_steps(edm, **_fields("churn", "s_min", "s_max", "s_noise")), "karras"),
    "dpmpp_2s": Known(_steps(dpmpp_2s), "log_snr", True),
    "dpmpp_2m": Known(_steps(dpmpp_2m), "log_snr", True),
    "dpmpp_3m": Known(_steps(dpmpp_3m), "log_snr", True),
    "sde_dpmpp": Known(_steps(sde_dpmpp_2m), "log_snr"),
    "unipc": Known(_steps(unipc, **_fields("order")), "log_snr", True),
    "adaptive": Known(_adaptive, deterministic=True, adaptive=True),
    "ode": Known(_flow(samplers.probability_flow), deterministic=True, adaptive=True),
}


TABLE_SAMPLERS: dict[str, Callable[[SampleConfig, Any], Any]] = {
    "table_ancestral": lambda c, table: samplers.tablewise(samplers.table_ancestral, table),
    "table_ddim": lambda c, table: samplers.tablewise(samplers.table_ddim, table, eta=c.eta),
}


def respaced(c: SampleConfig, diffusion: Any) -> Any:
    """Cut a beta table down to the steps of a config; ValueError for a sampler without a table."""
    if diffusion is None:
        raise ValueError(
            f"sampler {c.sampler!r} needs a run on a beta table (sde.kind 'diffusion')"
        )
    return table_of(diffusion, c.steps)


def table_of(diffusion: Any, steps: int | None) -> Any:
    """The table itself, or `steps` of its steps where these are fewer."""
    whole = steps is None or steps >= diffusion.n
    return diffusion if whole else discrete.respace(diffusion, str(steps))


def make_table(c: SampleConfig, table: Any) -> tuple[Any, Any]:
    """Make the sampler of a config on a table, and its grid."""
    grid = samplers.table_grid(table.n_original, table.index_map)
    return lookup("sampler", c.sampler, TABLE_SAMPLERS)(c, table), grid


def make(c: SampleConfig) -> Any:
    """Make the sampler of a config."""
    return lookup("sampler", c.sampler, SAMPLERS).make(c)


def make_grid(c: SampleConfig, sde: Any) -> Any:
    """Make the grid of a config; an adaptive sampler uses only its ends."""
    usual = lookup("sampler", c.sampler, SAMPLERS).grid
    name = usual if c.grid == "usual" else c.grid
    return lookup("grid", name, GRIDS)(sde, c.steps, t0=c.t0)


def deterministic(c: SampleConfig) -> bool:
    """Whether all noise of a sample is in its latent."""
    return lookup("sampler", c.sampler, SAMPLERS).deterministic and (
        c.sampler != "ddim" or c.eta == 0
    )


def thresholded(c: SampleConfig, sde: Any, score: Any, low: float, high: float) -> Any:
    """Keep what the score says of x0 within the range of the data, as the config says."""
    rule = lookup("threshold", c.threshold, THRESHOLDS)
    return score if rule is None else threshold(sde, score, rule(low=low, high=high))


def evaluations(c: SampleConfig, sde: Any) -> tuple[int, int]:
    """Evaluations a step, and what a run costs besides: (nfe, extra)."""
    made = make(c)
    # Never called: a step says what it costs without it.
    step = made.make(sde, lambda x, t: x, **dict(made.options))
    return step.nfe, step.nfe_extra + (c.finish == "tweedie")


def steps_within(c: SampleConfig, sde: Any, nfe: int) -> int:
    """How many steps of the sampler `nfe` evaluations allow, at least one."""
    each, extra = evaluations(c, sde)
    return max(1, (nfe - extra) // max(1, each))


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError for the first unknown sampler, listing the known ones."""
    for name in names:
        lookup("sampler", name, SAMPLERS)
