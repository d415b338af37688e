"""One record of a network and the process it was trained on; loss, score and reverse chain follow.

A network alone does not say what it is given of the time, what it returns, or which SDE it belongs
to; a mismatch of these gives wrong samples without an error. A `Model` states them once.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from score_jax.losses import Objective, training_loss
from score_jax.parametrization import (
    NOISE,
    SMALL,
    NoiseInput,
    Parametrization,
    Variance,
    check_model,
)
from score_jax.score import NetworkScore, ReverseFn, denoise, reverse_fn, score_fn
from score_jax.types import SDE, Apply, Data, Loss, Params, TimeLike


@dataclasses.dataclass(frozen=True)
class Model:
    """A network's `apply`, its noise input and output, and its SDE.

    apply(params, x, noise_input (b,), y=None, train=...) -> (b, *d), with twice the channels if
    `variance` is learned; noise_input(sde, t): what the network is given of the time;
    parametrization: what it returns; variance: of the reverse steps of a noise schedule, or None.

    Raises ValueError for a field of another kind.

    >>> model = Model(VP(), net.apply, TimeInput())
    >>> loss = model.loss()
    >>> score = model.score(params, y=labels)
    """

    sde: SDE
    apply: Apply
    noise_input: NoiseInput
    parametrization: Parametrization = NOISE
    variance: Variance | None = None

    def __post_init__(self) -> None:
        check_model(self.sde, self.apply, self.noise_input, self.parametrization, self.variance)

    def score(self, params: Params, y: Any = None, **kwargs: Any) -> NetworkScore:
        """The `ScoreFn` of the parameters and class labels y; a pytree, see `score_fn`."""
        given = kwargs if y is None else {"y": y, **kwargs}
        return score_fn(
            self.sde, self.apply, params, noise_input=self.noise_input,
            parametrization=self.parametrization, variance=self.variance, **given,
        )  # fmt: skip

    def denoiser(
        self, params: Params, y: Any = None, **kwargs: Any
    ) -> Callable[[Data, TimeLike], Data]:
        """The denoiser (x: (b, *d), t: () or (b,)) -> E[x0 given x]: (b, *d)."""
        score = self.score(params, y, **kwargs)
        return lambda x, t: denoise(self.sde, score, x, jnp.asarray(t))

    def reverse(
        self,
        params: Params,
        y: Any = None,
        *,
        clean: Callable[[Data], Data] | None = None,
        **kwargs: Any,
    ) -> ReverseFn:
        """The reverse chain (x, t, t_next) -> `Reverse`, with the model's variance (or SMALL)."""
        variance = SMALL if self.variance is None else self.variance
        return reverse_fn(self.sde, self.score(params, y, **kwargs), variance=variance, clean=clean)

    def loss(self, objective: Objective | None = None, **options: Any) -> Loss:
        """The training loss, by default of denoising score matching; options of `training_loss`.

        >>> loss = Model(CosineBetas(), net.apply, IndexInput(), variance=LEARNED_RANGE).loss(hybrid())
        """
        return training_loss(
            self.sde, self.apply, objective, noise_input=self.noise_input,
            parametrization=self.parametrization, variance=self.variance, **options,
        )  # fmt: skip
