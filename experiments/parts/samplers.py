"""Samplers, grids and the final denoising by name: the values of --sampler, --grid and so on.

To add a sampler: one entry in `SAMPLERS`. Functions here take the `SampleConfig` as `c`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from score_jax._names import choose

from ..late import Late, late, real
from . import fitted
from .fitted import NOTHING, Fitted

with late():
    from score_jax import parametrization, samplers
    from score_jax import sde as processes
    from score_jax.types import ends_in_noise

if TYPE_CHECKING:
    from score_jax.parametrization import Variance
    from score_jax.types import SDE, Sampler, ScoreFn, Step


class From(NamedTuple):
    """The value of a field of the config."""

    field: str


class Known(NamedTuple):
    """A sampler by name.

    make: a factory of steps, or a solver of the probability flow if `adaptive`; grid, on_schedule: the
    usual grid, and that on a noise schedule if it is another; deterministic: whether all noise is in
    the latent, or a function of the config; options: arguments of `make` by name, as the value or as
    `From` a field of the config; rates: whether a step evaluates drift or diffusion at its first time, or
    a function of the config; learned: whether `make` takes the variance of the model; tweedie: the
    cheapest form of the final denoising "tweedie"; together: whether it computes anything over all
    samples drawn at once; fitted: the order of the costs of its fitted grid; statistics: whether `make`
    takes the statistics of the model; consistency: whether it is for consistency models alone.
    """

    make: Callable[..., Any]
    grid: str = "uniform"
    on_schedule: str | None = None
    deterministic: bool | Callable[[Any], bool] = False
    adaptive: bool = False
    options: Mapping[str, Any] = MappingProxyType({})
    rates: bool | Callable[[Any], bool] = False
    learned: bool = False
    tweedie: Any = None
    together: bool = False
    fitted: int = 1
    statistics: bool = False
    consistency: bool = False

    def uses(self) -> set[str]:
        """The fields of the config that only some samplers use, and this one does."""
        found = {v.field for v in self.options.values() if isinstance(v, From)}
        found |= {"together"} if self.together else set()
        found |= {"t0"}  # where every grid ends
        return found if self.adaptive else found | {"steps", "grid"}


def _fields(*names: str) -> dict[str, From]:
    """Options of a sampler that are fields of the config by the same name."""
    return {name: From(name) for name in names}


def _library(name: str) -> Any:
    """A function of `score_jax.samplers`, which is imported when it is used."""
    return Late("score_jax.samplers", name)


def _without(sde: SDE, score: ScoreFn, *grid: Any, **options: Any) -> Step:
    """No predictor, or no corrector."""
    return samplers.identity()


PREDICTORS: dict[str, Callable[..., Step]] = {
    "reverse_diffusion": _library("reverse_diffusion"),
    "euler_maruyama": _library("euler_maruyama"),
    "ancestral": _library("ancestral"),
    "none": _without,
}
CORRECTORS: dict[str, Callable[..., Step]] = {
    "langevin": _library("langevin"),
    "annealed": _library("annealed_langevin"),
    "none": _without,
}
SONG_PREDICTORS: dict[str, Callable[..., Step]] = {
    "reverse_diffusion": _library("song_reverse_diffusion"),
    "euler_maruyama": _library("song_euler_maruyama"),
    "ancestral": _library("song_ancestral"),
    "none": _without,
}
SONG_CORRECTORS: dict[str, Callable[..., Step]] = {
    "langevin": _library("song_langevin"),
    "annealed": _library("song_annealed_langevin"),
    "none": _without,
}
FINAL_DENOISING: dict[str, Any] = {
    "tweedie": _library("tweedie"),
    "mean": _library("last_mean"),
    "none": _library("as_it_is"),
}
THRESHOLDS: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "static": _library("static"),
    "dynamic": _library("dynamic"),
}


def _song_times(sde: SDE, n: int, *, t0: float) -> Any:
    return samplers.song_grid(n, t0, t1=sde.t1).times


def _schedule_times(sde: SDE, n: int, *, t0: float) -> Any:
    """The times of n indices of a noise schedule: n - 1 steps, and the final denoising."""
    if not isinstance(sde, processes.NoiseSchedule):
        return samplers.uniform_grid(sde, n, t0=t0)
    indices = processes.spaced_indices(sde.n, min(n, sde.n))
    return processes.schedule_grid(sde, indices)


def _restart_times(sde: SDE, n: int, *, t0: float) -> Any:
    """n steps down: Karras' grid, and two restarts of a sixth of them from s/m of 0.5 to 0.1."""
    each = n // 6
    if not each:
        return samplers.karras_grid(sde, n, t0=t0)
    grid = samplers.karras_grid(sde, n - 2 * each, t0=t0)
    return samplers.restart_grid(sde, grid, low=0.1, high=0.5, steps=each, repeats=2)


