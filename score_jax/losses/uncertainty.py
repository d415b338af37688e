r"""A weight of the loss that is learned with the network: EDM2's uncertainty (arXiv:2312.02696 eq. 21).

With l the loss of an example at log-SNR lambda, and u(lambda) a small network of its own,

    (1)  E [ l exp(-u) + u ]

is least where u is the logarithm of the mean loss at this level: every level then contributes equally to
the gradient. Like a temperature for each noise level, u changes what the network is trained on and not
what it predicts, so that sampling needs nothing of it.

u is linear in fixed cosines of c = -lambda/8, a quarter of log sigma as in EDM, and starts at 0: the loss
at the first step is the plain one.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float

from score_jax._check import check_count
from score_jax._math import as_time
from score_jax.types import SDE, Params

COLLECTION = "uncertainty"  # of the parameters, beside "params"


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """u(lambda) of eq. (1): a linear map of fixed Fourier features of the log-SNR.

    Its parameters are the collection "uncertainty" of the network's variables, so that they are trained,
    averaged, saved and divided over devices as all others are. Networks ignore a collection that is not
    theirs.

    Raises ValueError unless features >= 1.

    >>> uncertainty = Uncertainty()
    >>> params = net.init(key, x, t) | uncertainty.init()
    >>> loss = model.loss(uncertainty=uncertainty)
    """

    features: int = 128  # number of cosines

    def __post_init__(self) -> None:
        check_count(features=self.features)

    def init(self) -> dict[str, Params]:
        """The parameters, {"uncertainty": {"kernel": (features,), "bias": ()}}, with which u is 0."""
        return {COLLECTION: {"kernel": jnp.zeros(self.features), "bias": jnp.zeros(())}}

    def __call__(self, params: Params, sde: SDE, t: Float[Array, " b"]) -> Float[Array, " b"]:
        """u at times t (b,), of the network's variables: (b,).

        Raises ValueError where they have no collection of it.
        """
        if COLLECTION not in params:
            raise ValueError(
                f"params must have a collection {COLLECTION!r}: params | uncertainty.init()"
            )
        own: Any = params[COLLECTION]
        c = -0.125 * sde.log_snr(as_time(t))
        place = (np.arange(self.features) + 0.5) / self.features
        # Normal frequencies and even phases, the same everywhere without a key.
        frequency = 2 * math.pi * scipy.special.ndtri(place)
        phase = 2 * math.pi * np.mod(np.arange(self.features) * (math.sqrt(5) - 1) / 2, 1)
        angle = c[:, None] * jnp.asarray(frequency, c.dtype)[None]
        waves = math.sqrt(2) * jnp.cos(angle + jnp.asarray(phase, c.dtype)[None])
        return waves @ own["kernel"].astype(c.dtype) / math.sqrt(self.features) + own["bias"]
