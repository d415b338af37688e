"""The teacher of a consistency model: a trained run, or published weights, whose flow is distilled."""

from typing import Any

from score_jax import losses
from score_jax.convert import load_pretrained
from score_jax.model import Model
from score_jax.samplers import heun


def read(path: str, preset: str | None, student: Model) -> losses.Teacher:
    """The steps of Heun's method on the probability flow of a run folder or a file.

    Raises ValueError for a teacher on another process or with other classes than the student, for one
    that is a consistency model itself, and what `load_pretrained` raises.
    """
    model, params = load_pretrained(path, preset)
    if model.parametrization.t0 is not None:
        raise ValueError(
            f"loss.teacher {path!r} must be a diffusion model, not a consistency model"
        )
    if model.sde != student.sde:
        raise ValueError(
            f"loss.teacher {path!r} must have the process of the run, {student.sde}, got {model.sde}"
        )
    own, theirs = _classes(student), _classes(model)
    if own != theirs:
        raise ValueError(
            f"loss.teacher {path!r} must have the classes of the run, {own}, got {theirs}"
        )

    def teacher(**given: Any) -> Any:
        return heun(model.sde, model.score(params, **given))

    return teacher


def _classes(model: Model) -> int | None:
    """Classes of the network, with that of hidden labels; None where it is given none."""
    return getattr(getattr(model.apply, "__self__", None), "num_classes", None)
