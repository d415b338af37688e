"""The loss of a classifier of noisy data, whose gradient guides samplers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_jax.losses.times import Times, check_t0
from score_jax.losses.training import draw_noised, dropout_of
from score_jax.parametrization import NoiseInput
from score_jax.types import SDE, Apply, Batch, Loss, Metrics, Params


def classifier_loss(
    sde: SDE,
    apply: Apply,
    *,
    noise_input: NoiseInput,
    times: Times | None = None,
    stratified: bool = True,
    t0: float = 1e-5,
    train: bool = True,
) -> Loss:
    """Cross-entropy of the classes given x(t), at times drawn as in `training_loss`: a `Loss`.

    The batch is {"x": (b, *d) floating, "y": (b,) integers}; `apply(params, x, noise_input)` returns
    logits (b, classes). In the limit the network is p_t(y | x), whose gradient guides
    (arXiv:2011.13456 section 5, arXiv:2105.05233). Metrics: "loss" in nats, "accuracy".

    Raises ValueError unless 0 < t0 < t1, and, when traced, for integer data.

    >>> loss = classifier_loss(sde, net.apply, noise_input=TimeInput())
    """
    check_t0(sde, t0)

    def loss(params: Params, key: Key[Array, ""], batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        drawn, draw = draw_noised(sde, key, batch, times=times, t0=t0, stratified=stratified)
        logits = apply(params, drawn.x, noise_input(sde, drawn.t), **dropout_of(key, draw, train))
        y = batch["y"]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), y[:, None], axis=1)
        value = -chosen.mean()
        return value, {"loss": value, "accuracy": (logits.argmax(axis=1) == y).mean()}

    return loss
