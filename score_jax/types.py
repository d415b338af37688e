"""The types that hold the library together: every idea has one arrow.

A network becomes a `ScoreFn` (`score_jax.score.score_fn`), guidance maps `ScoreFn` to `ScoreFn`, a
sampler's move is a `Step`, a training objective is a `Loss`, and an `SDE` is anything with the
eight methods below. Data may have any rank: `(b, d)`, `(b, l, c)`, `(b, h, w, c)`, ...
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Key

Params = Any
Batch = Any
Metrics = dict[str, Any]

Scalar = Float[Array, ""]
PRNGKey = Key[Array, ""]
Data = Float[Array, " b *d"]
PerExample = Float[Array, " b"]
# Samplers pass a scalar time, losses one time per example.
Time = Float[Array, ""] | Float[Array, " b"]

ScoreFn = Callable[[Any, Any], Any]  # (x: (b, *d), t: () or (b,)) -> grad log p_t(x): (b, *d)
Apply = Callable[..., Any]  # module.apply: (params, x, label, ...) -> (b, *d)
Loss = Callable[[Params, Any, Batch], tuple[Any, Metrics]]


@runtime_checkable
class SDE(Protocol):
    """A diffusion dx = f(x, t) dt + g(t) dw whose p(x(t) | x0) is N(m(t) x0, s(t)^2 I)."""

    @property
    def t1(self) -> float:
        """Final time: the prior is p at `t1`."""
        ...

    def mean_coeff(self, t: Any) -> Any:
        """m(t), shape of t."""
        ...

    def std(self, t: Any) -> Any:
        """s(t), shape of t."""
        ...

    def drift(self, x: Any, t: Any) -> Any:
        """f(x, t), shape of x."""
        ...

    def diffusion(self, t: Any) -> Any:
        """g(t), shape of t."""
        ...

    def marginal(self, x0: Any, t: Any) -> tuple[Any, Any]:
        """(mean, std) of p(x(t) | x0): shapes of x0 and of t."""
        ...

    def prior_sample(self, key: Any, shape: tuple[int, ...]) -> Any:
        """A draw of the prior."""
        ...

    def prior_logp(self, z: Any) -> Any:
        """log density of the prior in nats: (b,)."""
        ...


class StepOut(NamedTuple):
    """What a `Step` returns: the new state, and the same without the noise of this step."""

    x: Any
    x_mean: Any


class Step(NamedTuple):
    """A move of a sampler over the interval (t, t_next), what it costs, and what it remembers.

    Most steps are memory-free (`init` is None) and move by

        update(key, x, t, t_next) -> StepOut

    A multistep method remembers earlier evaluations. It has `init(x, grid) -> memory`, called once
    before the first step with the whole grid of times (any pytree of arrays; it may keep the grid,
    its length or a table made of it, and so know the last step), and moves by

        update(key, x, t, t_next, memory) -> (StepOut, memory)

    with a memory of the same shapes and dtypes. `with_memory` gives every step the second form, so
    that loops and wrappers (Step -> Step) are written once.

    `nfe` is the number of network evaluations of one call. A run of n steps costs
    `nfe * n + nfe_extra`: `nfe_extra` is what the first or the last step costs more (or, negative,
    less) than the others.
    """

    update: Callable[..., Any]
    nfe: int
    init: Callable[[Any, Any], Any] | None = None
    nfe_extra: int = 0


def with_memory(step: Step) -> Step:
    """The same step in the form with a memory; a memory-free step is given an empty one.

    A wrapper keeps the memory of what it wraps without looking at it:

    >>> def halved(step):
    ...     inner = with_memory(step)
    ...     def update(key, x, t, t_next, memory):
    ...         out, memory = inner.update(key, x, t, t_next, memory)
    ...         return StepOut(out.x / 2, out.x_mean / 2), memory
    ...     return inner._replace(update=update)
    """
    if step.init is not None:
        return step

    def update(key: Any, x: Any, t: Any, t_next: Any, memory: Any) -> tuple[StepOut, Any]:
        return step.update(key, x, t, t_next), memory

    def init(x: Any, grid: Any) -> tuple[()]:
        del x, grid
        return ()

    return Step(update, step.nfe, init, step.nfe_extra)
