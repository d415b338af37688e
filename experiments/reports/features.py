"""A feature space in which samples and data are compared: a small classifier of the labels.

scikit-learn trains it once on the training split (seconds), never on the data that it assesses. It
is cached as plain arrays in $SCORE_JAX_CACHE or ~/.cache/score_jax, and its last hidden layer gives
the features. Data without labels, such as points of a file, are compared as they are.
"""

import contextlib
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from score_jax import runtime
from score_jax._files import write_npz
from score_jax.data import Dataset

RECIPE = "MLPClassifier (128, 64) alpha=0.5 seed=0 v1"


class FeatureSpace(NamedTuple):
    """`features(x)` (n, k) and `classify(x)` (n,) of raw data x, and the test accuracy."""

    features: Callable[[Any], np.ndarray]
    classify: Callable[[Any], np.ndarray] | None
    accuracy: float | None
    name: str


def feature_space(train: Any, test: Any, folder: pathlib.Path | None = None) -> FeatureSpace:
    """Train the classifier, or read it from the cache, and measure it on the test split."""
    labelled = all(isinstance(s, Dataset) and s.y is not None for s in (train, test))
    if not labelled or train.levels is None:
        return FeatureSpace(
            lambda x: np.asarray(x, np.float64).reshape(len(x), -1), None, None, "x"
        )
    digest = hashlib.sha256(RECIPE.encode() + train.x.tobytes() + train.y.tobytes()).hexdigest()[
        :16
    ]
    path = (
        runtime.cache_folder() / "features" if folder is None else folder
    ) / f"{train.name}-{digest}.npz"
    weights = _read(path)
    if weights is None:
        weights = _fit(train)
        _write(path, weights)
    scale = float(train.levels - 1)

    def hidden(x: Any) -> np.ndarray:
        z = np.asarray(x, np.float64).reshape(len(x), -1) / scale
        for i in range(2):
            z = np.maximum(z @ weights[f"w{i}"] + weights[f"b{i}"], 0)
        return z

    def classify(x: Any) -> np.ndarray:
        return weights["classes"][np.argmax(hidden(x) @ weights["w2"] + weights["b2"], axis=1)]

    accuracy = float((classify(test.x) == test.y).mean())
    return FeatureSpace(hidden, classify, accuracy, "classifier")


def _fit(train: Dataset) -> dict[str, np.ndarray]:
    from sklearn.neural_network import MLPClassifier

    assert train.y is not None and train.levels is not None
    x = train.x.reshape(len(train.x), -1) / (train.levels - 1)
    model = MLPClassifier((128, 64), alpha=0.5, random_state=0, max_iter=1000).fit(x, train.y)
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
