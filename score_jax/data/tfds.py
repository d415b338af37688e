"""Data sets of tensorflow-datasets, read without TensorFlow, and scikit-learn's digits as one.

array_record is the one format that is written and read without TensorFlow. It must be named at every
call, because the default, tfrecord, imports TensorFlow.
"""

import contextlib
import dataclasses
import functools
import io
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, SupportsIndex

import numpy as np

from score_jax._check import check
from score_jax._files import locked
from score_jax.data.arrays import Dataset, from_arrays, in_memory
from score_jax.data.images import Decoder, ImageOptions, decoder_for, image_of
from score_jax.data.sources import INT_LEVELS, Description, Examples

FORMAT = "array_record"
DIGITS = {"train": 1500, "test": 297}  # examples of each split, drawn once with this seed
SEED = 0


def default_data_dir() -> pathlib.Path:
    """Folder of prepared data sets: $SCORE_JAX_DATA or ~/.cache/score_jax/tfds."""
    given = os.environ.get("SCORE_JAX_DATA")
    return pathlib.Path(given) if given else pathlib.Path.home() / ".cache" / "score_jax" / "tfds"


def load_digits(split: str = "train", *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load scikit-learn's 8 x 8 digits through tensorflow-datasets: 1,500 train or 297 test.

    Values 0 to 16 (17 levels) and labels 0 to 9, in a fixed order. They are prepared once in
    `data_dir`, by default $SCORE_JAX_DATA or ~/.cache/score_jax/tfds, and again where they cannot be
    read (an interrupted preparation, a damaged file).

    Raises ValueError for other splits and for a folder that cannot be written.
    """
    check("split", split, split in DIGITS, f"one of {tuple(DIGITS)}")
    folder = default_data_dir() if data_dir is None else pathlib.Path(data_dir)
    try:
        with locked(folder, wait=True):
            x, y = _prepared_digits(split, folder)
    except OSError as error:
        raise ValueError(f"data_dir {str(folder)!r} cannot be written: {error.strerror}") from None
    # The writer shuffles: an order of our own keeps runs the same across its versions.
    order = np.lexsort((*x.reshape(len(x), -1).T, y))
    order = order[np.random.default_rng(SEED).permutation(len(order))]
    return from_arrays(x[order], y[order], levels=17, name="digits")


def load_tfds(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str],
    image_key: str = "image",
    label_key: str | None = "label",
) -> Dataset:
    """Load a split of any data set that tensorflow-datasets has prepared as array_record: `Dataset`.

    `read_tfds` reads one that does not fit into memory, and says which errors are raised.
    """
    return in_memory(
        read_tfds(name, split, data_dir=data_dir, image_key=image_key, label_key=label_key)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A source of a split that tensorflow-datasets has prepared, decoded as it is taken."""

    name: str
    rows: Any
    image_key: str
    label_key: str | None
    decoder: Decoder | None
    description: Description

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: SupportsIndex) -> Examples:
        i = range(len(self))[index]
        row = self.rows[i]
        x = np.asarray(row[self.image_key])
        if self.decoder is not None:
            x = self.decoder.fit(image_of(x), 8, f"example {i} of {self.name}")
        return {"x": x} | (
            {} if self.label_key is None else {"y": np.asarray(row[self.label_key], np.int32)}
        )


def read_tfds(
    name: str,
    split: str,
    options: ImageOptions | None = None,
    *,
    data_dir: str | os.PathLike[str],
    image_key: str = "image",
    label_key: str | None = "label",
) -> Prepared:
    """A source of a split of any data set that tensorflow-datasets has prepared as array_record.

    TensorFlow is not needed. `options` bring images of several sizes to one; without them x is taken as
    it is. Raises ValueError naming the data set if it is not there or has no such feature.

    >>> read_tfds("imagenet2012", "train", ImageOptions(size=(64, 64)), data_dir="tfds")
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        builder = tfds.builder(name, data_dir=str(data_dir), file_format=FORMAT)
        rows = builder.as_data_source(split=split)
    except Exception as error:
        raise ValueError(
            f"data set {name!r}, split {split!r}, is not prepared as array_record in "
            f"{str(data_dir)!r}: {error}"
        ) from None
    features = builder.info.features
    for key in (image_key, label_key):
        if key is not None and key not in features:
            raise ValueError(f"data set {name!r} has no feature {key!r}; it has {sorted(features)}")
    shape = tuple(features[image_key].shape or ())
    if options is None and None in shape:
        raise ValueError(f"data set {name!r} has images of several sizes, {shape}: give a size")
    if options is None:
        dtype = np.dtype(features[image_key].np_dtype).name
        decoder, description = (
            None,
            Description(shape, dtype, INT_LEVELS.get(dtype), made={"name": name}),
        )
    else:
        first = image_of(np.asarray(rows[0][image_key]))
        decoder = decoder_for(first, 8, f"example 0 of {name}", options)
        description = decoder.description(None, None)
    if label_key is not None:
        label = features[label_key]
        names = getattr(label, "names", None) if getattr(label, "num_classes", None) else None
        description = dataclasses.replace(
            description,
            num_classes=getattr(label, "num_classes", None),
            class_names=None if names is None else tuple(names),
        )
    return Prepared(name, rows, image_key, label_key, decoder, description)


def _stack(source: Any, image_key: str, label_key: str | None) -> tuple[np.ndarray, Any]:
    rows = [source[i] for i in range(len(source))]
    x = np.stack([row[image_key] for row in rows])
    return x, None if label_key is None else np.array([row[label_key] for row in rows], np.int32)


def _prepared_digits(split: str, folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) of a split of the digits, prepared in the folder if need be."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    logging.getLogger("absl").setLevel(logging.ERROR)
    for attempt in range(2):
        builder = _digits_builder()(data_dir=str(folder), file_format=FORMAT)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare(file_format=FORMAT)
            x, y = _stack(builder.as_data_source(split=split), "image", "label")
            if len(x) == DIGITS[split] and int(x.max()) <= 16:
                break
            raise ValueError(f"{len(x)} examples in place of {DIGITS[split]}")
        except Exception as error:
            if attempt:
                raise ValueError(
                    f"the digits cannot be prepared in {str(folder)!r}: {error}"
                ) from error
            shutil.rmtree(builder.data_dir, ignore_errors=True)
    return x, y


@functools.cache
def _digits_builder() -> Any:
    """The builder of the digits, made when it is needed: importing tensorflow-datasets is slow."""
    import tensorflow_datasets as tfds

    class ScoreJaxDigits(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
        """1,797 digits of 8 x 8 pixels with values 0 to 16 (UCI optdigits test set, in scikit-learn)."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            # Built by hand: the usual helper wants a package folder with README and TAGS files.
            features = {
                "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=type(self).__doc__,
                features=tfds.features.FeaturesDict(features),
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            del dl_manager
            from sklearn.datasets import load_digits

            digits = load_digits()
            order = np.random.default_rng(SEED).permutation(len(digits.images))
            test = DIGITS["test"]
            parts = {"train": order[test:], "test": order[:test]}
            images = digits.images.astype(np.uint8)[..., None]
            return {
                name: self._generate_examples(images[rows], digits.target[rows])
                for name, rows in parts.items()
            }

        def _generate_examples(
            self, images: Any, labels: Any
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield i, {"image": image, "label": int(label)}

    return ScoreJaxDigits
