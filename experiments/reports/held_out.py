"""The loss on held-out data: every example on its own, in chunks, over the devices of all hosts."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from score_jax import data
from score_jax._batched import in_chunks
from score_jax.draws import number
from score_jax.types import Params, PRNGKey

from ..runs import Run


class HeldOut(NamedTuple):
    """The mean loss on held-out data, and that at each noise level, NaN where there is none."""

    loss: float
    by_level: list[float]


def held_out_loss(
    run: Run, params: Params, key: PRNGKey, *, draws: int = 1, most: int | None = None, chunk: int
) -> float:
    """Mean loss over the test split, as `held_out`."""
    return held_out(run, params, key, draws=draws, most=most, chunk=chunk).loss


def held_out(
    run: Run, params: Params, key: PRNGKey, *, draws: int = 1, most: int | None = None, chunk: int
) -> HeldOut:
    """Mean loss over the test split, at `draws` times and noises an example, `chunk` at once.

    All hosts call this together. most: the largest number of examples. The draws depend on the key, not
    on the chunk or the devices.
    """
    source = run.source.test
    n = len(source) if most is None else min(len(source), most)
    take = lambda index: data.take(source, index % n)
    function, total = _function(run, n * draws), n * draws
    keys = (jax.random.fold_in(key, 0), jax.random.fold_in(key, 1))
    done = in_chunks(
        function, (keys, params), take, total,
        chunk=chunk, devices=jax.devices(), progress=False, desc="loss",
    )  # fmt: skip
    losses, found = done.out
    sums, counts = found.sum(axis=0, dtype=np.float64)
    by_level = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return HeldOut(float(losses.mean(dtype=np.float64)), by_level.tolist())


@functools.lru_cache(maxsize=4)
def _function(run: Run, total: int) -> Callable[[Any, Any, Any], Any]:
    """(shared, index, part) -> losses (c,), and sums and counts by level (c, 2, k).

    One object for one run, so that it is compiled once.
    """

    def one(keys: Any, params: Params, index: Any, example: Any) -> Any:
        prepare_key, loss_key = keys
        drawn = lambda key: {"draw": number(key, 1, first=index, total=total)}
        batch = jax.tree.map(lambda leaf: leaf[None], example)
        ready = run.source.prepare(prepare_key, batch | drawn(prepare_key))
        loss, metrics = run.test_loss(params, loss_key, ready | drawn(loss_key))
        return loss, metrics["loss_by_level"]

    def function(shared: Any, index: Any, part: Any) -> Any:
        keys, params = shared
        return jax.vmap(lambda i, example: one(keys, params, i, example))(index, part)

    return function
