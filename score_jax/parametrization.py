r"""What a network is given and what it returns: noise inputs, parametrizations, learned variances.

With x = m x0 + s z (m = mean_coeff(t), s = std(t), z unit noise) a network may return

    NOISE         z                   score = -z / s
    SCORE         -z / s
    SCALED_SCORE  s * score = -z
    DENOISED      x0 = (x - s z) / m
    V             m z - s x0          (Salimans & Ho 2022, arXiv:2202.00512)
    VELOCITY      z - x0              (flow matching, arXiv:2210.02747)
    PREVIOUS      the mean of q(x(t - 1/n) | x, x0), for a noise schedule (arXiv:2006.11239 section 3.2)
    TIMESTEP_NOISE  (s_i / s) z for a noise schedule, s_i the std of the last timestep not after t
    edm(sigma_data)   F of the preconditioned denoiser of EDM (arXiv:2206.00364 eq. 7), below
    consistency(sigma_data, t0)   F of the preconditioned consistency function (arXiv:2303.01469), below

Each is a linear function of z given x and t, so any two are joined by way of the noise. The noise
input of a network is a function of the SDE and the time: `TimeInput`, `StdInput`, `LogSigmaInput`,
`IndexInput`, `LevelInput`, or any callable (sde, t) -> () or (b,).

EDM's denoiser of u = x/m with noise sigma = s/m is D = c_skip u + c_out F(c_in u), with the coefficients
of its table 1 for data of standard deviation d. With r = sqrt(s^2 + m^2 d^2), the standard deviation of
x, it has a form on any SDE that divides by neither m nor s:

    (1)  F is given x / r        z = (s/r) (x/r) - (m d/r) F        F = (s x0 - m d^2 z) / (d r)

For data N(0, d^2) the best F is 0, and the target has unit variance at every noise level.

A consistency function f maps x at any time of a path of the probability flow to x(t0)/m(t0), the state
at the first time t0 in units of the data; it takes the place of x0 = E[x0 | x]. With sigma0 = s/m at t0,
p = s - m sigma0 and q = p^2 + m^2 d^2 the coefficients of arXiv:2303.01469 (appendix C) are on any SDE

    (2)  F is given x / r        f = (m d^2/q) x + (d p/r) F

so that f is x/m at t0, where p = 0, whatever F is.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._check import check, check_count, check_function, check_positive
from score_jax._math import as_time, bcast
from score_jax.sde import Bridge, NoiseSchedule, TimeLike, bridge
from score_jax.types import SDE, Data, check_sde, ends_in_noise

SIGMA_DATA = 0.5  # of images in [-1, 1], arXiv:2206.00364 section 5
NoiseInput = Callable[[SDE, TimeLike], Array]  # (sde, t: () or (b,)) -> the network's noise input


class Parametrization(NamedTuple):
    """A kind of network output, given by two functions.

    to_noise(sde, value, x, t) -> the unit noise z of an output; target(sde, x0, z, x, t) -> the output
    for known data and noise; to_input(sde, x, t) -> what the network is given of x; to_x0(sde, value, x,
    t) -> the data x0 of an output, where that is finite at pure noise (m = 0), or None. value, x0, z and
    x are (b, *d), t is () or (b,). t0: the first time of `consistency`, whose x0 is a consistency
    function and no mean, or None.

    >>> x0_hat = DENOISED.from_noise(sde, NOISE.to_noise(sde, value, x, t), x, t)
    """

    name: str
    to_noise: Callable[[SDE, Data, Data, TimeLike], Data]
    target: Callable[[SDE, Data, Data, Data, TimeLike], Data]
    to_input: Callable[[SDE, Data, TimeLike], Data] = lambda sde, x, t: x
    sigma_data: float | None = None  # of `edm` and `consistency`
    to_x0: Callable[[SDE, Data, Data, TimeLike], Data] | None = None
    t0: float | None = None  # of `consistency`

    def noise_per_value(self, sde: SDE, t: TimeLike) -> Array:
        """dz / d(output) at t, the factor between errors of the output and of the noise: shape of t."""
        t = as_time(t)
        one = jnp.ones((max(t.size, 1), 1), t.dtype)
        return self.to_noise(sde, one, jnp.zeros_like(one), t.reshape(-1)).reshape(t.shape)

    def from_noise(
        self, sde: SDE, z: Float[Array, "b *d"], x: Float[Array, "b *d"], t: TimeLike
    ) -> Float[Array, "b *d"]:
        """The output of this kind for unit noise z in x: (b, *d)."""
        m, s = _coefficients(sde, x, t)
        return self.target(sde, (x - s * z) / m, z, x, t)


def _coefficients(sde: SDE, x: Data, t: TimeLike) -> tuple[Array, Array]:
    """m and s at t, shaped to multiply x."""
    t = as_time(t)
    return bcast(sde.mean_coeff(t), x), bcast(sde.std(t), x)


def _score_to_noise(sde: SDE, value: Data, x: Data, t: TimeLike) -> Data:
    return -_coefficients(sde, x, t)[1] * value


def _score_target(sde: SDE, x0: Data, z: Data, x: Data, t: TimeLike) -> Data:
    return -z / _coefficients(sde, x, t)[1]


def _denoised_to_noise(sde: SDE, value: Data, x: Data, t: TimeLike) -> Data:
    m, s = _coefficients(sde, x, t)
    return (x - m * value) / s


def _v_to_noise(sde: SDE, value: Data, x: Data, t: TimeLike) -> Data:
    # From x = m x0 + s z and v = m z - s x0: m v + s x = (m^2 + s^2) z.
    m, s = _coefficients(sde, x, t)
    return (m * value + s * x) / (m * m + s * s)


def _v_target(sde: SDE, x0: Data, z: Data, x: Data, t: TimeLike) -> Data:
    m, s = _coefficients(sde, x, t)
    return m * z - s * x0


def _v_to_x0(sde: SDE, value: Data, x: Data, t: TimeLike) -> Data:
    m, s = _coefficients(sde, x, t)
    return (m * x - s * value) / (m * m + s * s)


def _velocity_to_noise(sde: SDE, value: Data, x: Data, t: TimeLike) -> Data:
    # From x = m x0 + s z and v = z - x0: x + m v = (m + s) z, and m + s = 1 for a rectified flow.
    m, s = _coefficients(sde, x, t)
    return (x + m * value) / (m + s)


def _velocity_to_x0(sde: SDE, value: Data, x: Data, t: TimeLike) -> Data:
    m, s = _coefficients(sde, x, t)
    return (x - s * value) / (m + s)


def _schedule(sde: SDE, name: str) -> NoiseSchedule:
    """The SDE as a noise schedule, which this kind of output needs."""
    if not isinstance(sde, NoiseSchedule):
        raise ValueError(f"{name} needs a noise schedule, but sde has no timesteps: {sde!r}")
    return sde


def _to_previous(sde: SDE, t: TimeLike) -> Bridge:
    """The posterior whose mean PREVIOUS is."""
    sde, t = _schedule(sde, "PREVIOUS"), as_time(t)
    return bridge(sde, t, jnp.maximum(t - 1 / sde.n, 0))


def _previous_to_noise(sde: SDE, value: Data, x: Data, t: TimeLike) -> Data:
    found = _to_previous(sde, t)
    x0 = (value - bcast(found.x_coeff, x) * x) / bcast(found.x0_coeff, x)
    return _denoised_to_noise(sde, x0, x, t)


def _previous_target(sde: SDE, x0: Data, z: Data, x: Data, t: TimeLike) -> Data:
    return _to_previous(sde, t).mean(x0, x)


def _timestep_ratio(sde: SDE, x: Data, t: TimeLike) -> Array:
    """s(t) over the std of the last timestep not after t (or of the first one): 1 at timesteps."""
    sde = _schedule(sde, "TIMESTEP_NOISE")
    place, nearest, close = sde.nearest(t)
    last = jnp.clip(jnp.where(close, nearest, jnp.floor(place)), 1, sde.n)
    return bcast(sde.std(as_time(t)) / sde.std(last / sde.n), x)


def _timestep_to_noise(sde: SDE, value: Data, x: Data, t: TimeLike) -> Data:
    return _timestep_ratio(sde, x, t) * value


def _timestep_target(sde: SDE, x0: Data, z: Data, x: Data, t: TimeLike) -> Data:
    return z / _timestep_ratio(sde, x, t)


NOISE = Parametrization("noise", lambda sde, value, x, t: value, lambda sde, x0, z, x, t: z)
SCORE = Parametrization("score", _score_to_noise, _score_target)
SCALED_SCORE = Parametrization(
    "scaled_score", lambda sde, value, x, t: -value, lambda sde, x0, z, x, t: -z
)
DENOISED = Parametrization(
    "denoised", _denoised_to_noise, lambda sde, x0, z, x, t: x0,
    to_x0=lambda sde, value, x, t: value,
)  # fmt: skip
V = Parametrization("v", _v_to_noise, _v_target, to_x0=_v_to_x0)
VELOCITY = Parametrization(
    "velocity", _velocity_to_noise, lambda sde, x0, z, x, t: z - x0, to_x0=_velocity_to_x0
)
PREVIOUS = Parametrization("previous", _previous_to_noise, _previous_target)
# score_sde's VP networks with timesteps: score = -value / s_i, NOISE at the timesteps themselves.
TIMESTEP_NOISE = Parametrization("timestep_noise", _timestep_to_noise, _timestep_target)


def edm(sigma_data: float = SIGMA_DATA) -> Parametrization:
    """EDM's preconditioned network for data of standard deviation `sigma_data`, eq. (1).

    The same object for the same number, so that models are equal. Its name in records and flags is
    "edm", or "edm(0.7)" for another number than 0.5. Raises ValueError unless sigma_data > 0.

    >>> model = Model(LinearVE(), net.apply, LogSigmaInput(), edm())
    """
    check_positive(sigma_data=sigma_data)
    return _edm(float(sigma_data))


@functools.cache
def _edm(d: float) -> Parametrization:
    def coefficients(sde: SDE, x: Data, t: TimeLike) -> tuple[Array, Array, Array]:
        m, s = _coefficients(sde, x, t)
        return m, s, jnp.sqrt(s * s + m * m * d * d)

    def to_noise(sde: SDE, value: Data, x: Data, t: TimeLike) -> Data:
        m, s, r = coefficients(sde, x, t)
        return s / r * (x / r) - m * d / r * value

    def target(sde: SDE, x0: Data, z: Data, x: Data, t: TimeLike) -> Data:
        m, s, r = coefficients(sde, x, t)
        return (s * x0 - m * d * d * z) / (d * r)

    def to_input(sde: SDE, x: Data, t: TimeLike) -> Data:
        return x / coefficients(sde, x, t)[2]

    def to_x0(sde: SDE, value: Data, x: Data, t: TimeLike) -> Data:
        m, s, r = coefficients(sde, x, t)
        return d * (m * d / r * (x / r) + s / r * value)

    name = "edm" if d == SIGMA_DATA else f"edm({d!r})"
    return Parametrization(name, to_noise, target, to_input, d, to_x0)


def consistency(sigma_data: float = SIGMA_DATA, t0: float = 0.002) -> Parametrization:
    """A consistency function from the time t0, eq. (2), for data of standard deviation `sigma_data`.

    The x0 of such a model is the consistency function, `Model.denoiser(params)(x, t)`, and its score is
    that of this x0, (m f - x) / s^2: only the step `samplers.consistency` makes samples of it. The
    target, for known x0 and z, is infinite at t0. The same object for the same numbers. Its name is
    "consistency", or "consistency(0.7, 0.01)" for other numbers than 0.5 and 0.002.

    Raises ValueError unless both are > 0.

    >>> model = Model(LinearVE(), net.apply, LogSigmaInput(), consistency())
    >>> f = model.denoiser(params)
    """
    check_positive(sigma_data=sigma_data, t0=t0)
    return _consistency(float(sigma_data), float(t0))


@functools.cache
def _consistency(d: float, t0: float) -> Parametrization:
    def coefficients(sde: SDE, x: Data, t: TimeLike) -> tuple[Array, Array, Array, Array, Array]:
        m, s = _coefficients(sde, x, t)
        first = as_time(t0)
        p = s - m * (sde.std(first) / sde.mean_coeff(first)).astype(x.dtype)
        return m, s, p, p * p + m * m * d * d, jnp.sqrt(s * s + m * m * d * d)

    def to_noise(sde: SDE, value: Data, x: Data, t: TimeLike) -> Data:
        # (x - m f) / s, without the difference of nearly equal numbers near t0.
        m, s, p, q, r = coefficients(sde, x, t)
        return p * p / (s * q) * x - m * d * p / (r * s) * value

    def target(sde: SDE, x0: Data, z: Data, x: Data, t: TimeLike) -> Data:
        m, s, p, q, r = coefficients(sde, x, t)
        return r / (d * q) * (p * x0 - d * d * m * s / p * z)

    def to_input(sde: SDE, x: Data, t: TimeLike) -> Data:
        return x / coefficients(sde, x, t)[4]

    def to_x0(sde: SDE, value: Data, x: Data, t: TimeLike) -> Data:
        m, _, p, q, r = coefficients(sde, x, t)
        return m * d * d / q * x + d * p / r * value

    usual = (d, t0) == (SIGMA_DATA, 0.002)
    name = "consistency" if usual else f"consistency({d!r}, {t0!r})"
    return Parametrization(name, to_noise, target, to_input, d, to_x0, t0)


def parametrization_of(name: str) -> Parametrization | None:
    """The parametrization of a name, "edm(0.7)" too; None if there is none."""
    found = re.fullmatch(r"(edm|consistency)\((.{1,60})\)", name)
    if found is None:
        return next((p for p in PARAMETRIZATIONS if p.name == name), None)
    make: Callable[..., Parametrization] = {"edm": edm, "consistency": consistency}[found[1]]
    try:
        return make(*map(float, found[2].split(",")))
    except (ValueError, TypeError):
        return None


PARAMETRIZATIONS = (
    NOISE, SCORE, SCALED_SCORE, DENOISED, V, VELOCITY, PREVIOUS, TIMESTEP_NOISE, edm(), consistency()
)  # fmt: skip


class Variance(NamedTuple):
    """A kind of variance of the reverse step: `log_variance(values, small, large)` -> log Sigma.

    learned: whether `values` is a second output of the network (None otherwise); small and large: the
    logarithms of the posterior's variance and of the transition's, the two bounds of
    arXiv:2006.11239 section 3.2 (`score_jax.sde.bridge`).
    """

    name: str
    learned: bool
    log_variance: Callable[[Any, Array, Array], Array]


SMALL = Variance("small", False, lambda values, small, large: small)
LARGE = Variance("large", False, lambda values, small, large: large)
LEARNED = Variance("learned", True, lambda values, small, large: values)
# arXiv:2102.09672 eq. 15.
LEARNED_RANGE = Variance(
    "learned_range", True, lambda values, small, large: small + (values + 1) / 2 * (large - small)
)
VARIANCES = (SMALL, LARGE, LEARNED, LEARNED_RANGE)


@dataclasses.dataclass(frozen=True)
class TimeInput:
    """The noise input t * scale, that of VP and sub-VP networks (arXiv:2011.13456, authors' code)."""

    scale: float = 999.0  # factor of the time

    def __call__(self, sde: SDE, t: TimeLike) -> Float[Array, "..."]:
        """t * scale, shape of t."""
        return as_time(t) * self.scale


@dataclasses.dataclass(frozen=True)
class StdInput:
    """The noise input sigma(t) = std(t), that of VE networks trained in continuous time."""

    def __call__(self, sde: SDE, t: TimeLike) -> Float[Array, "..."]:
        """std(t), shape of t."""
        return sde.std(as_time(t))


@dataclasses.dataclass(frozen=True)
class LogSigmaInput:
    """The noise input scale * log(factor * sigma), sigma(t) = s/m: c_noise of EDM with a quarter.

    arXiv:2206.00364 table 1; score_sde's VE networks in EDM's program have scale 1 and factor 1/2.
    """

    scale: float = 0.25  # factor of the logarithm
    factor: float = 1.0  # factor of sigma

    def __call__(self, sde: SDE, t: TimeLike) -> Float[Array, "..."]:
        """The input at t, shape of t."""
        return self.scale * (math.log(self.factor) - 0.5 * sde.log_snr(as_time(t)))


@dataclasses.dataclass(frozen=True)
class IndexInput:
    """The noise input t n - 1, the index of a noise schedule of n timesteps, at least 0.

    At the schedule's own times, up to rounding, it is the integer; between them it is the place
    between two indices (arXiv:2206.00927 section 3.4), or the nearest index if `rounded`. With `top`
    it is rescaled to [0, top): 1000 for published Improved DDPM networks of any n.

    Raises ValueError for an SDE that is not a `NoiseSchedule`.
    """

    top: float | None = None  # rescale the indices to [0, top); None: as they are
    rounded: bool = False  # the nearest index between two timesteps

    def __call__(self, sde: SDE, t: TimeLike) -> Float[Array, "..."]:
        """The index at t as a floating-point number, shape of t."""
        if not isinstance(sde, NoiseSchedule):
            raise ValueError(
                f"IndexInput needs an sde with timesteps, a NoiseSchedule, got {sde!r}"
            )
        place, nearest, close = sde.nearest(t)
        index = nearest if self.rounded else jnp.where(close, nearest, place)
        scale = 1.0 if self.top is None else self.top / sde.n
        return scale * jnp.maximum(index - 1, 0)


@dataclasses.dataclass(frozen=True)
class LevelInput:
    """The noise input of a VE network trained on n noise levels: the index, 0 for the largest.

    round((1 - t/t1) (n - 1)), arXiv:2011.13456, authors' code. Raises ValueError unless n >= 2.
    """

    n: int  # noise levels

    def __post_init__(self) -> None:
        check_count(2, n=self.n)

    def __call__(self, sde: SDE, t: TimeLike) -> Float[Array, "..."]:
        """The index of the nearest level, shape of t."""
        return jnp.round((1 - as_time(t) / sde.t1) * (self.n - 1))


def check_model(
    sde: object, apply: object, noise_input: object, parametrization: object, variance: object
) -> None:
    """Raise ValueError that names what cannot belong to a model: swapped arguments, names, classes."""
    check_sde(sde)
    check_function("apply", apply, "a function (params, x, noise_input), such as net.apply")
    check_function("noise_input", noise_input, "a function (sde, t), such as TimeInput()")
    is_form = isinstance(parametrization, Parametrization)
    check("parametrization", parametrization, is_form, "a Parametrization such as NOISE or V")
    is_variance = variance is None or isinstance(variance, Variance)
    check("variance", variance, is_variance, "a Variance such as LEARNED_RANGE, or None")
    if ends_in_noise(sde):  # type: ignore[arg-type]
        finite = parametrization.to_x0 is not None  # type: ignore[attr-defined]
        check(
            "parametrization", parametrization.name, finite,  # type: ignore[attr-defined]
            f"VELOCITY, V, DENOISED or edm() on {sde!r}, whose last state is pure noise (or t1 < 1)",
        )  # fmt: skip
