"""Operators agree with their own matrices: forward, adjoint, pseudo-inverse, ridge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import inverse
from score_jax.inverse import (
    BlockAverage,
    Blur,
    ChannelMix,
    Fourier,
    Linear,
    Mask,
    Measurement,
    Nonlinear,
    Radon,
    as_matrix,
    dense,
    gaussian_kernel,
    grayscale,
    matrix_of,
    measure,
)
from score_jax.inverse.measurement import check_measurement

RNG = np.random.default_rng(0)
LOPSIDED = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.0]]) / 4.5
# Operator, shape of an example, share of the largest singular value that counts as none.
OPERATORS = {
    "mask": (Mask(RNG.random((4, 3, 2)) < 0.5), (4, 3, 2), 1e-6),
    "grayscale": (grayscale(3), (3, 2, 3), 1e-6),
    "mix": (ChannelMix([[1.0, 0.0], [0.5, 1.0], [0.0, 0.2]]), (3, 3), 1e-6),
    "blocks": (BlockAverage(2), (4, 6, 2), 1e-6),
    "blocks_of_a_series": (BlockAverage(3), (6, 1), 1e-6),
    "blur": (Blur(LOPSIDED), (4, 5, 2), 1e-2),
    "strong_blur": (Blur(gaussian_kernel(5, 2.0), cutoff=0.1), (6, 6, 1), 0.1),
    "fourier": (Fourier(RNG.random((4, 5)) < 0.5), (4, 5, 2), 1e-6),
    "complex_fourier": (Fourier(RNG.random((4, 5)) < 0.5, complex_image=True), (4, 5, 2), 1e-6),
    "differences": (Linear(lambda x: x[:, 1:] - 2 * x[:, :-1], (6,)), (6,), 1e-6),
    "radon": (as_matrix(Radon((0, 30, 90), 4), (4, 4, 1)), (4, 4, 1), 1e-3),
    "dense": (dense(RNG.normal(size=(3, 5))), (5,), 1e-6),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_its_matrix(name):
    operator, shape, cutoff = OPERATORS[name]
    a = matrix_of(operator, shape)
    out = operator.out_shape(shape)
    assert operator.data_shape(out) == shape
    assert a.shape == (np.prod(out), np.prod(shape))
    x, v = (RNG.normal(size=(3, *s)).astype(np.float32) for s in (shape, out))

    @jax.jit
    def all_of(x, v):
        ridges = [operator.ridge(v, *w) for w in ((0.7, 0.2), (jnp.full(3, 0.7), jnp.full(3, 0.2)))]
        return operator.forward(x), operator.adjoint(v), operator.pinv(v), *ridges

    flat = lambda z: np.asarray(z, np.float64).reshape(3, -1)
    there, back, pinv, ridge, each = map(flat, all_of(x, v))
    np.testing.assert_allclose(there, flat(x) @ a.T, atol=1e-5)
    np.testing.assert_allclose(back, flat(v) @ a, atol=1e-5)
    u, s, vh = np.linalg.svd(a, full_matrices=False)
    told = s > cutoff * s.max()
    u, s, vh = u[:, told], s[told], vh[told]
    inverse = flat(v) @ u / s @ vh
    # Small singular values multiply the rounding of float32.
    np.testing.assert_allclose(pinv, inverse, atol=1e-4 * np.abs(inverse).max())
    shrunk = flat(v) @ u * (s / (0.7 * s**2 + 0.2)) @ vh
    np.testing.assert_allclose(ridge, shrunk, atol=1e-5)
    np.testing.assert_allclose(each, shrunk, atol=1e-5)


def test_a_blur_and_its_kernel_agree():
    """One bright pixel shows the kernel, its middle where the pixel was."""
    x = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
    np.testing.assert_allclose(Blur(LOPSIDED).forward(x)[0, 1:4, 1:4, 0], LOPSIDED, atol=1e-6)
    assert gaussian_kernel(5, 1.0).sum() == pytest.approx(1, abs=1e-6)


def test_line_integrals_of_a_disc():
    """Those of a disc of radius r at distance d are 2 sqrt(r^2 - d^2), under every angle."""
    size, radius = 33, 12.0
    at = np.arange(size) - 16
    disc = (np.hypot(at[:, None], at[None]) < radius).astype(np.float32)
    operator = Radon((0, 25, 90, 140), size)
    y = np.asarray(operator.forward(jnp.asarray(disc)[None, :, :, None]))[0, :, :, 0]
    assert y.shape == (4, operator.detectors)
    d = np.arange(operator.detectors) - (operator.detectors - 1) / 2
    want = 2 * np.sqrt(np.maximum(radius**2 - d**2, 0))
    inner = np.abs(d) < radius - 2
    np.testing.assert_allclose(y[:, inner], np.stack([want] * 4)[:, inner], atol=2.0)
    np.testing.assert_allclose(y.sum(axis=1), disc.sum(), rtol=0.01)
    # A spot above the middle is seen where the detectors across the rows look.
    spot = jnp.zeros((1, size, size, 1)).at[0, 4, 16, 0].set(1.0)
    seen = np.asarray(operator.forward(spot))[0, :, :, 0]
    assert d[seen[0].argmax()] == pytest.approx(0, abs=0.6)
    assert abs(d[seen[2].argmax()]) == pytest.approx(12, abs=0.6)


def test_a_measurement_has_the_noise_it_says():
    x = jnp.ones((2000, 4))
    mask = np.array([True, False, True, True])
    y = measure(jax.random.key(0), Mask(mask), x, noise_std=0.3)
    assert y.noise_std == 0.3 and y.shape == (4,)
    noise = np.asarray(y.y) - mask
    assert noise[:, mask].std() == pytest.approx(0.3, rel=0.05)
    np.testing.assert_array_equal(noise[:, ~mask], 0)
    assert float(jnp.abs(y.residual(x)).max()) > 0.1
    clean = measure(jax.random.key(0), BlockAverage(2), jnp.ones((1, 4, 4, 1)))
    np.testing.assert_array_equal(clean.y, np.ones((1, 2, 2, 1)))


def test_an_operator_is_a_tree_of_its_arrays():
    """Another mask needs no new program; a kernel can be differentiated."""
    traced = []

    @jax.jit
    def known(operator, x):
        traced.append(1)
        return operator.forward(x)

    x = jnp.arange(4.0)[None]
    for mask in ([True, False, True, False], [False, True, True, True]):
        np.testing.assert_array_equal(known(Mask(mask), x)[0], np.where(mask, x[0], 0))
    assert len(traced) == 1
    image = jnp.ones((1, 4, 4, 1))
    slope = jax.grad(lambda k: Blur(k).forward(image).sum())(jnp.ones((3, 3)))
    np.testing.assert_allclose(slope, 16 * np.ones((3, 3)), rtol=1e-5)


SQUARE = Nonlinear(lambda x: x**2, (4,))


def checked(operator, y, noise_std=0.0, shape=None):
    return lambda: check_measurement(Measurement(operator, np.asarray(y), noise_std), shape)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Mask(np.ones((8, 8, 1))), "mask must be boolean, got dtype float64"),
        (lambda: Mask([0, 1]), "mask must be boolean"),
        (lambda: Mask(np.zeros(3, bool)), "at least one entry"),
        (lambda: Fourier(np.ones((8, 8))), "mask must be boolean"),
        (lambda: ChannelMix(np.ones((2, 3))), "matrix must be"),
        (lambda: BlockAverage(0), "factor must be"),
        (lambda: BlockAverage(1.5), "factor must be"),
        (lambda: Radon((), 4), "angles given"),
        (lambda: Blur(LOPSIDED, cutoff=1.5), "cutoff must be"),
        (lambda: gaussian_kernel(5, 0.0), "std > 0"),
        (lambda: dense(np.ones((2, 3)), (4,)), "matrix must be"),
        (checked(Mask(np.ones((4, 4, 1), bool)), np.ones((2, 4, 3, 1))), "mask has shape"),
        (checked(BlockAverage(2), np.ones((1, 2, 2, 1)), 0.0, (6, 6, 1)), "what was measured"),
        (checked(Fourier(np.ones((4, 4), bool)), np.ones((1, 4, 5, 1, 2))), "mask has shape"),
        (checked(SQUARE, np.ones((1, 3))), r"y must have shape \(b, \(4,\)\)"),
        (checked(Mask(np.ones(4, bool)), np.ones((1, 4), np.uint8)), "floating point, got dtype"),
        (checked(Mask(np.ones(4, bool)), np.ones((1, 4)), -0.1), "noise_std must be"),
        (lambda: check_measurement("y"), "measurement must be a Measurement"),
        (checked(lambda x: x, np.ones((1, 4))), "operator must be an Operator"),
        (lambda: measure(jax.random.key(0), BlockAverage(3), jnp.ones((1, 4, 4, 1))), "divisible"),
        (lambda: inverse.measurement_logp(Measurement(SQUARE, np.ones((1, 4)))), "noise_std must be > 0"),
    ],
)  # fmt: skip
def test_wrong_use_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
