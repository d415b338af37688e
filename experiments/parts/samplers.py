"""Samplers, grids and the final denoising by name: the values of --sampler, --grid and so on.

To add a sampler: one entry in `SAMPLERS`. Functions here take the `SampleConfig` as `c`.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from score_jax import samplers
from score_jax.convert.published import lookup
from score_jax.parametrization import SMALL, Variance
from score_jax.samplers import song_grid
from score_jax.sde import NoiseSchedule, schedule_grid, spaced_indices
from score_jax.types import SDE, Sampler, ScoreFn, Step


class Known(NamedTuple):
    """A sampler by name.

    make: a factory of steps, or a solver of the probability flow if `adaptive`; grid, on_schedule: the
    usual grid, and that on a noise schedule if it is another; deterministic: whether all noise is in
    the latent, or a function of the config; options: arguments of `make` by name, as the value or a
    function of the config; learned: whether `make` takes the variance of the model; tweedie: the
    cheapest form of the final denoising "tweedie".
    """

    make: Callable[..., Any]
    grid: str = "uniform"
    on_schedule: str | None = None
    deterministic: bool | Callable[[Any], bool] = False
    adaptive: bool = False
    options: Mapping[str, Any] = MappingProxyType({})
    learned: bool = False
    tweedie: Any = samplers.tweedie


def _fields(*names: str) -> dict[str, Callable[[Any], Any]]:
    """Options of a sampler that are fields of the config by the same name."""
    return {name: operator.attrgetter(name) for name in names}


def _without(sde: SDE, score: ScoreFn, *grid: Any, **options: Any) -> Step:
    """No predictor, or no corrector."""
    return samplers.identity()


PREDICTORS: dict[str, Callable[..., Step]] = {
    "reverse_diffusion": samplers.reverse_diffusion,
    "euler_maruyama": samplers.euler_maruyama,
    "ancestral": samplers.ancestral,
    "none": _without,
}
CORRECTORS: dict[str, Callable[..., Step]] = {
    "langevin": samplers.langevin,
    "annealed": samplers.annealed_langevin,
    "none": _without,
}
SONG_PREDICTORS: dict[str, Callable[..., Step]] = {
    "reverse_diffusion": samplers.song_reverse_diffusion,
    "euler_maruyama": samplers.song_euler_maruyama,
    "ancestral": samplers.song_ancestral,
    "none": _without,
}
SONG_CORRECTORS: dict[str, Callable[..., Step]] = {
    "langevin": samplers.song_langevin,
    "annealed": samplers.song_annealed_langevin,
    "none": _without,
}
FINAL_DENOISING: dict[str, Any] = {
    "tweedie": samplers.tweedie,
    "mean": samplers.last_mean,
    "none": samplers.as_it_is,
}
THRESHOLDS: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "static": samplers.static,
    "dynamic": samplers.dynamic,
}


def _song_times(sde: SDE, n: int, *, t0: float) -> Any:
    return song_grid(n, t0, t1=sde.t1).times


def _schedule_times(sde: SDE, n: int, *, t0: float) -> Any:
    """The times of n indices of a noise schedule: n - 1 steps, and the final denoising."""
    if not isinstance(sde, NoiseSchedule):
        return samplers.uniform_grid(sde, n, t0=t0)
    return schedule_grid(sde, spaced_indices(sde.n, min(n, sde.n)))


GRIDS: dict[str, Callable[..., Any]] = {
    "uniform": samplers.uniform_grid,
    "quadratic": samplers.quadratic_grid,
    "log_snr": samplers.log_snr_grid,
    "karras": samplers.karras_grid,
    "song": _song_times,
    "schedule": _schedule_times,
}


def predictor_corrector(
    sde: SDE, score: ScoreFn, *, predictor: str, corrector: str, snr: float, corrector_steps: int
) -> Step:
    """The step that corrects at t, then goes to t_next."""
    correct = lookup(corrector, CORRECTORS, "corrector")
    predict = lookup(predictor, PREDICTORS, "predictor")
    return samplers.chain(
        correct(sde, score, snr=snr, n_steps=corrector_steps), predict(sde, score)
    )


def song_predictor_corrector(
    sde: SDE,
    score: ScoreFn,
    *,
    steps: int,
    t0: float,
    predictor: str,
    corrector: str,
    snr: float,
    corrector_steps: int,
) -> Step:
    """The step of the authors' programs, with the coefficients and times of `steps` steps."""
    grid = song_grid(steps, t0, t1=sde.t1)
    correct = lookup(corrector, SONG_CORRECTORS, "corrector")
    predict = lookup(predictor, SONG_PREDICTORS, "predictor")
    return samplers.chain(
        correct(sde, score, grid, snr=snr, n_steps=corrector_steps), predict(sde, score, grid)
    )


