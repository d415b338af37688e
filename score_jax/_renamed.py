"""Old public names and the new ones, for the AttributeError that an old name raises."""

from collections.abc import Callable
from typing import NoReturn

# module -> {old name: where it is now}; "" is score_jax itself. CHANGELOG.md has the same table.
RENAMED: dict[str, dict[str, str]] = {
    "": {
        "discrete": "score_jax.sde (noise schedules, posterior) and score_jax.score (reverse_fn)",
        "label_time": "score_jax.TimeInput",
        "label_std": "score_jax.StdInput",
    },
    "score": {
        "Output": "score_jax.parametrization.Parametrization",
        "OUTPUTS": "score_jax.parametrization.PARAMETRIZATIONS",
        "SCALED_SCORE": "score_jax.parametrization.SCALED_SCORE",
        "DENOISED": "score_jax.parametrization.DENOISED",
        "V": "score_jax.parametrization.V",
        "convert": "target.from_noise(sde, source.to_noise(sde, value, x, t), x, t)",
        "label_time": "score_jax.parametrization.TimeInput",
        "label_std": "score_jax.parametrization.StdInput",
    },
    "sde": {
        "TableVP": "score_jax.sde.Betas",
        "log_snr": "the method sde.log_snr(t)",
        "time_of_log_snr": "the method sde.time_of_log_snr(value)",
    },
    "losses": {
        "discrete_loss": "score_jax.losses.training_loss, or Model.loss(objective)",
        "stratified_times": "uniform_times, with stratified=True, the default of losses",
        "table_bound": "score_jax.losses.schedule_bound",
        "TableBound": "score_jax.losses.ScheduleBound",
        "TimeSampler": "score_jax.losses.Times",
        "StepWeighting": "score_jax.losses.Weighting",
    },
    "training": {"IndexSampler": "score_jax.types.IndexSampler"},
    "types": {
        "Rows": "score_jax.draws.Draw",
        "rows_of": "score_jax.draws.draw_of",
        "drawn_for": "score_jax.draws.Draw, a leaf of the batch",
        "current_rows": "score_jax.draws.Draw, a leaf of the batch",
        "dropout_streams": 'rngs={"dropout": key}',
        "with_memory": "Step, whose update always has a state; stateless() lifts a simple one",
    },
    "samplers": {
        "transition": "the method sde.transition(t, t_next)",
        "table_grid": "score_jax.sde.schedule_grid",
        "even_indices": "score_jax.sde.spaced_indices",
        "table_ancestral": "score_jax.samplers.ancestral with variance=",
        "table_ddim": "score_jax.samplers.ddim",
        "ddim_move": "score_jax.samplers.ddim",
        "table_encode": "score_jax.samplers.ddim_encode",
        "table_denoise": "score_jax.samplers.tweedie",
        "table_score": "score_jax.score.score_fn, or Model.score(params)",
        "tablewise": "score_jax.samplers.stepwise",
        "Tablewise": "score_jax.samplers.stepwise",
    },
    "guidance": {
        "Mixture": "score_jax.analytic.Mixture",
        "gaussian": "score_jax.analytic.gaussian",
        "classifier_free_doubled": "score_jax.guidance.classifier_free with both=",
        "classifier_free_apply": "score_jax.guidance.classifier_free with both=",
        "guided_mean": "score_jax.samplers.ancestral with gradient=",
        "guided_noise": "score_jax.guidance.classifier_guidance",
    },
}


def renamed(module: str) -> Callable[[str], NoReturn]:
    """The `__getattr__` of a module of score_jax: an AttributeError that gives the new name.

    >>> __getattr__ = renamed(__name__)
    """
    old = RENAMED.get(module.removeprefix("score_jax").removeprefix("."), {})

    def missing(name: str) -> NoReturn:
        hint = f": it is now {old[name]}" if name in old else ""
        raise AttributeError(f"module {module!r} has no attribute {name!r}{hint}")

    return missing
