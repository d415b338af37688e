"""Composition of steps: several moves over the same interval are one `Step`."""

import jax

from score_jax.types import Step, StepOut, with_memory


def chain(*steps: Step) -> Step:
    """One step that runs several over the same interval, in order; `chain()` changes nothing.

    Predictor-corrector sampling is `chain(langevin(...), reverse_diffusion(...))`: corrected at t,
    then taken to t_next. The evaluations add up, and every step keeps a memory of its own: the chain
    has one if any of them has.
    """
    inner = tuple(with_memory(step) for step in steps)
    nfe = sum(step.nfe for step in steps)
    nfe_extra = sum(step.nfe_extra for step in steps)

    def init(x, grid):  # type: ignore[no-untyped-def]
        return tuple(step.init(x, grid) for step in inner if step.init is not None)

    def update(key, x, t, t_next, memories):  # type: ignore[no-untyped-def]
        out, kept = StepOut(x, x), []
        for i, (step, memory) in enumerate(zip(inner, memories, strict=True)):
            out, memory = step.update(jax.random.fold_in(key, i), out.x, t, t_next, memory)
            kept.append(memory)
        return out, tuple(kept)

    if any(step.init is not None for step in steps):
        return Step(update, nfe, init, nfe_extra)

    def memory_free(key, x, t, t_next):  # type: ignore[no-untyped-def]
        return update(key, x, t, t_next, ((),) * len(inner))[0]

    return Step(memory_free, nfe, None, nfe_extra)