_PC = _fields("predictor", "corrector", "snr", "corrector_steps")
_SONG = _fields("steps", "t0") | _PC
_LANGEVIN = {"epsilon": lambda c: c.epsilon, "n_steps": lambda c: c.corrector_steps}
_EDM = _fields("churn", "s_min", "s_max", "s_noise")
_TOLERANCES = _fields("rtol", "atol")

SAMPLERS: dict[str, Known] = {
    "pc": Known(predictor_corrector, options=_PC),
    "song": Known(song_predictor_corrector, "song", options=_SONG),
    "em": Known(samplers.euler_maruyama),
    "reverse_diffusion": Known(samplers.reverse_diffusion),
    "ancestral": Known(samplers.ancestral, on_schedule="schedule", learned=True),
    "langevin": Known(samplers.langevin_dynamics, "log_snr", options=_LANGEVIN),
    "euler": Known(samplers.euler_maruyama, deterministic=True, options={"ode": True}),
    "ddim": Known(
        samplers.ddim, "log_snr", "schedule", lambda c: c.eta == 0, options=_fields("eta")
    ),
    "heun": Known(samplers.heun, "karras", deterministic=True),
    "edm": Known(samplers.edm, "karras", options=_EDM),
    "dpmpp_2s": Known(samplers.dpmpp_2s, "log_snr", deterministic=True),
    "dpmpp_2m": Known(samplers.dpmpp_2m, "log_snr", deterministic=True),
    "dpmpp_3m": Known(samplers.dpmpp_3m, "log_snr", deterministic=True),
    "sde_dpmpp": Known(samplers.sde_dpmpp_2m, "log_snr"),
    "unipc": Known(samplers.unipc, "log_snr", deterministic=True, options=_fields("order")),
    # The denoised state comes with its last step, at no cost.
    "adaptive": Known(
        samplers.adaptive_multistep,
        deterministic=True,
        adaptive=True,
        options=_TOLERANCES,
        tweedie=samplers.last_mean,
    ),
    "ode": Known(samplers.probability_flow, deterministic=True, adaptive=True, options=_TOLERANCES),
}


def known(c: Any) -> Known:
    """The entry of the sampler of a config; ValueError for an unknown name."""
    return lookup(c.sampler, SAMPLERS, "sampler")


def make(c: Any, variance: Variance | None = None) -> Sampler:
    """The sampler of a config; `variance` is that of the model, for ancestral sampling."""
    entry = known(c)
    options = {k: v(c) if callable(v) else v for k, v in entry.options.items()}
    if entry.learned:
        options["variance"] = SMALL if variance is None else variance
    final = lookup(
        c.final_denoising, FINAL_DENOISING | {"tweedie": entry.tweedie}, "final denoising"
    )
    wrap = samplers.flow if entry.adaptive else samplers.stepwise
    return wrap(entry.make, final_denoising=final, **options)


def grid_name(c: Any, sde: SDE) -> str:
    """The name of the grid of a config: a noise schedule's own times for its own samplers."""
    entry = known(c)
    on_schedule = isinstance(sde, NoiseSchedule) and entry.on_schedule is not None
    usual = entry.on_schedule if on_schedule else entry.grid
    return str(usual if c.grid == "usual" else c.grid)


def make_grid(c: Any, sde: SDE) -> Any:
    """The grid of a config; an adaptive sampler uses only its ends."""
    return lookup(grid_name(c, sde), GRIDS, "grid")(sde, c.steps, t0=c.t0)


def deterministic(c: Any) -> bool:
    """Whether all noise of a sample is in its latent."""
    given = known(c).deterministic
    return given(c) if callable(given) else given


def threshold_rule(c: Any, low: float, high: float) -> Callable[[Any], Any] | None:
    """How the estimate of x0 is kept within the range of the data, or None."""
    rule = lookup(c.threshold, THRESHOLDS, "threshold")
    return None if rule is None else rule(low=low, high=high)


def evaluations(c: Any, sde: SDE) -> tuple[int, int]:
    """(evaluations of a step, those of a run besides: negative where n times make n - 1 steps)."""
    made: Any = make(c)
    # The score is never called, because a step states its evaluations without it.
    step = made.make(sde, lambda x, t: x, **dict(made.options))
    extra = step.nfe_extra + (c.final_denoising == "tweedie")
    on_schedule = isinstance(sde, NoiseSchedule) and grid_name(c, sde) == "schedule"
    return step.nfe, extra - on_schedule * step.nfe


def steps_within(c: Any, sde: SDE, nfe: int) -> int:
    """The number of steps of the sampler that `nfe` evaluations allow, at least one."""
    each, extra = evaluations(c, sde)
    return max(1, (nfe - extra) // max(1, each))


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError for the first unknown sampler, listing the known ones."""
    for name in names:
        lookup(name, SAMPLERS, "sampler")
