"""A measurement with its operator and noise, and functions of it alone."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Key

from score_jax._check import check, check_finite, is_number, known, plain
from score_jax._math import batch_sum, placed
from score_jax.inverse.noises import Noise
from score_jax.inverse.operators import (
    Examples,
    LinearOperator,
    Mask,
    Operator,
    Outputs,
    SpectralOperator,
    record,
)
from score_jax.types import Data, PerExample, Time

TRIES = 16  # draws of a noise to find the misfit that it leaves


@record("noise_std", "noise")
@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """y = A(x0) + noise_std n, n unit noise: operator A, y (b, *out) with one entry an example.

    noise_std is a number of Python, NumPy or JAX. Entries of y that a `Mask` hides may be NaN. `noise` is
    another kind than the normal one, such as `Poisson(30.0)`; noise_std is then its standard deviation,
    for methods that assume normal noise.

    Raises ValueError for a noise_std that is not a number >= 0, and for y that is not floating point or
    not finite where it is measured.

    >>> measurement = Measurement(Mask(mask), images, noise_std=0.05)
    """

    operator: Any
    y: Any
    noise_std: Any = 0.0  # a number of any kind, kept as a float
    noise: Any = None

    def __post_init__(self) -> None:
        if known(self.noise_std):
            object.__setattr__(self, "noise_std", plain(self.noise_std))
            ok = is_number(self.noise_std) and self.noise_std >= 0
            check("noise_std", self.noise_std, ok, "a finite number >= 0")
        if self.noise is not None and not isinstance(self.noise, Noise):
            raise ValueError(f"noise must be a Noise, such as Poisson(30.0), got {self.noise!r}")
        dtype = getattr(self.y, "dtype", None)
        if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"y must be floating point, got dtype {dtype}: scale it as the data are"
            )
        if isinstance(self.y, np.ndarray | jax.Array) and known((self.y, self.operator)):
            check_finite("y", self._measured())

    def _measured(self) -> Any:
        """y without entries that are not measured; y as it is where the operator does not fit it."""
        try:
            return self.operator.measured(placed(self.y))
        except (AttributeError, ValueError, TypeError):
            return self.y

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example of the data."""
        return tuple(self.operator.data_shape(tuple(self.y.shape[1:])))

    def residual(self, x0: Examples) -> Outputs:
        """y - A(x0): (b, *out), for x0 (b, *d); entries of y that are not measured are ignored."""
        y = jnp.asarray(self.y, x0.dtype)
        return self.operator.measured(y) - self.operator.forward(x0)


