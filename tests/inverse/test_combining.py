"""Operators made of operators, one for each example, missing values, other noise, wrong adjoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.analytic import gaussian, importance_posterior
from score_jax.inverse import (
    BlockAverage,
    Blur,
    FanBeam,
    Fourier,
    Laplace,
    Linear,
    LinearOperator,
    Mask,
    Measurement,
    MultiCoil,
    Nonlinear,
    Poisson,
    Radon,
    Rounded,
    add,
    check_adjoint,
    compose,
    dense,
    each,
    exact_posterior,
    exact_posteriors,
    gaussian_kernel,
    log_evidence,
    matrix_of,
    measure,
    measurement_logp,
    phase_retrieval,
    pigdm,
    posterior_sample,
    quantization,
    stack,
    twisted_smc,
    without_missing,
)
from score_jax.samplers import ddim, log_snr_grid
from tests.inverse.test_inverse import SDE

RNG = np.random.default_rng(0)
SHAPE = (4, 4, 1)
BLUR, BLOCKS = Blur(gaussian_kernel(3, 0.7)), BlockAverage(2)
MASKS = RNG.random((3, *SHAPE)) < 0.5
COMPLEX = RNG.normal(size=(3, 4, 4)) + 1j * RNG.normal(size=(3, 4, 4))
KMASK = RNG.random((4, 4)) < 0.5
LINEAR = {  # operator, shape
    "chain": (compose(BLOCKS, BLUR), SHAPE),
    "sum": (add(BLUR, Linear(lambda x: 2 * x, SHAPE)), SHAPE),
    "stack": (stack(BLUR, BLOCKS, shape=SHAPE), SHAPE),
    "each": (each(Mask(MASKS)), SHAPE),
    "each_chain": (each(compose(Mask(MASKS), Blur(RNG.random((3, 2, 2))))), SHAPE),
    "coils": (MultiCoil(KMASK, COMPLEX.astype(np.complex64)), (4, 4, 2)),
    "radon": (Radon((0, 30, 100), 4), (4, 4, 2)),
    "fan": (FanBeam((0, 40, 200), 4, source=8.0, count=6), (4, 4, 2)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_adjoints_are_adjoints(name):
    operator, shape = LINEAR[name]
    assert check_adjoint(operator, shape) < 1e-5
    assert operator.data_shape(operator.out_shape(shape)) == shape


def test_combined_operators_are_their_matrices():
    a, b = matrix_of(BLUR, SHAPE), matrix_of(BLOCKS, SHAPE)
    np.testing.assert_allclose(matrix_of(LINEAR["chain"][0], SHAPE), b @ a, atol=1e-6)
    np.testing.assert_allclose(matrix_of(LINEAR["sum"][0], SHAPE), a + 2 * np.eye(16), atol=1e-6)
    np.testing.assert_allclose(matrix_of(LINEAR["stack"][0], SHAPE), np.vstack([a, b]), atol=1e-6)
    square = Nonlinear(jnp.square, SHAPE)
    x = jnp.asarray(RNG.normal(size=(2, *SHAPE)), jnp.float32)
    for made in (compose(square, BLUR), add(square, BLUR), stack(square, BLUR, shape=SHAPE)):
        assert not isinstance(made, LinearOperator)
        assert made.forward(x).shape[0] == 2


@pytest.mark.slow
def test_every_example_may_have_a_mask_of_its_own():
    """Posterior draws, exact posteriors and particles use the mask of their example."""
    data = gaussian(np.zeros(SHAPE), 0.3 * np.eye(16) + 0.2)
    x0 = data.sample(jax.random.key(0), 3)
    ys = measure(jax.random.key(1), each(Mask(MASKS)), x0)
    out = posterior_sample(
        jax.random.key(2), SDE, data.score(SDE), ys, pigdm, grid=log_snr_grid(SDE, 5), sampler=ddim,
        chunk=2, progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(out.x[MASKS], np.asarray(x0)[MASKS], atol=1e-5)
    noisy = measure(jax.random.key(1), each(Mask(MASKS)), x0, noise_std=0.3)
    truths, evidence = exact_posteriors(data, noisy), log_evidence(data, noisy)
    for i, truth in enumerate(truths):
        one = Measurement(Mask(MASKS[i]), noisy.y[i : i + 1], 0.3)
        np.testing.assert_allclose(truth.mean, exact_posterior(data, one).mean)
        assert evidence[i] == pytest.approx(log_evidence(data, one)[0])
    found = twisted_smc(
        jax.random.key(3), SDE, data.score(SDE), noisy, grid=log_snr_grid(SDE, 30), particles=400,
        islands=2, data_std=0.7, progress=False,
    ).found  # fmt: skip
    for one, truth in zip(found, truths, strict=True):
        assert np.abs(one.mean - truth.mean).max() < 0.25
    # At one time an example, too.
    t = jnp.asarray([0.1, 0.3, 0.6])
    whole = pigdm(SDE, data.score(SDE), noisy)
    single = pigdm(SDE, data.score(SDE), Measurement(Mask(MASKS[1]), noisy.y[1:2], 0.3))
    both = jax.jit(lambda x, t: (whole(x, t)[1:2], single(x[1:2], t[1])))
    np.testing.assert_allclose(*both(x0, t), atol=1e-4)


def test_missing_values_are_left_out():
    data = gaussian(np.zeros(SHAPE), 0.3 * np.eye(16) + 0.2)
    for operator in (BLOCKS, Mask(MASKS[0]), each(Mask(MASKS[:2] | True))):
        ys = measure(jax.random.key(1), operator, data.sample(jax.random.key(0), 2), noise_std=0.1)
        y = np.array(ys.y)
        y[0, 0, 0, 0] = np.nan
        found = exact_posteriors(data, without_missing(operator, y, 0.1))
        # A copy in which the entry has a huge variance instead: the row is taken out by hand.
        a = matrix_of(operator.example(0) if hasattr(operator, "example") else operator, SHAPE)
        kept = (np.arange(len(a)) > 0) & (abs(a).sum(axis=1) > 0)
        want = data.posterior(a[kept], y[0].reshape(-1)[kept], 0.1)
        np.testing.assert_allclose(found[0].mean, want.mean, atol=1e-6)
    assert without_missing(BLOCKS, np.ones((1, 2, 2, 1)), 0.1).operator is BLOCKS
    with pytest.raises(ValueError, match="only NaN in example"):
        without_missing(BLOCKS, np.full((1, 2, 2, 1), np.nan), 0.1)


def test_scanners_agree_with_their_simple_cases():
    """One even coil is Fourier; a fan of a far source is parallel; magnitudes forget a shift."""
    x = jnp.asarray(RNG.normal(size=(2, 4, 4, 2)), jnp.float32)
    one = MultiCoil(KMASK, np.ones((1, 4, 4), np.complex64)).forward(x)
    np.testing.assert_allclose(one[:, 0], Fourier(KMASK, complex_image=True).forward(x), atol=1e-6)
    for scanner in (
        MultiCoil(KMASK, COMPLEX.astype(np.complex64)),
        Fourier(KMASK, complex_image=True),
    ):
        k = scanner.forward(x)
        np.testing.assert_array_equal(scanner.measured(k), k)
        assert float(scanner.measured(jnp.ones_like(k)).mean()) == pytest.approx(KMASK.mean())
    parallel = Radon((0, 30, 75), 4)
    far = FanBeam((0, 30, 75), 4, source=1e5, count=parallel.detectors)
    np.testing.assert_allclose(far.forward(x), parallel.forward(x), atol=1e-2)
    magnitudes = phase_retrieval((4, 4, 1), oversampling=1)
    np.testing.assert_allclose(
        magnitudes.forward(x[..., :1]), magnitudes.forward(-jnp.roll(x[..., :1], 1, axis=1)), atol=1e-5
    )  # fmt: skip
    assert np.isfinite(
        jax.grad(lambda v: magnitudes.forward(v).sum())(jnp.zeros((1, 4, 4, 1)))
    ).all()


def test_quantisation_keeps_images_of_its_own():
    """Twice is once; the best quality changes little; a flat block stays flat; gradients pass."""
    x = jnp.asarray(RNG.uniform(-1, 1, size=(2, 8, 16, 1)), jnp.float32)
    rough, fine = quantization((8, 16, 1), quality=20), quantization((8, 16, 1), quality=100)
    np.testing.assert_allclose(rough.forward(rough.forward(x)), rough.forward(x), atol=1e-5)
    assert abs(fine.forward(x) - x).max() < 0.02 < 0.1 < abs(rough.forward(x) - x).max()
    assert float(jnp.ptp(rough.forward(jnp.full((1, 8, 16, 1), 0.3)))) < 1e-5
    slope = jax.grad(lambda v: rough.forward(v).sum())(x)
    np.testing.assert_allclose(slope, 1, atol=1e-5)


def test_noises_are_the_distributions_they_say():
    clean = jnp.full((4000, 2), 0.5)
    for noise, std in ((Poisson(30.0), np.sqrt(0.5 / 30)), (Laplace(0.1), 0.1 * np.sqrt(2))):
        y = np.asarray(noise.draw(jax.random.key(0), clean))
        assert y.mean() == pytest.approx(0.5, abs=0.01)
        assert y.std() == pytest.approx(std, rel=0.05) == pytest.approx(noise.std(clean), rel=0.05)
    counts = jnp.arange(100.0)[:, None]
    total = jnp.exp(Poisson(1.0).logp(counts, jnp.full((100, 1), 7.0))).sum()
    assert float(total) == pytest.approx(1, abs=1e-4)
    rounded = Rounded(0.25, 0.1)
    drawn = np.asarray(rounded.draw(jax.random.key(1), jnp.full((4000, 1), 0.31)))
    cells = np.arange(-4, 9) * 0.25
    share = (drawn == cells[None]).mean(axis=0)
    np.testing.assert_allclose(np.exp(rounded.logp(jnp.asarray(cells), 0.31)), share, atol=0.03)
    assert rounded.std(None) == pytest.approx((0.01 + 0.0625 / 12) ** 0.5)
    slope = jax.grad(lambda v: rounded.logp(jnp.asarray(0.25), v))
    assert slope(jnp.asarray(3.0)) < -100 and abs(slope(jnp.asarray(0.25))) < 1e-3
    dark = Poisson(30.0, zero=-1.0)
    np.testing.assert_allclose(dark.logp(y - 1, clean - 1), Poisson(30.0).logp(y, clean), rtol=1e-4)
    at = jnp.linspace(-3, 4, 4001)[:, None]
    assert float(jnp.exp(Laplace(0.2).logp(at, 0.5)).sum() * 7 / 4000) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_particles_follow_the_likelihood_of_any_noise():
    """Poisson counts of positive data, against importance sampling from the prior."""
    data = gaussian([1.0, 1.5], [[0.1, 0.05], [0.05, 0.15]])
    y = measure(
        jax.random.key(0), dense([[1.0, 1.0]]), jnp.asarray([[1.4, 1.9]]), noise=Poisson(8.0)
    )
    logp = measurement_logp(y)
    truth = importance_posterior(jax.random.key(1), data, lambda x: logp(x, jnp.zeros(())), 50_000)
    found = twisted_smc(
        jax.random.key(2), SDE, data.score(SDE), y, grid=log_snr_grid(SDE, 40), particles=500,
        data_std=0.35, progress=False,
    ).found[0]  # fmt: skip
    np.testing.assert_allclose(found.mean, truth.mean, atol=0.04)
    np.testing.assert_allclose(found.std, truth.std, rtol=0.1)
    assert found.log_evidence == pytest.approx(truth.log_evidence, abs=0.1)


WHITE = gaussian(np.zeros(SHAPE), np.eye(16))
HEAVY = Measurement(BLUR, np.ones((1, *SHAPE)), 0.1, Laplace(1.0))


class Wrong(LinearOperator):
    """An adjoint that forgets its factor."""

    def forward(self, x):
        return 2 * x

    def adjoint(self, v):
        return v


class Bent(LinearOperator):
    """Not linear, whatever it says."""

    def forward(self, x):
        return x + 1

    def adjoint(self, v):
        return v


class Flat(Wrong):
    """An adjoint that does not take what the operator measures."""

    def adjoint(self, v):
        return v.reshape(-1, 2)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: check_adjoint(Wrong(), (3,)), "adjoint of Wrong is not one"),
        (lambda: check_adjoint(Flat(), (3,)), "adjoint of Flat does not take measurements"),
        (lambda: check_adjoint(Bent(), (3,)), "Bent is not linear"),
        (lambda: check_adjoint(Nonlinear(jnp.square, (3,)), (3,)), "must be a LinearOperator"),
        (lambda: compose(BLUR, "blur"), "inner must be an Operator"),
        (lambda: stack(shape=SHAPE), "at least one operator"),
        (lambda: stack(BLOCKS, shape=(3, 3, 1)), "divisible"),
        (lambda: each(BLOCKS), "must all have b entries"),
        (lambda: each(Mask(np.concatenate([MASKS, MASKS & False]))), "True for an entry of each"),
        (lambda: MultiCoil(KMASK, np.ones((2, 4, 4))), "must be complex"),
        (lambda: MultiCoil(KMASK, np.ones((2, 3, 4), complex)), r"\(coils, h, w\)"),
        (lambda: FanBeam((0,), 8, source=3.0, count=4), "source must be outside"),
        (lambda: phase_retrieval((4, 4)), "shape must be"),
        (lambda: quantization((4, 8, 1)), "multiples of 8"),
        (lambda: quantization((8, 8, 1), quality=101), "quality must be"),
        (lambda: Poisson(0.0), "gain must be > 0"),
        (lambda: Laplace(-1.0), "scale must be > 0"),
        (lambda: Rounded(0.1, 0.0), "normal must be > 0"),
        (lambda: Poisson(1.0, zero=np.nan), "zero must be finite"),
        (lambda: Measurement(BLUR, np.ones((1, *SHAPE)), 0.1, "poisson"), "noise must be a Noise"),
        (lambda: exact_posterior(WHITE, HEAVY), "noise must be normal"),
    ],
    ids=[
        "adjoint", "flat", "bent", "square", "text", "no_parts", "part", "no_arrays", "empty_mask",
        "real", "coil_shape", "source", "phase", "blocks", "quality", "gain", "scale", "rounded", "zero",
        "noise", "exact_noise",
    ],
)  # fmt: skip
def test_wrong_use_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
