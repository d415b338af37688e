r"""The training loss, and the objective of denoising score matching.

`training_loss` draws times and noise for a batch, evaluates the network once, and averages an
`Objective`: a function of a `Sample` that gives one loss an example. Denoising score matching (Vincent
2011; arXiv:2011.13456 eq. 7) with x = m(t) x0 + s(t) z is

    (1)  L = E_t E_z [ w(t) || s(t) score(x, t) + z ||^2 ]

in units of the unit noise z, so w = 1 is the "noise weighting" lambda(t) = s(t)^2 of the paper, and
w = g(t)^2 / s(t)^2 is lambda(t) = g(t)^2, with which (1) bounds the negative log-likelihood
(arXiv:2101.09258 theorem 1). `score_jax.losses.weightings` has the published weights,
`score_jax.losses.schedule` the objectives of a noise schedule.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from score_jax._check import check, check_float, check_function, check_key, check_positive
from score_jax._math import batch_mean, batch_sum, bcast
from score_jax.draws import Draw, draw_of, row_key
from score_jax.losses.levels import by_level
from score_jax.losses.times import (
    DROPOUT,
    LABELS,
    Noised,
    Times,
    check_t0,
    noised,
    times_of,
    unit_numbers,
)
from score_jax.losses.uncertainty import Uncertainty
from score_jax.losses.weightings import Weighting, noise_weighting
from score_jax.parametrization import (
    NOISE,
    NoiseInput,
    Parametrization,
    Variance,
    check_model,
)
from score_jax.score import split_output
from score_jax.sde import NoiseSchedule
from score_jax.types import SDE, Apply, Batch, Data, Loss, Metrics, Params, PerExample

GIVEN = ("y", "low_res", "augment")  # leaves of a batch that are passed to the network


class Sample(NamedTuple):
    """The arguments of an objective: a network's output `value` at x, and the data and noise of x.

    value (b, *d), with twice the channels for a learned variance; x0, x, z (b, *d) and t (b,); mask
    (b, *d), True where x0 was observed, or None where all of it was. network(x, t): its value elsewhere,
    with the same parameters, `given` (labels and the like, as keyword arguments) and dropout; step (b,):
    the number of the training step, the same for all, or None outside training.
    """

    sde: SDE
    parametrization: Parametrization
    variance: Variance | None
    value: Float[Array, "..."]
    x0: Data
    x: Data
    z: Data
    t: PerExample
    mask: Bool[Array, "..."] | None = None
    network: Callable[[Data, PerExample], Float[Array, "..."]] | None = None
    given: Mapping[str, Any] = MappingProxyType({})
    step: Int[Array, " b"] | None = None

    def prediction(self) -> tuple[Data, Data | None]:
        """(the prediction, the values of the variance or None), both (b, *d)."""
        return split_output(self.value, self.x, self.variance is not None and self.variance.learned)

    def clean(self) -> Data:
        """x0 of the prediction, (b, *d); ValueError for a parametrization without `to_x0`."""
        form = self.parametrization
        if form.to_x0 is None:
            raise ValueError(
                f"parametrization must have to_x0 for this objective, got {form.name!r}"
            )
        return form.to_x0(self.sde, self.prediction()[0], self.x, self.t)

    def at(self, x: Data, t: PerExample) -> "Sample":
        """The sample with x (b, *d) at t (b,), by one more evaluation of the network."""
        if self.network is None:
            raise ValueError("network must be given to evaluate it elsewhere, got None")
        return self._replace(value=self.network(x, t), x=x, t=t)


Objective = Callable[
    [Sample], tuple[PerExample, dict[str, PerExample]]
]  # -> losses (b,) and their parts
Reduction = Callable[..., Float[Array, " b"]]  # (squares (b, *d), mask or None) -> (b,)


def mean_reduction(
    squares: Float[Array, "b *d"], mask: Bool[Array, "b *d"] | None = None
) -> Float[Array, " b"]:
    """Mean over the entries of an example, of those that were observed if there is a mask."""
    if mask is None:
        return batch_mean(squares)
    count = batch_sum(mask.astype(squares.dtype))
    return batch_sum(jnp.where(mask, squares, 0)) / jnp.maximum(count, 1)


def half_sum_reduction(
    squares: Float[Array, "b *d"], mask: Bool[Array, "b *d"] | None = None
) -> Float[Array, " b"]:
    """One half of the sum over the (observed) entries of an example, as in the likelihood bound."""
    return 0.5 * batch_sum(squares if mask is None else jnp.where(mask, squares, 0))


def pseudo_huber_reduction(scale: float = 0.00054) -> Reduction:
    """sqrt(sum + c^2) - c of the (observed) entries of an example, with c = scale sqrt(entries).

    The metric of improved consistency training (arXiv:2310.14189 section 3.3): the squared error of
    small errors, the norm of large ones. Raises ValueError unless scale > 0.
    """
    check_positive(scale=scale)

    def reduction(
        squares: Float[Array, "b *d"], mask: Bool[Array, "b *d"] | None = None
    ) -> Float[Array, " b"]:
        c = scale * math.sqrt(math.prod(squares.shape[1:]))
        total = batch_sum(squares if mask is None else jnp.where(mask, squares, 0))
        return total / (jnp.sqrt(total + c * c) + c)

    return reduction


def dsm(
    *, weighting: Weighting = noise_weighting, reduction: Reduction = mean_reduction
) -> Objective:
    """Denoising score matching, eq. (1), for any parametrization and SDE: (b,)."""
    check_function("weighting", weighting, "a function (sde, t), such as likelihood_weighting")
    check_function("reduction", reduction, "a function (b, *d) -> (b,), such as mean_reduction")

    def objective(s: Sample) -> tuple[PerExample, dict[str, PerExample]]:
        # In the units of the output, in which no digits are lost at either end, then in those of z.
        target = s.parametrization.target(s.sde, s.x0, s.z, s.x, s.t)
        squares = jnp.square(s.prediction()[0] - target)
        reduced = reduction(squares) if s.mask is None else reduction(squares, s.mask)
        unit = jnp.square(s.parametrization.noise_per_value(s.sde, s.t))
        return weighting(s.sde, s.t) * unit * reduced, {}

    return objective


def dsm_per_example(
    sde: SDE,
    apply: Apply,
    params: Params,
    x0: Float[Array, "b *d"],
    t: Float[Array, " b"],
    z: Float[Array, "b *d"],
    *,
    noise_input: NoiseInput,
    parametrization: Parametrization = NOISE,
    weighting: Weighting = noise_weighting,
    reduction: Reduction = mean_reduction,
    **kwargs: Any,
) -> Float[Array, " b"]:
    """Eq. (1) of this module for given times t (b,) and unit noise z (b, *d): (b,).

    The loss that `dsm_loss` averages, for comparison with reference numbers.
    """
    mean, std = sde.marginal(x0, t)
    x = mean + bcast(std, x0) * z
    value = apply(params, parametrization.to_input(sde, x, t), noise_input(sde, t), **kwargs)
    sample = Sample(sde, parametrization, None, value, x0, x, z, t)
    return dsm(weighting=weighting, reduction=reduction)(sample)[0]


def drop_labels(
    key: Key[Array, ""], y: Int[Array, "..."], *, rate: float, null_class: int
) -> Int[Array, "..."]:
    """Class labels, each replaced by `null_class` with probability `rate`.

    One network then learns p(x | y) and p(x), for classifier-free guidance (arXiv:2207.12598).
    """
    return jnp.where(jax.random.bernoulli(key, rate, y.shape), null_class, y)


def _check_dropout(label_dropout: float, null_class: int | None) -> None:
    check("label_dropout", label_dropout, 0 <= label_dropout < 1, "in [0, 1)")
    if label_dropout > 0 and null_class is None:
        raise ValueError("null_class must be given with label_dropout: the class of no label")


def draw_noised(
    sde: SDE,
    key: Key[Array, ""],
    batch: Batch,
    *,
    times: Times | None,
    t0: float,
    stratified: bool,
) -> tuple[Noised, Draw]:
    """batch["x"] at times drawn by the rule, or at the timesteps of batch["index"]."""
    check_key(key, "loss(params, key, batch)")
    if not isinstance(batch, dict) or "x" not in batch:
        raise ValueError(f'batch must be a dict with "x", got {batch!r:.60}')
    check_float('batch["x"]', batch["x"])
    draw = draw_of(key, batch)
    if "index" in batch:
        if not isinstance(sde, NoiseSchedule):
            raise ValueError(f'batch["index"] needs an sde with timesteps, got {sde!r}')
        t = sde.time_of(batch["index"])
    else:
        u = unit_numbers(key, draw, stratified=stratified)
        t = (times_of(sde) if times is None else times)(u, t0, sde.t1)
    return noised(sde, draw, batch["x"], t, batch.get("z")), draw


def dropout_of(key: Key[Array, ""], draw: Draw, train: bool) -> dict[str, Any]:
    """The keyword arguments of a network in training: train=True and a key for dropout.

    Its masks belong to the examples (`row_key`): they do not depend on devices or microbatches.
    """
    if not train:
        return {}
    return {"train": True, "rngs": {"dropout": row_key(jax.random.fold_in(key, DROPOUT), draw)}}


def _first_time(sde: SDE, parametrization: Parametrization, t0: float | None) -> float:
    """The smallest time of a loss; ValueError for one before that of a consistency function."""
    least = parametrization.t0
    if t0 is None:
        t0 = 1e-5 if least is None else least
    check_t0(sde, t0)
    check(
        "t0", t0, least is None or t0 >= least, f"at least {least}, that of {parametrization.name}"
    )
    return t0


def training_loss(
    sde: SDE,
    apply: Apply,
    objective: Objective | None = None,
    *,
    noise_input: NoiseInput,
    parametrization: Parametrization = NOISE,
    variance: Variance | None = None,
    times: Times | None = None,
    stratified: bool = True,
    t0: float | None = None,
    label_dropout: float = 0.0,
    null_class: int | None = None,
    train: bool = True,
    noise_levels: int = 0,
    uncertainty: Uncertainty | None = None,
) -> Loss:
    """A `Loss` of an objective, by default `dsm()`: (params, key, batch) -> (mean loss, metrics).

    The batch is a dict: "x" (b, *d), floating; optionally "y", class labels (b,) or vectors (b, k),
    passed to the network as y=, the labels in training replaced by `null_class` with probability
    `label_dropout`; "z" (b, *d), the unit noise of each example, which is otherwise drawn; "low_res", the
    small image, or the field of the size of x, of a network with `super_resolution`; "augment" (b, 9),
    how x was moved (`score_jax.data.augment`), of a network with `augment_size`; "mask" (b, *d), False
    where x is missing (and any finite number), which `dsm` and `simple` leave out; "draw", a `Draw`
    (`score_jax.draws`), without which one is made from the key; "step" (b,), the number of the training
    step, of which `consistency_matching` makes use; and for a noise schedule "index" (b,) and "weight"
    (b,) from an `IndexSampler`, with which the metrics have "per_example", losses (b,) before weighting.
    Metrics: "loss" and the parts of the objective.

    times: a rule `times(u, t0, t1)` (`score_jax.losses.times`), by default the timesteps of a noise
    schedule and uniform times of any other SDE; stratified: over the whole batch, or independent;
    t0: the smallest time, by default 1e-5, or that of `consistency`; train: the network gets train=True
    and a key for dropout; noise_levels: the number n of intervals of the log-SNR for which the metrics
    have "loss_by_level" (2, n), sums and counts (`by_level`), 0 for none; uncertainty: a learned weight
    of the noise levels, whose parameters lie in params: the metrics then also have "unweighted", the mean
    loss before it.

    Raises ValueError for an argument of another kind, unless 0 < t0 < t1, for label dropout without a
    null class and, when traced, for integer data.

    >>> loss = training_loss(CosineBetas(), net.apply, hybrid(), noise_input=IndexInput(),
    ...                      variance=LEARNED_RANGE)
    >>> value, metrics = loss(params, jax.random.key(0), {"x": x0})
    """
    check_model(sde, apply, noise_input, parametrization, variance)
    first = _first_time(sde, parametrization, t0)
    _check_dropout(label_dropout, null_class)
    objective = dsm() if objective is None else objective
    check_function("objective", objective, "a function of a Sample, such as hybrid()")
    if times is not None:
        check_function("times", times, "a function (u, t0, t1), such as uniform_times")

    def loss(params: Params, key: Key[Array, ""], batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        drawn, draw = draw_noised(sde, key, batch, times=times, t0=first, stratified=stratified)
        given = {k: batch[k] for k in GIVEN if k in batch}
        if train and label_dropout and "y" in batch:
            null = int(null_class or 0)
            drop = lambda key, y: drop_labels(key, y, rate=label_dropout, null_class=null)
            given["y"] = draw.fold(LABELS).each(drop, batch["y"])
        kwargs = given | dropout_of(key, draw, train)

        def network(x: Data, t: PerExample) -> Float[Array, "..."]:
            inner = parametrization.to_input(sde, x, t)
            return apply(params, inner, noise_input(sde, t), **kwargs)

        sample = Sample(
            sde, parametrization, variance, network(drawn.x, drawn.t), drawn.x0, drawn.x, drawn.z,
            drawn.t, batch.get("mask"), network, given, batch.get("step"),
        )  # fmt: skip
        per_example, parts = objective(sample)
        plain = per_example
        if uncertainty is not None:
            u = uncertainty(params, sde, drawn.t)
            per_example, parts = plain * jnp.exp(-u) + u, parts | {"unweighted": plain}
        weight = batch.get("weight", jnp.ones_like(per_example))
        total = (weight * per_example).mean()
        metrics = {"loss": total} | {name: (weight * part).mean() for name, part in parts.items()}
        if noise_levels:
            found = by_level(sde, drawn.t, plain, t0=first, n=noise_levels)
            metrics["loss_by_level"] = jax.lax.stop_gradient(found)
        if "index" in batch:
            metrics["per_example"] = jax.lax.stop_gradient(per_example)
        return total, metrics

    return loss


def dsm_loss(
    sde: SDE,
    apply: Apply,
    *,
    noise_input: NoiseInput,
    parametrization: Parametrization = NOISE,
    weighting: Weighting = noise_weighting,
    reduction: Reduction = mean_reduction,
    **options: Any,
) -> Loss:
    """Denoising score matching, eq. (1) of this module, as a `Loss`.

    Batch, options and errors as for `training_loss`.

    >>> loss = dsm_loss(VP(), net.apply, noise_input=TimeInput())
    """
    return training_loss(
        sde, apply, dsm(weighting=weighting, reduction=reduction),
        noise_input=noise_input, parametrization=parametrization, **options,
    )  # fmt: skip
