"""Sources: their descriptions, taking examples, and the checks of arrays that become data."""

import re

import numpy as np
import pytest

from score_jax import data
from score_jax.data.checks import check_layout
from score_jax.types import Source


def described(**k):
    return data.Description((4, 4, 3), "uint8", 256, **k)


def test_a_description_survives_json():
    form = described(num_classes=2, class_names=("a", "b"), made={"size": (4, 4), "resize": "crop"})
    again = data.Description.from_record(form.to_record())
    assert again == form and hash(again) == hash(form)
    assert again.made == {"size": [4, 4], "resize": "crop"}


def test_the_affine_map_is_that_of_the_levels_or_the_moments():
    """The k-th cell of 4 levels in (-1, 1) starts at -1 + k / 2; a mean becomes 0, mean + std 1."""
    form = data.Description((2,), "uint8", 4)
    assert form.scale == (0.5,) and form.shift == (-1.0,)
    assert form.with_range((0.0, 1.0)).scale == (0.25,)
    mean, std = np.array([1.0, -2.0]), np.array([2.0, 0.5])
    form = data.Description((2,), "float32").with_moments(mean, std)
    net = lambda x: np.array(form.scale) * x + np.array(form.shift)
    np.testing.assert_allclose(net(mean), 0, atol=1e-12)
    np.testing.assert_allclose(net(mean + std), 1)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"shape": ()}, "shape"),
        ({"levels": 257}, "at most 256 for uint8"),
        ({"dtype": "float32"}, "at most 0 for float32"),
        ({"num_classes": 2, "class_names": ("a",)}, "2 names"),
        ({"scale": (1.0, 2.0)}, "1 or 3 finite"),
        ({"scale": (0.0,)}, "different from 0"),
    ],
)
def test_a_description_that_contradicts_itself_is_named(fields, named):
    with pytest.raises(ValueError, match=named):
        data.Description(**{"shape": (4, 4, 3), "dtype": "uint8", "levels": 256} | fields)


@pytest.mark.parametrize("record", [None, {}, {"shape": [2], "dtype": "f", "more": 1}])
def test_a_record_that_is_no_description_is_named(record):
    with pytest.raises(ValueError, match="a description must have the fields"):
        data.Description.from_record(record)


class Plain:
    """A Grain source without a description."""

    def __len__(self):
        return 5

    def __getitem__(self, i):
        return {"x": np.full((2 + (i == 3), 2), i, np.uint8), "y": i}


def test_any_source_is_described_and_taken_from():
    source = data.as_source(Plain())
    assert isinstance(source, Source) and source.description.levels == 256
    part = data.Subset(source, np.array([4, 0, 2]))
    assert len(part) == 3 and part.description == source.description
    np.testing.assert_array_equal(data.take(part, [0, 2])["x"][:, 0, 0], [4, 2])
    assert part[1]["y"] == 0
    with pytest.raises(ValueError, match=r"example 3 has the shapes .*\(3, 2\).* but example 1"):
        data.take(source, [1, 3])


def test_a_dataset_is_a_source():
    x, y = np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(6) % 2
    dataset = data.from_arrays(x, y, class_names=("a", "b"))
    assert isinstance(dataset, Source) and dataset.description.class_names == ("a", "b")
    batch = data.take(dataset, [5, 1])
    np.testing.assert_array_equal(batch["x"], x[[5, 1]])
    np.testing.assert_array_equal(dataset[2]["x"], x[2])
    again = data.in_memory(data.Subset(dataset, np.arange(6)))
    np.testing.assert_array_equal(again.y, y)


image = np.linspace(0, 255, 4 * 8 * 8 * 3).reshape(4, 8, 8, 3)
ONES = np.tile(np.array([0, 1], np.uint8), (3, 4, 2))


@pytest.mark.parametrize(
    ("x", "y", "named"),
    [
        (np.array([[1e300, 0.0]]), None, "finite in float32, got infinity or 1e\\+300"),
        (np.array([[np.nan, 0.0]]), None, "got NaN: allow missing entries"),
        (np.zeros((2, 2)), np.array([2**40, 0]), "y must be integers below 2\\^31, got 1099511627776"),
        (np.zeros((2, 2)), np.array([0, -1]), "integers >= 0"),
        (np.zeros((2, 2)), np.array([0.0, 1.0]), "integers >= 0"),
        (image, None, "grey levels .*np.uint8.*as_is=True"),
        (np.rint(image[..., :1] / 16), None, "grey levels"),
        (ONES, None, "0 and 1 alone: pass levels=2"),
        (np.zeros((4, 3, 8, 8)), None, "channels first.*moveaxis.*as_is=True"),
        (np.zeros((3, 2), np.int64), None, "int64 \\(with levels"),
        (np.zeros((3, 2), bool), None, "got bool"),
    ],
    ids=[
        "overflow", "nan", "large label", "negative label", "float label", "float pixels",
        "whole floats", "binary", "channels first", "integers", "booleans",
    ],
)  # fmt: skip
def test_data_that_would_train_wrongly_are_refused(x, y, named):
    with pytest.raises(ValueError, match=named):
        data.from_arrays(x, y)


def test_what_is_meant_is_accepted():
    assert data.from_arrays(image, as_is=True).levels is None
    assert data.from_arrays(np.zeros((4, 3, 8, 8)), as_is=True).x.shape == (4, 3, 8, 8)
    assert data.from_arrays(ONES, levels=2).levels == 2
    assert data.from_arrays(ONES * 7).levels == 256
    assert np.isnan(data.from_arrays(np.array([[np.nan, 0.0]]), missing=True).x).sum() == 1
    counts = data.from_arrays(np.array([[0, 999]]), levels=1000)
    assert counts.x.dtype == np.uint16 and counts.description.levels == 1000
    assert data.from_arrays(np.array([[0, 65535]], np.uint16)).levels == 65_536
    check_layout("x", (10, 2, 3), as_is=False)  # a short series of three channels
    with pytest.raises(ValueError, match=re.escape("class_names must be at least 3 names")):
        data.from_arrays(np.zeros((2, 2)), np.array([0, 2]), class_names=("a", "b"))
