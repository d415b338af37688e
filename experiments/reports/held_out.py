"""The loss on held-out data: every example for itself, in chunks, over all of this host's devices."""

import functools
from typing import Any

import jax
import numpy as np

from experiments.runs import Experiment
from score_jax._batched import in_chunks
from score_jax.draws import number


def held_out_loss(
    exp: Experiment, params: Any, key: Any, *, draws: int = 1, most: int | None = None, chunk: int
) -> float:
    """Mean loss over the test split, at `draws` times and noises an example, `chunk` at once.

    most: no more than so many examples. The key decides what is drawn, whatever chunk and devices.
    """
    data = exp.test
    n = len(data.x) if most is None else min(len(data.x), most)

    def take(index: np.ndarray) -> Any:
        part = {"x": data.x[index % n]}
        return part if data.y is None else part | {"y": data.y[index % n]}

    function = _function(exp, n * draws)
    done = in_chunks(
        function, (key, params), take, n * draws, chunk=chunk, progress=False, desc="loss"
    )
    return float(done.out.mean(dtype=np.float64))


@functools.lru_cache(maxsize=4)
def _function(exp: Experiment, total: int) -> Any:
    """(shared, index, part) -> losses (c,); one object for one run, so that it is compiled once."""

    def one(key: Any, params: Any, index: Any, example: Any) -> Any:
        prepare_key, loss_key = (jax.random.fold_in(key, i) for i in range(2))
        drawn = lambda key: {"draw": number(key, 1, first=index, total=total)}
        batch = jax.tree.map(lambda leaf: leaf[None], example)
        ready = exp.prepare(prepare_key, batch | drawn(prepare_key))
        return exp.test_loss(params, loss_key, ready | drawn(loss_key))[0]

    def function(shared: Any, index: Any, part: Any) -> Any:
        key, params = shared
        return jax.vmap(lambda i, example: one(key, params, i, example))(index, part)

    return function
