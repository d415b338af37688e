"""The data of a config: their form, their scaling, and the splits."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_jax import data
from score_jax.draws import draw_of
from score_jax.types import Batch, PRNGKey

from ..config import DataConfig
from ..run_config import Config

_Form = tuple[tuple[int, ...], int | None, int | None]  # shape, levels, num_classes
_DEQUANTISE, _FLIP = range(2)  # the purposes of an example's draw


@dataclasses.dataclass(frozen=True)
class Source:
    """The data of a run; they are loaded when first used.

    shape: of one example; levels: grey levels, None where data are continuous; num_classes: of the
    labels, None without; labelled: whether batches for the loss have labels.
    """

    config: DataConfig
    shape: tuple[int, ...]
    levels: int | None
    num_classes: int | None
    labelled: bool = False

    @functools.cached_property
    def _splits(self) -> tuple[data.Dataset, data.Dataset]:
        return load(self)

    @property
    def train(self) -> data.Dataset:
        """The training split."""
        return self._splits[0]

    @property
    def test(self) -> data.Dataset:
        """The held-out split."""
        return self._splits[1]

    def prepare(self, key: PRNGKey, batch: Batch) -> Batch:
        """Prepare a raw batch for the loss."""
        draw, x = draw_of(key, batch), batch["x"]
        if self.levels is None or not self.config.dequantize:
            x = self.on_levels(x)
        else:
            x = draw.fold(_DEQUANTISE).each(self.from_data, x)
        if self.config.flip:
            x = draw.fold(_FLIP).each(lambda key, x: data.random_flip(key, x[None])[0], x)
        ready = {"x": x} | ({"y": batch["y"]} if self.labelled else {})
        return ready | ({"low_res": self.reduced(x)} if self.config.low_res_factor else {})

    def on_levels(self, x: Any) -> Any:
        """Take data to points of the range, one for each level, without dequantisation."""
        if self.levels is None:
            return jnp.asarray(x)
        return data.scale(jnp.asarray(x, jnp.float32) / (self.levels - 1), self.config.range)

    def from_data(self, key: PRNGKey, x: Any) -> Any:
        """Take data to densities: dequantised and scaled where there are levels."""
        x = jnp.asarray(x)
        if self.levels is None:
            return x
        return data.dequantize(key, x, levels=self.levels, range=self.config.range)

    def to_data(self, x: Any) -> np.ndarray:
        """Take samples back to the data's own units: grey levels, or the numbers themselves."""
        if self.levels is None:
            return np.asarray(x)
        if self.config.dequantize:
            x = data.quantize(jnp.asarray(x), levels=self.levels, range=self.config.range)
            return np.asarray(x)
        # The nearest level: without dequantisation the levels are points, not cells.
        top = self.levels - 1
        x = np.rint(np.asarray(data.unscale(x, self.config.range)) * top)
        return np.clip(x, 0, top).astype(np.uint8)

    def reduced(self, x: Any) -> Any:
        """The small images (b, h, w, c) of a super-resolution network: means of blocks."""
        n = self.config.low_res_factor or 1
        b, h, w, c = x.shape
        return x.reshape(b, h // n, n, w // n, n, c).mean(axis=(2, 4))


def source(config: Config) -> Source:
    """The data of a config; only an array file has to be read for it.

    Raises ValueError for a network conditioned on classes where there are no labels.
    """
    c = config.data
    makers: dict[str, Callable[[], _Form]] = {
        "digits": lambda: ((8, 8, 1), 17, 10),
        "two_moons": lambda: ((2,), None, 2),
        "array": lambda: _form(data.load_array(str(c.path))),
        "tfds": lambda: ((c.image_size, c.image_size, c.channels), 256, c.num_classes),
    }
    shape, levels, num_classes = makers[c.name]()
    found = Source(c, shape, levels, num_classes, config.class_conditional)
    if config.class_conditional and found.num_classes is None:
        raise ValueError(f"class_conditional needs labels, and data.name={c.name!r} has none")
    return found


def _form(dataset: data.Dataset) -> _Form:
    classes = None if dataset.y is None else int(dataset.y.max()) + 1
    return dataset.x.shape[1:], dataset.levels, classes


def load(source: Source) -> tuple[data.Dataset, data.Dataset]:
    """Load the (train, test) splits; ValueError unless they match the config."""
    c = source.config
    makers = {
        "digits": lambda: (data.load_digits("train"), data.load_digits("test")),
        "two_moons": lambda: (data.two_moons(c.num_points, seed=0), data.two_moons(2_000, seed=1)),
        "array": lambda: split(data.load_array(str(c.path))),
        "tfds": lambda: (_prepared(source, "train"), _prepared(source, "test")),
    }
    return makers[c.name]()


def _prepared(source: Source, name: str) -> data.Dataset:
    c = source.config
    label_key = None if c.num_classes is None else "label"
    dataset = data.load_tfds(
        str(c.builder), name, data_dir=data.default_data_dir(), label_key=label_key
    )
    if dataset.x.shape[1:] != source.shape:
        raise ValueError(
            f"data.image_size and data.channels say images of shape {source.shape}, but {c.builder} "
            f"holds {dataset.x.shape[1:]}: prepare them at this size, or give them by data.path"
        )
    return dataset


def split(dataset: data.Dataset) -> tuple[data.Dataset, data.Dataset]:
    """Keep every tenth example of an array file, counted from a fixed shuffle, for testing."""
    n = len(dataset.x)
    if n < 20:
        raise ValueError(f"data.path must hold at least 20 examples, got {n}")
    order = np.random.default_rng(0).permutation(n)
    part = lambda index: dataclasses.replace(
        dataset, x=dataset.x[index], y=None if dataset.y is None else dataset.y[index]
    )
    return part(order[n // 10 :]), part(order[: n // 10])
