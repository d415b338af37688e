r"""Noise paired with the data of a batch by optimal transport, for straighter flows.

A batch x_1, ..., x_b is given noise z_1, ..., z_b in the order that makes sum_i ||x_i - z_i||^2 least
(arXiv:2302.00482, arXiv:2304.14772). The noise of a batch is still standard normal and its data are what
they were; only the pairs depend on both, so that the paths of flow matching cross less.

The order is that of the raw x, which is the best for data scaled alike in all entries. With class
labels it also pairs noise with classes, which samples drawn for one class do not see.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped
from scipy.optimize import linear_sum_assignment


def paired_noise(
    x: Shaped[np.ndarray, "b *d"], seed: int | Sequence[int]
) -> Float[np.ndarray, "b *d"]:
    """Unit noise of the shape of x in the order of optimal transport: float32 (b, *d).

    The same x and seed give the same noise. Missing entries (NaN) count as 0. Time is O(b^3 + b^2 d).

    >>> z = paired_noise(batch["x"], seed=(0, 17))
    """
    z = np.random.default_rng(seed).standard_normal(x.shape, np.float32)
    flat = np.nan_to_num(np.asarray(x, np.float32)).reshape(len(x), -1)
    # ||x - z||^2 without the terms that no order changes.
    rows, order = linear_sum_assignment(-flat @ z.reshape(len(x), -1).T)
    assert (rows == np.arange(len(x))).all()
    return z[order]
