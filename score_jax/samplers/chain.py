"""Composition of steps: several moves over the same interval are one `Step`."""

import jax

from score_jax.types import Data, Grid, Moved, PRNGKey, State, Step, StepOut, Time


def chain(*steps: Step) -> Step:
    """One step that runs several over the same interval, in order; `chain()` changes nothing.

    Predictor-corrector sampling is `chain(langevin(...), reverse_diffusion(...))`: corrected at t,
    then taken to t_next. The evaluations add up, and every step has its own state.
    """

    def init(x: Data, grid: Grid) -> State:
        return tuple(step.init(x, grid) for step in steps)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time, states: State) -> Moved:
        out, kept = StepOut(x, x), []
        for i, (step, state) in enumerate(zip(steps, states, strict=True)):
            out, state = step.update(jax.random.fold_in(key, i), out.x, t, t_next, state)
            kept.append(state)
        return out, tuple(kept)

    return Step(init, update, sum(s.nfe for s in steps), sum(s.nfe_extra for s in steps))