def check_measurement(measurement: Any, shape: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The shape of a measured example; ValueError where operator, y or `shape` do not fit."""
    if not isinstance(measurement, Measurement):
        raise ValueError(f"measurement must be a Measurement, got {measurement!r}")
    if not isinstance(measurement.operator, Operator):
        raise ValueError(f"operator must be an Operator, got {measurement.operator!r}")
    out = tuple(measurement.y.shape[1:])
    try:
        found = measurement.shape
        wanted = measurement.operator.out_shape(found)
    except (ValueError, IndexError) as error:
        raise ValueError(f"y has a wrong shape, {(*measurement.y.shape,)}: {error}") from None
    if wanted != out:
        raise ValueError(f"y must have shape (b, {wanted}) for this operator, got {out}")
    if shape is not None and tuple(shape) != found:
        raise ValueError(f"the data have shape {tuple(shape)}, but what was measured has {found}")
    return found


def measure(
    key: Key[Array, ""],
    operator: Operator,
    x0: ArrayLike,
    *,
    noise_std: float = 0.0,
    noise: Any = None,
) -> Measurement:
    """Measure known data x0 (b, *d), with noise drawn: a `Measurement`.

    `noise` is another kind than the normal one of `noise_std`, such as `Poisson(30.0)`.

    Raises ValueError for a noise_std that is negative, or data that the operator does not take.

    >>> measurement = measure(jax.random.key(0), BlockAverage(2), images, noise_std=0.02)
    """
    x0 = jnp.asarray(x0)
    operator.out_shape(x0.shape[1:])
    clean = operator.forward(x0)
    if noise is not None:
        y = operator.measured(noise.draw(key, clean))
        return Measurement(operator, y, noise_std or noise.std(clean), noise)
    n = operator.measured(jax.random.normal(key, clean.shape, clean.dtype))
    return Measurement(operator, clean + noise_std * n, noise_std)


def measurement_logp(measurement: Measurement) -> Callable[[Data, Time], PerExample]:
    """log p(y | x0) up to a constant: (x0, t) -> (b,), for `guide` with `on_x0`; differentiable A.

    With a `noise` of the measurement its likelihood, with the constant.

    Raises ValueError for a measurement without noise, whose likelihood has no gradient.

    >>> guided = guide(sde, score, on_x0(measurement_logp(measurement)))
    """
    if not measurement.noise_std > 0:
        raise ValueError(f"noise_std must be > 0 for a likelihood, got {measurement.noise_std}")

    def logp(x0: Data, t: Time) -> PerExample:
        if measurement.noise is not None:
            operator = measurement.operator
            each = measurement.noise.logp(
                jnp.asarray(measurement.y, x0.dtype), operator.forward(x0)
            )
            return batch_sum(operator.measured(each))
        return -0.5 * batch_sum(jnp.square(measurement.residual(x0) / measurement.noise_std))

    return logp


class Misfit(NamedTuple):
    """F(x0) (b,), 0 where A(x0) = y, and what noise leaves of it in the mean, (b,)."""

    of: Callable[[Data], PerExample]
    noise: PerExample


def misfit(measurement: Measurement) -> Misfit:
    """F = ||y - A(x0)||^2, and for other noise 2 sigma^2 (log p(y | A = y) - log p(y | x0)).

    The second is the first for normal noise. Its mean under noise is estimated by `TRIES` draws of the
    noise with y in the place of A(x0).

    Raises ValueError for another noise without its standard deviation.
    """
    operator, noise, std = measurement.operator, measurement.noise, measurement.noise_std
    y = jnp.asarray(measurement.y)
    if noise is None:
        entries = batch_sum(operator.measured(jnp.ones_like(y)))
        return Misfit(lambda x0: batch_sum(jnp.square(measurement.residual(x0))), entries * std**2)
    check("noise_std", std, std > 0, "> 0 beside a noise: its standard deviation")
    y = operator.measured(y)

    def deviance(y: Outputs, clean: Outputs) -> PerExample:
        each = noise.logp(y, y) - noise.logp(y, clean)
        return 2 * std**2 * batch_sum(operator.measured(each))

    drawn = noise.draw(jax.random.key(0), jnp.broadcast_to(y, (TRIES, *y.shape)))
    left = jax.vmap(deviance, (0, None))(drawn, y).mean(axis=0)
    return Misfit(lambda x0: deviance(y.astype(x0.dtype), operator.forward(x0)), left)


def consistent(measurement: Measurement, x0: Data) -> Data:
    """The nearest x0 that agrees with a noiseless linear measurement: (b, *d).

    x0 + A^+ (y - A x0); with noise, or a nonlinear operator, x0 unchanged.
    """
    if measurement.noise_std > 0 or not isinstance(measurement.operator, LinearOperator):
        return x0
    if isinstance(measurement.operator, Mask):  # to the bit
        return jnp.where(measurement.operator.mask[None], jnp.asarray(measurement.y, x0.dtype), x0)
    return x0 + measurement.operator.pinv(measurement.residual(x0))


def spectral(measurement: Measurement) -> SpectralOperator:
    """The operator, whose singular vectors are needed; ValueError if they are not known."""
    if not isinstance(measurement.operator, SpectralOperator):
        name = type(measurement.operator).__name__
        raise ValueError(f"{name} has no known singular vectors, which are needed here: as_matrix")
    return measurement.operator
