"""tensorflow-datasets without TensorFlow: the digits as a builder, and reading what is prepared.

array_record is the one format that is written and read without TensorFlow; it must be named at every
call, because the default, tfrecord, ends in an import of TensorFlow.
"""

import contextlib
import fcntl
import io
import logging
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

FORMAT = {"file_format": "array_record"}
SPLITS = ("train", "test")
TEST_EXAMPLES = 297  # of 1,797, drawn once with this seed
SEED = 0


class ScoreJaxDigits(tfds.core.GeneratorBasedBuilder):
    """1,797 digits of 8 x 8 pixels with values 0 to 16 (UCI optdigits test set, in scikit-learn)."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        # Built by hand: the usual helper wants a package folder with README and TAGS files.
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> Any:
        del dl_manager
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(SEED).permutation(len(digits.images))
        parts = {"train": order[TEST_EXAMPLES:], "test": order[:TEST_EXAMPLES]}
        images = digits.images.astype(np.uint8)[..., None]
        return {
            name: self._generate_examples(images[rows], digits.target[rows])
            for name, rows in parts.items()
        }

    def _generate_examples(self, images: Any, labels: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image, "label": int(label)}


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Let one process at a time prepare data in this folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise ValueError(f"data_dir {str(folder)!r} cannot be written: {error.strerror}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stack(source: Any, image_key: str, label_key: str | None) -> tuple[np.ndarray, Any]:
    rows = [source[i] for i in range(len(source))]
    x = np.stack([row[image_key] for row in rows])
    return x, None if label_key is None else np.array([row[label_key] for row in rows], np.int32)


def read(split: str, data_dir: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, labels) of a split in a fixed order, preparing the data set if need be.

    What cannot be read (an interrupted preparation, a damaged file) is prepared again.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    tfds.disable_progress_bar()
    logging.getLogger("absl").setLevel(logging.ERROR)
    with _alone(data_dir):
        builder = ScoreJaxDigits(data_dir=str(data_dir), **FORMAT)
        for attempt in range(2):
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    builder.download_and_prepare(file_format=FORMAT["file_format"])
                x, y = _stack(builder.as_data_source(split=split), "image", "label")
                expected = TEST_EXAMPLES if split == "test" else 1797 - TEST_EXAMPLES
                if len(x) == expected and int(x.max()) <= 16:
                    break
                raise ValueError(f"{len(x)} examples in place of {expected}")
            except Exception as error:
                if attempt:
                    raise ValueError(
                        f"the digits cannot be prepared in {str(data_dir)!r}: {error}"
                    ) from error
                shutil.rmtree(builder.data_dir, ignore_errors=True)
                builder = ScoreJaxDigits(data_dir=str(data_dir), **FORMAT)
    # The writer shuffles as it likes: an order of our own keeps runs the same across its versions.
    order = np.lexsort((*x.reshape(len(x), -1).T, y))
    order = order[np.random.default_rng(SEED).permutation(len(order))]
    return x[order], y[order]


def read_prepared(
    name: str, split: str, data_dir: pathlib.Path, image_key: str, label_key: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the arrays of a split that tensorflow-datasets has prepared as array_record."""
    tfds.disable_progress_bar()
    try:
        builder = tfds.builder(name, data_dir=str(data_dir), **FORMAT)
        source = builder.as_data_source(split=split)
    except Exception as error:
        raise ValueError(
            f"data set {name!r}, split {split!r}, is not prepared as array_record in "
            f"{str(data_dir)!r}: {error}"
        ) from None
    wanted = [image_key] + ([] if label_key is None else [label_key])
    missing = [key for key in wanted if key not in builder.info.features]
    if missing:
        raise ValueError(
            f"data set {name!r} has no feature {missing[0]!r}; it has {sorted(builder.info.features)}"
        )
    return _stack(source, image_key, label_key)
