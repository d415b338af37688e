"""Files: reference statistics of every layout, and weights; what is hostile or broken is refused."""

import hashlib
import pickle
import zipfile

import jax
import numpy as np
import pytest

from score_jax import metrics
from score_jax.metrics import weights as weight_files
from score_jax.metrics.weights import WeightFile, inception_params, read_inception
from tests.helpers.convert_files import write_torch
from tests.metrics.test_networks import drawn

RNG = np.random.default_rng(8)
MU, SIGMA = RNG.normal(size=3), np.cov(RNG.normal(size=(3, 9)))
MU_S, SIGMA_S = RNG.normal(size=2), np.eye(2)
POOL = RNG.normal(size=(6, 3)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)


def same(moments, mu, sigma, n=None):
    np.testing.assert_array_equal(moments.mean, mu)
    np.testing.assert_allclose(moments.covariance, sigma)
    assert moments.n == n


def test_moments_of_ttur_pytorch_fid_and_edm(tmp_path):
    path = tmp_path / "cifar10-32x32.npz"
    np.savez(path, mu=MU, sigma=SIGMA)
    found = metrics.read_reference(path)
    same(found.moments["pool"], MU, SIGMA)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not found.images


def test_raw_features_of_score_sde(tmp_path):
    np.savez(tmp_path / "cifar10_stats.npz", pool_3=POOL)
    found = metrics.read_reference(tmp_path / "cifar10_stats.npz")
    same(found.moments["pool"], POOL.astype(np.float64).mean(0), np.cov(POOL.T.astype(float)), 6)
    np.testing.assert_array_equal(found.features["pool"], POOL)


def test_statistics_and_images_of_adm(tmp_path):
    path = tmp_path / "VIRTUAL_imagenet64_labeled.npz"
    np.savez(path, arr_0=IMAGES, mu=MU, sigma=SIGMA, mu_s=MU_S, sigma_s=SIGMA_S)
    found = metrics.read_reference(path)
    same(found.moments["pool"], MU, SIGMA)
    same(found.moments["spatial"], MU_S, SIGMA_S)
    assert found.images
    np.testing.assert_array_equal(metrics.read_samples(path), IMAGES)
    np.savez(path, arr_0=IMAGES)
    assert metrics.read_reference(path).images


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_pickles_of_edm2_are_read_and_not_run(tmp_path, protocol, kind):
    value = {
        "num_images": 100,
        "fid": {"mu": MU.astype(kind), "sigma": np.asfortranarray(SIGMA.astype(kind))},
        "fd_dinov2": {"mu": MU_S, "sigma": SIGMA_S},
    }
    (tmp_path / "img64.pkl").write_bytes(pickle.dumps(value, protocol))
    found = metrics.read_reference(tmp_path / "img64.pkl")
    same(found.moments["pool"], MU.astype(kind), SIGMA.astype(kind), 100)
    same(found.moments["class_token"], MU_S, SIGMA_S, 100)


class _Attack:
    def __reduce__(self):
        return eval, ("1/0",)


@pytest.mark.parametrize(
    "value",
    [_Attack(), {"fid": {"mu": _Attack(), "sigma": 1}}, {"fid": 3}, [1, 2], {},
     {"fid": {"mu": np.array([object()]), "sigma": np.eye(1)}},
     {"fid": {"mu": np.zeros(2, ">f8"), "sigma": np.eye(2)}},
     {"fid": {"mu": np.zeros(2), "sigma": np.eye(3)}}],
)  # fmt: skip
def test_hostile_and_wrong_pickles_are_refused(tmp_path, value):
    path = tmp_path / "stats.pkl"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(ValueError, match=r"stats\.pkl"):
        metrics.read_reference(path)
    path.write_bytes(pickle.dumps({"fid": {"mu": MU, "sigma": SIGMA}})[:-30])
    with pytest.raises(ValueError, match="damaged"):
        metrics.read_reference(path)


