"""A feature space in which `evaluate` and `compare` measure samples without a published network.

For scikit-learn's 8 x 8 digits, and for the 5,000 digits of MNIST, it is the last hidden layer of a small
classifier of the labels, which scikit-learn trains once on the training split (seconds), never on the
data that it assesses, and which is cached as plain arrays in $SCORE_JAX_CACHE or ~/.cache/score_jax.
Other data are compared as they are, if they have few enough dimensions.
"""

import contextlib
import hashlib
import math
import pathlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from score_jax import metrics, runtime
from score_jax._files import write_npz

from ..runs import Run
from .gaussian import MOST_DIMENSIONS

RECIPE = "MLPClassifier (128, 64) alpha=0.5 seed=0 v1"
MOST_EXAMPLES = 10_000  # of a split that a distance uses
_DIGITS = ((8, 8, 1), 17, 10)  # the form of the digits: shape, levels, classes
MNIST = "mnist5k"  # the kind of data with a classifier, whose form others have too
ITERATIONS = {True: 1_000, False: 20}  # at most, of the small digits and of MNIST's


class FeatureSpace(NamedTuple):
    """`features(x)` (n, k) and `classify(x)` (n,) of raw data x, and the test accuracy."""

    features: Callable[[Any], np.ndarray]
    classify: Callable[[Any], np.ndarray] | None
    accuracy: float | None
    name: str


def check_dimensions(run: Run) -> None:
    """Raise ValueError for data of too many dimensions for a covariance, or with missing entries."""
    if run.config.data.missing == "mask":
        raise ValueError(
            "the data have missing entries, and samples have none: they do not compare"
        )
    size = math.prod(run.shape)
    if size > MOST_DIMENSIONS:
        raise ValueError(
            f"the covariance of {size:,} numbers an example is not computed (at most "
            f"{MOST_DIMENSIONS:,}): compare features, by --inception, --dinov2 or --features"
        )


def feature_space(run: Run, folder: pathlib.Path | None = None) -> FeatureSpace:
    """Train the classifier of the digits, or read it from the cache; for other data, the data.

    Raises ValueError for other data of too many dimensions.
    """
    source = run.source
    small = (source.shape, source.levels, source.num_classes) == _DIGITS
    top = float((source.levels or 2) - 1)
    scaled = lambda x: np.asarray(x, np.float64).reshape(len(x), -1) / top
    if not small and source.config.name != MNIST:
        check_dimensions(run)
        name = "the data themselves" + ("" if source.levels is None else ", levels from 0 to 1")
        return FeatureSpace(scaled, None, None, name)
    train, test = (source.examples(MOST_EXAMPLES, split) for split in ("train", "test"))
    parts = (RECIPE.encode(), train["x"].tobytes(), train["y"].tobytes())
    name = f"digits-{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}.npz"
    path = (runtime.cache_folder() / "features" if folder is None else folder) / name
    weights = _read(path)
    if weights is None:
        x = scaled(train["x"])
        x = x if small else x.astype(np.float32)  # twice as fast
        weights = _fit(x, train["y"], ITERATIONS[small])
        _write(path, weights)

    def hidden(x: Any) -> np.ndarray:
        z = scaled(x)
        for i in range(2):
            z = np.maximum(z @ weights[f"w{i}"] + weights[f"b{i}"], 0)
        return z

    def classify(x: Any) -> np.ndarray:
        return weights["classes"][np.argmax(hidden(x) @ weights["w2"] + weights["b2"], axis=1)]

    accuracy = float((classify(test["x"]) == test["y"]).mean())
    return FeatureSpace(hidden, classify, accuracy, "classifier of the digits")


def nearest_label(space: FeatureSpace, features: np.ndarray, y: Any) -> Callable[[Any], np.ndarray]:
    """A classifier of raw data where the space has none: the label of the nearest training example.

    `features` (m, k) are those of the examples in the space, y (m,) their labels.
    """
    labels = np.asarray(y)
    return lambda x: labels[metrics.nearest(space.features(x), features)[1]]


def _fit(x: np.ndarray, y: np.ndarray, iterations: int) -> dict[str, np.ndarray]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((128, 64), alpha=0.5, random_state=0, max_iter=iterations)
    with warnings.catch_warnings():  # the limit is meant
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    arrays = {f"w{i}": w for i, w in enumerate(model.coefs_)}
    arrays |= {f"b{i}": b for i, b in enumerate(model.intercepts_)}
    return arrays | {"classes": model.classes_}


def _read(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    # A cache that cannot be read is made again.
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError):
        return None


def _write(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    # On a read-only or full disk only the cache is lost.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npz(path, **arrays)
