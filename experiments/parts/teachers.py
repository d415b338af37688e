"""The teacher of a consistency model: a trained run, or published weights, whose flow is distilled."""

from typing import Any

from score_jax import losses
from score_jax.convert import Ingredients, load_network
from score_jax.samplers import heun


def read(path: str, preset: str | None, student: Ingredients) -> losses.Teacher:
    """The steps of Heun's method on the probability flow of a run folder or a file.

    Raises ValueError for a teacher on another process or with other classes than the student, for one
    that is a consistency model itself, and what `load_pretrained` raises.
    """
    net, model, params = load_network(path, preset)
    if model.parametrization.t0 is not None:
        raise ValueError(
            f"loss.teacher {path!r} must be a diffusion model, not a consistency model"
        )
    if model.sde != student.sde:
        raise ValueError(
            f"loss.teacher {path!r} must have the process of the run, {student.sde}, got {model.sde}"
        )
    # With that of hidden labels; None where a network is given none.
    own, theirs = (getattr(n, "num_classes", None) for n in (student.net, net))
    if own != theirs:
        raise ValueError(
            f"loss.teacher {path!r} must have the classes of the run, {own}, got {theirs}"
        )

    def teacher(**given: Any) -> Any:
        return heun(model.sde, model.score(params, **given))

    return teacher