def _fitted_times(sde: SDE, n: int, *, t0: float, file: Any = None, order: int = 1) -> Any:
    """The n steps that lose least, by the costs that experiments.compare wrote to a file."""
    costs = fitted.costs(file)
    end = float(costs.times[-1])
    if abs(end / t0 - 1) > 1e-4:
        raise ValueError(f"the grid of {str(file)!r} was fitted to t0={end:.6g}, got t0={t0}")
    return samplers.fitted_grid(costs, n, order=order)


GRIDS: dict[str, Callable[..., Any]] = {
    "uniform": _library("uniform_grid"),
    "quadratic": _library("quadratic_grid"),
    "log_snr": _library("log_snr_grid"),
    "karras": _library("karras_grid"),
    "fitted": _fitted_times,
    "restart": _restart_times,
    "song": _song_times,
    "schedule": _schedule_times,
}


def predictor_corrector(
    sde: SDE, score: ScoreFn, *, predictor: str, corrector: str, snr: float, corrector_steps: int
) -> Step:
    """The step that corrects at t, then goes to t_next."""
    correct = choose(corrector, CORRECTORS, "corrector")
    predict = choose(predictor, PREDICTORS, "predictor")
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
    grid = samplers.song_grid(steps, t0, t1=sde.t1)
    correct = choose(corrector, SONG_CORRECTORS, "corrector")
    predict = choose(predictor, SONG_PREDICTORS, "predictor")
    return samplers.chain(
        correct(sde, score, grid, snr=snr, n_steps=corrector_steps), predict(sde, score, grid)
    )


START = 0.999  # of t1: the first time of samplers that need a finite drift
CORRECTED = ("snr", "corrector_steps")  # used by the correctors
_PC = _fields("predictor", "corrector", *CORRECTED)
_SONG = _fields("steps", "t0") | _PC
_LANGEVIN = {"epsilon": From("epsilon"), "n_steps": From("corrector_steps")}
_EDM = _fields("churn", "s_min", "s_max", "s_noise")
_TOLERANCES = _fields("rtol", "atol")

SAMPLERS: dict[str, Known] = {
    "pc": Known(
        predictor_corrector, options=_PC, together=True,
        rates=lambda c: c.predictor == "euler_maruyama",
    ),
    "song": Known(song_predictor_corrector, "song", options=_SONG, together=True),
    "em": Known(_library("euler_maruyama"), rates=True),
    "reverse_diffusion": Known(_library("reverse_diffusion")),
    "ancestral": Known(_library("ancestral"), on_schedule="schedule", learned=True),
    "langevin": Known(_library("langevin_dynamics"), "log_snr", options=_LANGEVIN),
    "euler": Known(_library("euler_maruyama"), deterministic=True, options={"ode": True}),
    "ddim": Known(
        _library("ddim"), "log_snr", "schedule", lambda c: c.eta == 0, options=_fields("eta")
    ),
    "interpolant": Known(
        _library("interpolant"), deterministic=lambda c: c.tau == 0,
        options={"epsilon": From("tau")},
    ),
    "heun": Known(_library("heun"), "karras", deterministic=True),
    "edm": Known(_library("edm"), "karras", options=_EDM),
    "dpmpp_2s": Known(_library("dpmpp_2s"), "log_snr", deterministic=True),
    "dpmpp_2m": Known(_library("dpmpp_2m"), "log_snr", deterministic=True, fitted=2),
    "dpmpp_3m": Known(_library("dpmpp_3m"), "log_snr", deterministic=True, fitted=2),
    "sde_dpmpp": Known(_library("sde_dpmpp_2m"), "log_snr", fitted=2),
    "dpm_solver_2": Known(_library("dpm_solver_2"), "log_snr", deterministic=True),
    "dpmpp_3s": Known(_library("dpmpp_3s"), "log_snr", deterministic=True),
    "lms": Known(_library("lms"), "karras", deterministic=True, fitted=2),
    "deis": Known(_library("deis"), "quadratic", deterministic=True, fitted=2),
    "sa_solver": Known(
        _library("sa_solver"), "karras", deterministic=lambda c: c.tau == 0,
        options=_fields("tau", "s_min", "s_max"), fitted=2,
    ),
    "er_sde": Known(_library("er_sde"), "karras", fitted=2),
    "unipc": Known(
        _library("unipc"), "log_snr", deterministic=True, options=_fields("order"), fitted=2
    ),
    "dpm_solver_v3": Known(
        _library("dpm_solver_v3"), "log_snr", deterministic=True, options=_fields("order"), fitted=2,
        statistics=True,
    ),
    # No noise is left after its last step.
    "consistency": Known(
        _library("consistency"), "karras", tweedie=_library("last_mean"), consistency=True
    ),
    # The denoised state comes with its last step, at no cost.
    "adaptive": Known(
        _library("adaptive_multistep"), deterministic=True, adaptive=True, options=_TOLERANCES,
        tweedie=_library("last_mean"), together=True,
    ),
    "ode": Known(
        _library("probability_flow"), deterministic=True, adaptive=True, options=_TOLERANCES,
        together=True,
    ),
}  # fmt: skip


