"""Log densities of a whole data set: every example, several draws, all devices."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from score_jax._batched import in_chunks
from score_jax._check import check, check_count
from score_jax.data import take
from score_jax.types import PRNGKey, Source


class DatasetLogLik(NamedTuple):
    """Log densities in nats of `draws` draws of n examples: (draws, n), with errors and costs.

    stderr (draws, n) is that of each single estimate (NaN where it is unknown), nfe (draws,
    n); seconds without compilation.
    """

    logp: np.ndarray
    stderr: np.ndarray
    nfe: np.ndarray
    seconds: float
    compile_seconds: float


def over_dataset(
    key: PRNGKey,
    estimate: Callable[..., Any],
    x: ArrayLike | Source,
    *,
    y: Any = None,
    prepare: Callable[[PRNGKey, Array], Array] | None = None,
    params: Any = None,
    draws: int = 1,
    chunk: int = 256,
    devices: Sequence[jax.Device] | None = None,
    progress: bool | None = None,
) -> DatasetLogLik:
    """Apply an estimate of the log density to all n examples, `draws` times: `DatasetLogLik`.

    x: the examples (n, *d), or a source of them (`score_jax.types.Source`), which is read chunk by chunk.

    `estimate(key, params, x, y)` returns a record with the fields logp, stderr (b,) and nfe: a
    `log_likelihood` or `variational_bound` with the score of those parameters. `prepare(key, x)`
    takes raw data to data with a density, for instance by dequantisation, once for every draw.
    `y` are labels (n,), or any tree of arrays with one entry an example, or None; for a source it is a
    function of a batch of the source that gives those of the batch, or None. The last partial chunk is
    not dropped. Noise is keyed by the number of the first example of each chunk on each device. The
    arrays of `params`, and of an `estimate` that is a tree such as `jax.tree_util.Partial`, are arguments
    of the program, and a second call with the same `estimate` compiles nothing.

    Raises ValueError unless draws and chunk are at least 1, and for labels of a source that are no
    function.

    >>> out = over_dataset(key, lambda k, p, x, y: log_likelihood(k, sde, make_score(p), x), images,
    ...                    params=params, prepare=dequantize, draws=5)
    """
    check_count(draws=draws)
    n, take = _taker(x, y)
    done = in_chunks(
        _estimates, (key, params, estimate, prepare), take, n * draws,
        chunk=chunk, devices=devices, progress=progress, desc="likelihood",
    )  # fmt: skip
    joined = {name: v.reshape(draws, n) for name, v in done.out.items()}
    return DatasetLogLik(**joined, seconds=done.seconds, compile_seconds=done.compile_seconds)


def _taker(x: Any, y: Any) -> tuple[int, Callable[[np.ndarray], Any]]:
    """(the number of examples, the function that takes some of them with their labels)."""
    if isinstance(x, Source):
        ok = y is None or callable(y)
        check("y", type(y).__name__, ok, "a function of a batch, or None, for a source")
        source, n = x, len(x)

        def of_source(index: np.ndarray) -> Any:
            batch = take(source, index % n)
            part = {"x": batch["x"]}
            return part if y is None else part | {"y": y(batch)}

        return n, of_source
    x, n = np.asarray(x), len(x)

    def of_array(index: np.ndarray) -> Any:
        part = {"x": x[index % n]}
        return (
            part if y is None else part | {"y": jax.tree.map(lambda v: np.asarray(v)[index % n], y)}
        )

    return n, of_array


def _estimates(shared: Any, index: Any, part: Any) -> dict[str, Any]:
    key, params, estimate, prepare = shared
    prepare_key, estimate_key = jax.random.split(jax.random.fold_in(key, index[0]))
    x = part["x"] if prepare is None else prepare(prepare_key, part["x"])
    out = estimate(estimate_key, params, x, part.get("y"))
    nfe = jnp.broadcast_to(jnp.asarray(out.nfe, jnp.int32), index.shape)
    return {"logp": out.logp, "stderr": out.stderr, "nfe": nfe}
