r"""Holding the measured part: replacement after every step, correctors in between, RePaint.

In the singular vectors of A = U S V^T the measured coordinates of x0 are c = V^T x0, seen as
y_i / S_i = c_i + (sigma / S_i) n_i. At time t they should be m c + s z, so after a step that ends at t

    (1)  c <- m y_i / S_i + sqrt(s^2 - (m sigma / S_i)^2) z,     z fresh or kept

and the other coordinates stay: the known part is noised to the level after the step. The noise of
the measurement is part of that noise; once it exceeds it (m sigma > s S_i), the coordinate is released
and denoised with the rest. Without noise (1) is the imputation of
arXiv:2011.13456 app. I.2. The mean of the step is treated in the same way without z, so that denoising
works. With fresh noise in every step the known and the unknown part disagree a little, which Langevin
moves at the new level (`corrections`) or RePaint's repetitions (arXiv:2201.09865) correct.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_jax._check import check_count, check_positive
from score_jax._math import as_time, bcast
from score_jax.inverse.measurement import Measurement, consistent, spectral
from score_jax.inverse.methods import Conditional, linear
from score_jax.inverse.operators import Mask, SpectralOperator
from score_jax.samplers.langevin import annealed_size, moves
from score_jax.types import (
    SDE,
    Data,
    Grid,
    Moved,
    PRNGKey,
    ScoreFn,
    State,
    Step,
    StepOut,
    Time,
)


class _Hold(NamedTuple):
    """Eq. (1): `known(x, t, z)`, the state whose measured coordinates are as they should be."""

    sde: SDE
    measurement: Measurement
    strength: float

    def known(self, x: Data, t: Time, z: Data | None) -> Data:
        """x with the measured coordinates at level t; z None: without noise."""
        m, s = (c.astype(x.dtype) for c in (self.sde.mean_coeff(t), self.sde.std(t)))
        y = jnp.asarray(self.measurement.y, x.dtype)
        sigma = self.measurement.noise_std
        if sigma == 0:
            operator = linear(self.measurement)
            noisy = x if z is None else x - s * z  # A x - s A z in one
            moved = operator.pinv(m * y - operator.forward(noisy))
        else:
            operator = spectral(self.measurement)
            held = lambda v: (m * sigma <= s * v).astype(x.dtype)
            moved = operator.filter(y, lambda v: held(v) * m / v) - operator.filter_data(x, held)
            if z is not None:
                rest = lambda v: jnp.sqrt(jnp.maximum(s**2 - jnp.square(m * sigma / v), 0))
                moved = moved + operator.filter_data(z, lambda v: held(v) * rest(v))
        if self.strength == 1 and isinstance(self.measurement.operator, Mask) and sigma == 0:
            target = m * y if z is None else m * y + s * z
            return jnp.where(self.measurement.operator.mask[None], target, x)  # to the bit
        return x + self.strength * moved

    def both(self, out: StepOut, t: Time, z: Data) -> StepOut:
        """The state and its mean, the latter without noise."""
        return StepOut(self.known(out.x, t, z), self.known(out.x_mean, t, None))

    def unknown(self, move: Data) -> Data:
        """The part of a move that the measurement does not determine."""
        operator = linear(self.measurement)
        if isinstance(operator, SpectralOperator):
            return move - operator.filter_data(move, jnp.ones_like)
        return move - operator.pinv(operator.forward(move))


def replacement(
    sde: SDE,
    score: ScoreFn,
    measurement: Any,
    *,
    fresh: bool = True,
    strength: float = 1.0,
    corrections: int = 0,
    snr: float = 0.16,
) -> Conditional:
    """After each step the measured part is replaced, noised to the level after it: eq. (1).

    Works with any step, also with few steps and steps without noise: with `fresh` False the known part
    keeps the noise of the start, as the probability flow would. `corrections` Langevin moves of the
    unknown part at the new level, of step size 2 (snr s)^2, make it agree with the known one, at one
    evaluation each; `strength` below 1 goes only part of the way
    (arXiv:2111.08005). A noisy measurement needs a `SpectralOperator`, and a step that draws noise for
    the spread of the known part to be right.

    Raises ValueError for an operator that does not fit, strength outside (0, 1], corrections < 0.

    >>> conditional = replacement(sde, score, Measurement(Mask(mask), images), corrections=1)
    >>> step = conditional.step(reverse_diffusion(sde, conditional))
    """
    hold = _hold(sde, measurement, strength)
    check_positive(snr=snr)
    check_count(0, corrections=corrections)
    corrector = moves(score, 1, annealed_size(sde, snr))

    def correct(key: PRNGKey, out: StepOut, t: Time) -> StepOut:
        def once(i: Any, out: StepOut) -> StepOut:
            moved = corrector(jax.random.fold_in(key, i), out.x, t)
            known = out.x_mean - hold.unknown(out.x_mean)
            x = out.x + hold.unknown(moved.x - out.x)
            return StepOut(x, known + hold.unknown(moved.x_mean))

        return jax.lax.fori_loop(0, corrections, once, out) if corrections else out

    def wrap(step: Step) -> Step:
        def init(x: Data, grid: Grid) -> State:
            # The noise of the start in the known coordinates.
            t = as_time(grid[0])
            start = hold.known(jnp.zeros_like(x), t, None)
            return step.init(x, grid), None if fresh else (x - start) / bcast(sde.std(t), x)

        def update(key: PRNGKey, x: Data, t: Time, t_next: Time, state: State) -> Moved:
            step_key, noise_key, correct_key = jax.random.split(key, 3)
            inside, kept = state
            out, inside = step.update(step_key, x, t, t_next, inside)
            z = jax.random.normal(noise_key, x.shape, x.dtype) if kept is None else kept
            t_next = as_time(t_next)
            out = correct(correct_key, hold.both(out, t_next, z), t_next)
            return out, (inside, kept)

        return Step(init, update, step.nfe + corrections, step.nfe_extra)

    return Conditional(score, wrap, partial(consistent, measurement))


def repaint(
    sde: SDE,
    score: ScoreFn,
    measurement: Any,
    *,
    resamplings: int = 10,
    jump: int = 1,
) -> Conditional:
    """RePaint: every interval is traversed `resamplings` times, with noise added in between.

    Each interval of the grid is cut into `jump` equal steps, each followed by replacement with fresh
    noise; all but the last time the state is taken back up by the forward transition, so that the
    known and the unknown part agree better. arXiv:2201.09865 with its jump length `jump` (its grid of
    n steps is one of n / jump intervals here). Costs resamplings * jump times the evaluations. For
    measurements without noise, and steps that do not depend on earlier ones.

    Raises ValueError for an operator that does not fit, noise and numbers below 1, and, when traced, for
    a step that changes its state.

    >>> conditional = repaint(sde, score, Measurement(Mask(mask), images), resamplings=5)
    >>> step = conditional.step(ancestral(sde, conditional))
    """
    hold = _hold(sde, measurement, 1.0)
    if measurement.noise_std > 0:
        raise ValueError(f"repaint is for noise_std 0, got {measurement.noise_std}: use pigdm")
    check_count(resamplings=resamplings, jump=jump)

    def wrap(step: Step) -> Step:
        def init(x: Data, grid: Grid) -> State:
            # The times that the steps visit: each interval in `jump` parts.
            times = grid[:-1, None] + jnp.diff(grid)[:, None] * (jnp.arange(jump) / jump)[None]
            return step.init(x, jnp.append(times.reshape(-1), grid[-1]))

        def down(key: PRNGKey, x: Data, t: Time, t_next: Time, state: State) -> StepOut:
            def once(i: Any, out: StepOut) -> StepOut:
                step_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
                here, there = (t + (t_next - t) * ((i + k) / jump) for k in (0, 1))
                # The last one ends exactly at the end of the interval.
                there = jnp.where(i == jump - 1, t_next, there)
                out, after = step.update(step_key, out.x, here, there, state)
                _check_constant(state, after)
                z = jax.random.normal(noise_key, x.shape, x.dtype)
                return hold.both(out, there, z)

            return jax.lax.fori_loop(0, jump, once, StepOut(x, x))

        def update(key: PRNGKey, x: Data, t: Time, t_next: Time, state: State) -> Moved:
            t, t_next = as_time(t), as_time(t_next)
            a, variance = sde.transition(t, t_next)

            def again(i: Any, x: Data) -> Data:
                down_key, up_key = jax.random.split(jax.random.fold_in(key, i))
                x = down(down_key, x, t, t_next, state).x
                z = jax.random.normal(up_key, x.shape, x.dtype)
                return bcast(a, x) * x + bcast(jnp.sqrt(variance), x) * z

            x = jax.lax.fori_loop(0, resamplings - 1, again, x)
            return down(jax.random.fold_in(key, resamplings), x, t, t_next, state), state

        return Step(init, update, step.nfe * resamplings * jump, step.nfe_extra * resamplings)

    return Conditional(score, wrap, partial(consistent, measurement))


def _check_constant(before: State, after: State) -> None:
    """Raise ValueError unless a step returned the state that it was given, that of the grid."""
    if any(a is not b for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)):
        raise ValueError(
            "repaint needs a step without a state that changes, such as ancestral or ddim: after x has "
            "been noised up again, a multistep method's past no longer belongs to it"
        )


def _hold(sde: SDE, measurement: Any, strength: float) -> _Hold:
    linear(measurement)
    if measurement.noise_std > 0:
        spectral(measurement)
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], got {strength!r}")
    return _Hold(sde, measurement, strength)
