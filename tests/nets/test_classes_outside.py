"""Labels outside the classes: an error where they are known, no class inside a compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.guidance import class_logp
from score_jax.nets import MLP, UNet
from tests.helpers.nets import filled

NETS = {
    "MLP": MLP(width=8, num_blocks=1, num_classes=3),
    "UNet": UNet(
        channels=8, channel_mult=(1,), num_blocks=1, attention_factors=(), groups=4, num_classes=3
    ),
}
X = jnp.linspace(-1, 1, 2 * 4 * 4).reshape(2, 4, 4, 1)


@pytest.mark.parametrize("name", NETS)
def test_no_class_inside_a_program(name):
    net, t = NETS[name], jnp.ones(2)
    params = filled(net, X, t, jnp.zeros(2, jnp.int32))
    apply = jax.jit(net.apply)
    outs = [np.asarray(apply(params, X, t, np.full(2, y, np.int32))) for y in (-1, 0, 2, 3, 10)]
    assert all(np.isfinite(out).all() for out in outs)
    for i, j in ((0, 3), (0, 4)):
        np.testing.assert_array_equal(outs[i], outs[j])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(outs[i] - outs[j]).max() > 1e-4
    for y in (-1, 3):
        with pytest.raises(ValueError, match=rf"y must be in \[0, 3\), got {y}"):
            net.apply(params, X, t, jnp.asarray([0, y]))


def test_no_class_for_a_classifier():
    classifier = lambda x, t: jnp.stack([x[:, 0], -x[:, 0]], axis=1)
    x = jnp.ones((3, 2))
    logp = jax.jit(lambda y: class_logp(classifier, y)(x, jnp.asarray(0.5)))
    found = logp(jnp.asarray([-1, 0, 2]))
    np.testing.assert_allclose(found, [0, np.log(1 / (1 + np.exp(-2))), 0], rtol=1e-5)
    with pytest.raises(ValueError, match=r"y must be in \[0, 2\), got 2"):
        class_logp(classifier, np.asarray([0, 1, 2]))(x, jnp.asarray(0.5))
