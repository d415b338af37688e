"""The feature networks against the published programs, on weights drawn by name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import metrics
from score_jax.metrics.dinov2 import DINOv2
from score_jax.metrics.inception import WIDTHS, Inception
from score_jax.metrics.weights import Weights, dinov2_params, inception_params
from tests.golden.make_metrics import SIZES, _rng, images, weights
from tests.helpers import ROOT

GOLDEN = np.load(ROOT / "tests" / "golden" / "metrics.npz")


def drawn(network):
    """A torch state dict of the network, by the recipe of the golden numbers."""
    shapes = json.loads(str(GOLDEN[f"{network}/shapes"]))
    return {n: weights(n, tuple(s)) for n, s in shapes.items() if s or "batches" not in n}


def close(got, want, rel=1e-5):
    """Differences are small beside the largest number."""
    np.testing.assert_allclose(got, want, rtol=0, atol=rel * np.abs(want).max())


@pytest.fixture(scope="module")
def inception():
    return Weights(inception_params(drawn("inception")), "drawn")


@pytest.fixture(scope="module")
def network(inception):
    """All outputs of two images in the range of the network."""
    run = jax.jit(Inception(tuple(WIDTHS)).apply)

    def outputs(x):
        n = len(x)
        out = run(inception.params, jnp.concatenate([x] * (3 - n)))
        return {name: np.asarray(value)[:n] for name, value in out.items()}

    return outputs


CASES = [("pytorch_fid", size) for size in SIZES] + [("tf1", "32"), ("tf1", "64"), ("clean", "32")]


@pytest.mark.parametrize(("resizing", "size"), CASES)
def test_inception_is_that_of_the_published_programs(network, resizing, size):
    """pytorch-fid (also after clean-fid's resizing) and torch-fidelity (tf1), all outputs, in float64."""
    got = network(metrics.INCEPTION_RESIZINGS[resizing].apply(images(size)))
    names = [name for name in WIDTHS if f"{resizing}/{size}/{name}" in GOLDEN.files]
    assert len(names) == 5 + (resizing != "tf1")
    for name in names:
        assert got[name].shape == (len(images(size)), WIDTHS[name])
        close(got[name], GOLDEN[f"{resizing}/{size}/{name}"])


def test_the_unusual_pools_are_those_of_the_fid(network):
    """Averages that count the padding, or an average in the last block, give other features by far."""
    got = network(metrics.INCEPTION_RESIZINGS["pytorch_fid"].apply(images("32")))["pool"]
    for wrong in ("wrong_average", "wrong_last_pool"):
        assert np.abs(got - GOLDEN[f"{wrong}/32/pool"]).max() > 0.01 * np.abs(got).max()


def test_features_resize_batch_and_name_their_protocol(inception):
    features = metrics.inception_features(
        inception, resizing=metrics.INCEPTION_RESIZINGS["tf1"], outputs=("64",)
    )
    (out,) = metrics.extract(features, images("64"), batch=2)
    close(out["64"], GOLDEN["tf1/64/64"])
    assert features.protocol == {
        "network": "inception-2015-12-05", "weights": "drawn", "resizing": "tf1",
        "dtype": "float32",
    }  # fmt: skip
    with pytest.raises(ValueError, match="outputs must be of 64"):
        metrics.inception_features(inception, outputs=("pool3",))


def test_bfloat16_is_near(inception):
    """About a percent of the largest feature, as the docstring says."""
    features = metrics.inception_features(
        inception, resizing=metrics.INCEPTION_RESIZINGS["tf1"], outputs=("192",), dtype=jnp.bfloat16
    )
    (out,) = metrics.extract(features, images("32"), batch=2)
    assert out["192"].dtype == np.float32
    close(out["192"], GOLDEN["tf1/32/192"], 0.02)


@pytest.mark.parametrize(("name", "size"), [("224", (224, 224)), ("small", (42, 70))])
def test_dinov2_is_the_published_module(name, size):
    """Two blocks of it, positions resized from 37 x 37 to 16 x 16 and to 3 x 5."""
    x = _rng(f"dinov2 {name}").standard_normal((2, *size, 3)).astype(np.float32)
    params = dinov2_params(drawn("dinov2"))
    out = jax.jit(DINOv2(width=128, depth=2).apply)(params, x)
    close(np.asarray(out["class_token"]), GOLDEN[f"dinov2/{name}"])


def test_dinov2_features_take_the_size_of_their_weights():
    features = metrics.dinov2_features(Weights(dinov2_params(drawn("dinov2")), "drawn"))
    (out,) = metrics.extract(features, images("32"), batch=2)
    assert out["class_token"].shape == (2, 128)
    assert features.protocol["network"] == "dinov2-128-2"
    assert features.protocol["resizing"] == "dgm_eval"
