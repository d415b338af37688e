"""Learning the class of noisy data: what a classifier that guides samplers is trained by."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_jax._math import bcast
from score_jax.losses.continuous import TimeSampler, stratified_times
from score_jax.types import SDE, Apply, Batch, Loss, Metrics, Params, dropout_streams, rows_of


def classifier_loss(
    sde: SDE,
    apply: Apply,
    *,
    label: Callable[[Any], Any],
    times: TimeSampler = stratified_times,
    t0: float = 1e-5,
    train: bool = True,
) -> Loss:
    """Cross-entropy of the classes given x(t), at times drawn as in `dsm_loss`: a `Loss`.

    The batch is {"x": (b, *d) floating, "y": (b,) integers}; `apply(params, x, label)` returns logits
    (b, classes); with `train` it gets train=True and a key for dropout. In the limit the network is
    p_t(y | x), whose gradient guides (arXiv:2011.13456 section 5, arXiv:2105.05233). Metrics: "loss"
    in nats, "accuracy".

    Raises ValueError unless 0 < t0 < t1, and, when traced, for integer data.

    >>> loss = classifier_loss(sde, net.apply, label=label_time())
    """
    if not 0 < t0 < sde.t1:
        raise ValueError(f"t0 must be in (0, t1={sde.t1}), got {t0!r}")

    def loss(params: Params, key: Key[Array, ""], batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        x0, y = batch["x"], batch["y"]
        if not jnp.issubdtype(x0.dtype, jnp.floating):
            raise ValueError(f'batch["x"] must be floating, got {x0.dtype}: scale integers first')
        rows = rows_of(key, batch)
        t_key, z_key, dropout_key = jax.random.split(rows.key, 3)
        t = rows.shared(lambda key, n: times(key, n, t0, sde.t1), t_key)
        z = rows.each(partial(jax.random.normal, shape=x0.shape[1:], dtype=x0.dtype), z_key)
        mean, std = sde.marginal(x0, t)
        kwargs = {"train": True, "rngs": dropout_streams(rows, dropout_key)} if train else {}
        logits = apply(params, mean + bcast(std, x0) * z, label(t), **kwargs)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), y[:, None], axis=1)
        value = -chosen.mean()
        return value, {"loss": value, "accuracy": (logits.argmax(axis=1) == y).mean()}

    return loss