def test_our_files_are_read_by_us_and_have_the_arrays_of_pytorch_fid(tmp_path):
    batches = [{"pool": POOL, "spatial": POOL[:, :2], "class_token": POOL}]
    summaries = metrics.collect(batches, keep=4)
    path = tmp_path / "own.npz"
    metrics.write_reference(path, summaries, {"resizing": "clean", "weights": "abc"})
    with np.load(path) as file:
        np.testing.assert_allclose(file["sigma"], np.cov(POOL.T.astype(float)))
        np.testing.assert_allclose(file["mu"], POOL.astype(float).mean(0))
    found = metrics.read_reference(path, resizing="clean")
    for name, summary in summaries.items():
        same(found.moments[name], summary.moments.mean, summary.moments.covariance, 6)
        np.testing.assert_array_equal(found.features[name], summary.reservoir.rows)
    assert found.protocol == {"resizing": "clean", "weights": "abc"}
    with pytest.warns(UserWarning, match="made with resizing clean, not tf1"):
        metrics.read_reference(path, resizing="tf1")


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"x": MU}, "no statistics"),
        ({"mu": MU, "sigma": np.eye(2)}, r"\(k,\) and \(k, k\)"),
        ({"mu": MU * np.nan, "sigma": SIGMA}, "finite"),
        ({"pool_3": POOL[:1]}, "n >= 2"),
    ],
)
def test_files_without_statistics_are_refused(tmp_path, arrays, named):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=named):
        metrics.read_reference(tmp_path / "x.npz")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a file"):
        metrics.read_reference(tmp_path / "no.npz")
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"x\.npz"):
        metrics.read_reference(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", mu=np.array([object()], object), sigma=SIGMA)
    with pytest.raises(ValueError, match="allow_pickle"):
        metrics.read_reference(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", arr_0=IMAGES.astype(float))
    with pytest.raises(ValueError, match="uint8"):
        metrics.read_samples(tmp_path / "x.npz")


WANTED = "pt_inception-2015-12-05-6726825d.pth"


def test_files_of_weights_are_checked(tmp_path, monkeypatch):
    """Size, then hash; a pickle and a TorchScript are refused; the right file is named."""
    with pytest.raises(FileNotFoundError, match=WANTED):
        read_inception(tmp_path / "none.pth")
    for name, named in (("inception-2015-12-05.pkl", "runs code"), ("x.pth", "not complete")):
        (tmp_path / name).write_bytes(pickle.dumps({}))
        with pytest.raises(ValueError, match=f"{named}.*{WANTED}"):
            read_inception(tmp_path / name)
    size = (tmp_path / "x.pth").stat().st_size
    file = WeightFile(("x.pth",), size, "0" * 64, "nowhere")
    monkeypatch.setattr(weight_files, "INCEPTION_FILE", file)
    with pytest.raises(ValueError, match=r"has sha256 [0-9a-f]{64}: it is another file"):
        read_inception(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as script:
        script.writestr("x/code/__torch__.py", "")
        script.writestr("x/constants.pkl", pickle.dumps(()))
        script.writestr("x/data.pkl", b"\x80\x02c__torch__\nInception\n)\x81.")
    with pytest.raises(ValueError, match=r"is a TorchScript program.*the file must be x\.pth"):
        read_inception(tmp_path / "x.pt", any_file=True)


def test_weights_are_read_from_a_file_of_torch(tmp_path):
    state = drawn("inception")
    write_torch(tmp_path / "x.pth", state)
    found = read_inception(tmp_path / "x.pth", any_file=True)
    assert found.sha256 == hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()
    jax.tree.map(np.testing.assert_array_equal, found.params, inception_params(state))
    with pytest.raises(ValueError, match="95,628,359 bytes, sha256 6726825d"):
        read_inception(tmp_path / "x.pth")
    raw = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match=f"cannot be read.*the file must be {WANTED}"):
        read_inception(tmp_path / "x.pth", any_file=True)


def test_states_of_other_networks_are_refused():
    state = drawn("inception")
    for change, named in (
        ({"Mixed_5b.branch1x1.bn.bias": None}, "no array 'Mixed_5b.branch1x1.bn.bias'"),
        ({"AuxLogits.fc.weight": np.zeros((2, 2))}, "AuxLogits.fc.weight"),
        ({"fc.weight": np.zeros(3)}, "2 axes"),
    ):
        wrong = {k: v for k, v in (state | change).items() if v is not None}
        with pytest.raises(ValueError, match=named):
            inception_params(wrong)