def known(c: Any) -> Known:
    """The entry of the sampler of a config; ValueError for an unknown name."""
    found: Known = choose(c.sampler, SAMPLERS, "sampler")
    return found


def make(c: Any, variance: Variance | None = None, of_run: Fitted = NOTHING) -> Sampler:
    """The sampler of a config.

    variance: of the model, for ancestral sampling; of_run: what was fitted to the run. Raises ValueError
    for a sampler that needs statistics of the model, which the run does not have.
    """
    entry, options = known(c), _options(c)
    if entry.learned:
        options["variance"] = parametrization.SMALL if variance is None else variance
    if entry.statistics:
        options["statistics"] = fitted.statistics(of_run.statistics)
    cheapest = {} if entry.tweedie is None else {"tweedie": entry.tweedie}
    final = final_denoising(c.final_denoising, FINAL_DENOISING | cheapest)
    wrap: Any = samplers.flow if entry.adaptive else samplers.stepwise
    return wrap(real(entry.make), final_denoising=final, **options)


def _options(c: Any) -> dict[str, Any]:
    """The arguments of the sampler of a config that are values or fields of it."""
    read = lambda v: getattr(c, v.field) if isinstance(v, From) else v
    return {name: read(value) for name, value in known(c).options.items()}


def final_denoising(name: str, known: Mapping[str, Any] = FINAL_DENOISING) -> Any:
    """The final denoising of this name."""
    return real(choose(name, known, "final denoising"))


def grid_name(c: Any, sde: SDE) -> str:
    """The name of the grid of a config: a noise schedule's own times for its own samplers."""
    entry = known(c)
    on_schedule = isinstance(sde, processes.NoiseSchedule) and entry.on_schedule is not None
    usual = entry.on_schedule if on_schedule else entry.grid
    return str(usual if c.grid == "usual" else c.grid)


def make_grid(c: Any, sde: SDE, of_run: Fitted = NOTHING) -> Any:
    """The grid of a config; an adaptive sampler uses only its ends. of_run: what was fitted to the run.

    A process that ends in pure noise has no finite drift there: a sampler that needs it starts earlier.
    """
    rates = known(c).rates
    if (rates(c) if callable(rates) else rates) and ends_in_noise(sde):
        sde = dataclasses.replace(cast(Any, sde), t1=START * sde.t1)
    make_times = choose(grid_name(c, sde), GRIDS, "grid")
    costs = {"file": of_run.grid, "order": known(c).fitted} if make_times is _fitted_times else {}
    return make_times(sde, c.steps, t0=c.t0, **costs)


def deterministic(c: Any) -> bool:
    """Whether all noise of a sample is in its latent."""
    given = known(c).deterministic
    return given(c) if callable(given) else given


def threshold_rule(c: Any, low: float, high: float) -> Callable[[Any], Any] | None:
    """How the estimate of x0 is kept within the range of the data, or None."""
    rule = choose(c.threshold, THRESHOLDS, "threshold")
    return None if rule is None else rule(low=low, high=high)


def evaluations(c: Any, sde: SDE) -> tuple[int, int]:
    """(evaluations of a step, those of a run besides: negative where n times make n - 1 steps)."""
    # The score is never called, because a step states its evaluations without it.
    step = real(known(c).make)(sde, lambda x, t: x, **_options(c))
    extra = step.nfe_extra + (c.final_denoising == "tweedie" and known(c).tweedie is None)
    on_schedule = isinstance(sde, processes.NoiseSchedule) and grid_name(c, sde) == "schedule"
    return step.nfe, extra - on_schedule * step.nfe


def steps_within(c: Any, sde: SDE, nfe: int) -> int:
    """The number of steps of the sampler that `nfe` evaluations allow, at least one."""
    each, extra = evaluations(c, sde)
    return max(1, (nfe - extra) // max(1, each))


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError for the first unknown sampler, listing the known ones."""
    for name in names:
        choose(name, SAMPLERS, "sampler")
