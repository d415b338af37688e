"""The types that hold the library together: every idea has one arrow.

A network becomes a `ScoreFn` (`score_jax.score.score_fn`), guidance maps `ScoreFn` to `ScoreFn`, a
sampler's move is a `Step`, a training objective is a `Loss`, and an `SDE` is anything with the
methods below (`score_jax.sde.LinearSDE` derives all of them from two). Data may have any rank:
`(b, d)`, `(b, l, c)`, `(b, h, w, c)`, ...
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, SupportsIndex, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from score_jax._check import check_score
from score_jax._renamed import renamed

Params = Any
Batch = Any
Metrics = dict[str, Any]

Scalar = Float[Array, ""]
PRNGKey = Key[Array, ""]
Data = Float[Array, " b *d"]
PerExample = Float[Array, " b"]
# Samplers pass a scalar time, losses one time per example.
Time = Float[Array, ""] | Float[Array, " b"]
TimeLike = float | Time
Coefficient = Float[Array, "..."]  # of an SDE: shape of the time
Number = float | np.floating[Any] | np.ndarray | Array  # one number as given by a user
Grid = Float[Array, " n"]  # decreasing times
GridLike = ArrayLike | Sequence[ArrayLike]  # the same as given by a user

# (x: (b, *d), t: () or (b,)) -> grad log p_t(x): (b, *d), or a `ScoreOut` with more than that.
ScoreFn = Callable[[Any, Any], Any]
Apply = Callable[..., Any]  # module.apply: (params, x, noise_input, ...) -> (b, *d)
Loss = Callable[[Params, Any, Batch], tuple[Any, Metrics]]
# (x0, mean, log_variance) -> log p(x0) in nats, all of the shape of x0.
Decoder = Callable[[Any, Any, Any], Any]


class Clean(NamedTuple):
    """The mean of x0 given x, as a network returns it, and the score that belongs to it: (b, *d)."""

    x0: Any
    score: Any


class ScoreOut(NamedTuple):
    """A score (b, *d) and what is returned with it, each None where there is nothing.

    variance: the network's output for the variance of a step, of the same shape; clean: the mean of x0,
    for processes whose last state is pure noise, where it does not follow from the score. A wrapper may
    replace `score` alone: `score_jax.score.x0_of` adds the effect of the change on x0.
    """

    score: Any
    variance: Any = None
    clean: Clean | None = None


def score_out(score: ScoreFn, x: Data, t: TimeLike) -> ScoreOut:
    """Evaluate a score at x (b, *d) and t: `ScoreOut`. Raises ValueError as `score_at`."""
    check_score(score)
    value = score(x, t)
    out = value if isinstance(value, ScoreOut) else ScoreOut(value)
    if jnp.shape(out.score) != jnp.shape(x):
        raise ValueError(
            f"score must return the shape of x, {jnp.shape(x)}, got {jnp.shape(out.score)}"
        )
    return out


def as_returned(out: ScoreOut) -> Data | ScoreOut:
    """The result of a wrapper of a score: the array alone if nothing else is known."""
    return out.score if out.variance is None and out.clean is None else out


def score_at(score: ScoreFn, x: Data, t: TimeLike) -> Data:
    """Evaluate a score at x (b, *d) and t: shape of x. All samplers and bounds call scores by this.

    Raises ValueError where it returns another shape, which broadcasting would hide: while tracing, and
    at no cost at run time.

    >>> score_at(lambda x, t: -x[:, :1], jnp.ones((4, 2)), 0.5)  # ValueError: score must return ...
    """
    return score_out(score, x, t).score


@runtime_checkable
class SDE(Protocol):
    """A diffusion dx = f(x, t) dt + g(t) dw whose p(x(t) | x0) is N(m(t) x0, s(t)^2 I)."""

    @property
    def t1(self) -> float:
        """Final time: the prior is p at `t1`."""
        ...

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior."""
        ...

    def mean_coeff(self, t: TimeLike) -> Coefficient:
        """m(t), shape of t."""
        ...

    def std(self, t: TimeLike) -> Coefficient:
        """s(t), shape of t."""
        ...

    def log_snr(self, t: TimeLike) -> Coefficient:
        """2 log(m(t) / s(t)), shape of t."""
        ...

    def time_of_log_snr(self, value: TimeLike) -> Coefficient:
        """The t with log_snr(t) = value, shape of value."""
        ...

    def drift(self, x: Data, t: TimeLike) -> Data:
        """f(x, t), shape of x."""
        ...

    def diffusion(self, t: TimeLike) -> Coefficient:
        """g(t), shape of t."""
        ...

    def transition(self, t: TimeLike, t_next: TimeLike) -> tuple[Coefficient, Coefficient]:
        """(A, G^2) of x(t) = A x(t_next) + G z, t_next <= t: shape of t."""
        ...

    def marginal(self, x0: Data, t: TimeLike) -> tuple[Data, Coefficient]:
        """(mean, std) of p(x(t) | x0): shapes of x0 and of t."""
        ...

    def prior_sample(self, key: PRNGKey, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
        """A draw of the prior."""
        ...

    def prior_logp(self, z: Data) -> PerExample:
        """log density of the prior in nats: (b,)."""
        ...


def check_sde(sde: object) -> None:
    """Raise ValueError unless `sde` is an `SDE`, not a class of them."""
    if not isinstance(sde, SDE) or isinstance(sde, type):
        raise ValueError(f"sde must be an SDE, such as VP(), got {sde!r:.60}")


def ends_in_noise(sde: SDE) -> bool:
    """Whether the last state is pure noise, m(t1) = 0, as that of a rectified flow.

    There x0 does not follow from the score: it has to come from the network (`ScoreOut.clean`).
    """
    with jax.ensure_compile_time_eval():
        return not float(sde.mean_coeff(jnp.asarray(sde.t1))) > 0


def check_process(sde: object, score: object) -> None:
    """Raise ValueError unless they are an SDE and a score, in this order."""
    check_sde(sde)
    check_score(score)


@runtime_checkable
class Source(Protocol):
    """Examples by number: Grain's `RandomAccessDataSource` with a description beside it.

    A source may also have `__getitems__(indices)`, which gives several examples at once, stacked:
    `score_jax.data.take` uses it where it is there.
    """

    @property
    def description(self) -> Any:
        """What the examples look like: a `score_jax.data.Description`."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex, /) -> Mapping[str, Any]:
        """{"x": (*d,)} and, where the source has them, "y" (), "cond" and "mask"."""
        ...


class IndexSampler(NamedTuple):
    """A distribution of the indices of a noise schedule that learns from the losses.

    Its state is any pytree of arrays; training carries it in `TrainState`. init() -> state;
    draw(state, key, b) -> (index (b,), weight (b,)); update(state, index (b,), losses (b,)) -> state,
    where index and losses are those of the whole batch.
    """

    init: Callable[[], Any]
    draw: Callable[[Any, PRNGKey, int], tuple[Any, Any]]
    update: Callable[[Any, Any, Any], Any]


class Restored(NamedTuple):
    """A checkpoint: its step, state, state of the data iterator (or None), and the caller's value.

    progress: what the training loop noted of the run (None in checkpoints of older versions).
    """

    step: int
    state: Any
    data: Any
    extra: Any
    progress: Any = None


@runtime_checkable
class CheckpointStore(Protocol):
    """Where training saves and resumes: `checkpoints.Checkpoints`, `training.SharedCheckpoints`."""

    @property
    def folder(self) -> Any:
        """Where the checkpoints are."""
        ...

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        ...

    def save(
        self,
        step: int,
        state: Any,
        *,
        data_iterator: Any = None,
        extra: Any = None,
        progress: Any = None,
        score: float | None = None,
    ) -> bool:
        """Save a state in the background; False if the step is there already."""
        ...

    def restore_latest(self, template: Any, *, data_iterator: Any = None) -> Restored | None:
        """The newest intact checkpoint, or None."""
        ...

    def wait(self) -> None:
        """Wait for the save in the background; raise what it raised."""
        ...


class StepOut(NamedTuple):
    """The result of a step: the new x (b, *d), and the same without the noise drawn in this step."""

    x: Data
    x_mean: Data


State = Any  # of a step: any tree of arrays


Moved = tuple[StepOut, State]  # the result of an update


class Step(NamedTuple):
    """A move of a sampler over the interval (t, t_next), and its cost.

        init(x, grid) -> state
        update(key, x, t, t_next, state) -> (StepOut, state)

    `init` is called once, before the first step, with the whole grid of times. The state holds what
    the step needs of the grid and of earlier steps: any tree of arrays, whose shapes and dtypes
    `update` must keep. `stateless` makes a step of an update that needs neither.

    `nfe` is the number of network evaluations of one update. A run of n steps costs
    `nfe * n + nfe_extra`; `nfe_extra` is the difference made by the first or the last step.

    A wrapper of steps passes the state on:

    >>> def halved(step):
    ...     def update(key, x, t, t_next, state):
    ...         out, state = step.update(key, x, t, t_next, state)
    ...         return StepOut(out.x / 2, out.x_mean / 2), state
    ...     return step._replace(update=update)
    """

    init: Callable[[Data, Grid], State]
    update: Callable[[PRNGKey, Data, Time, Time, State], Moved]
    nfe: int
    nfe_extra: int = 0


def stateless(update: Callable[[PRNGKey, Data, Time, Time], StepOut], nfe: int) -> Step:
    """Make a `Step` of `update(key, x, t, t_next) -> StepOut`, which needs no state.

    >>> step = stateless(lambda key, x, t, t_next: StepOut(x, x), nfe=0)
    """

    def init(x: Data, grid: Grid) -> State:
        del x, grid
        return ()

    def with_state(key: Any, x: Data, t: Time, t_next: Time, state: State) -> Moved:
        return update(key, x, t, t_next), state

    return Step(init, with_state, nfe)


class SampleOut(NamedTuple):
    """Samples x (b, *d), the same without the last noise, their cost, and the path.

    nfe: network evaluations per sample; trajectory: (k, b, *d), the states after every
    `save_every` steps and after the last, or None.
    """

    x: Data
    x_mean: Data
    nfe: int | Int[Array, "..."]
    trajectory: Float[Array, "k b *d"] | None


@runtime_checkable
class Sampler(Protocol):
    """A way from latents at the first time of a grid to samples at its last.

    `sample` compiles one program for all samplers that are equal: use a frozen dataclass.
    """

    def run(
        self,
        key: PRNGKey,
        sde: SDE,
        score: ScoreFn,
        x: Data,
        grid: Grid,
        save_every: int | None = None,
    ) -> SampleOut:
        """Take x (b, *d) along the grid; traced by `sample`."""
        ...


__getattr__ = renamed(__name__)
