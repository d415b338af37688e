"""The data of a config: their form, what the network sees of them, and the splits."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_jax import data
from score_jax.data import Description
from score_jax.draws import draw_of
from score_jax.types import Batch, PRNGKey

from ..config import DataConfig
from ..run_config import Config
from .opening import Splits, Stream, at_crop, open_splits, split_rule, surveyed

KEPT = 64  # conditions of the test split that a run folder has
_DEQUANTISE, _FLIP, _CROP, _AUGMENT = range(4)  # the purposes of an example's draw


@dataclasses.dataclass(frozen=True)
class RunData:
    """The data of a run; they are opened when first used.

    description: of x; cond: of what the network is conditioned on beside the classes, a vector or a
    field; sizes: the numbers of training and test examples, where they are known; labelled: whether
    batches for the loss have labels; opened: the splits, where they are open already; kept: some
    conditions of the test split (m, *d), for samples without the data.
    """

    config: DataConfig
    description: Description
    cond: Description | None = None
    sizes: tuple[int | None, int | None] = (None, None)
    labelled: bool = False
    opened: Splits | None = dataclasses.field(default=None, compare=False, repr=False)
    kept: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.description.shape

    @property
    def levels(self) -> int | None:
        """Grey levels, None where data are continuous."""
        return self.description.levels

    @property
    def num_classes(self) -> int | None:
        """Classes of the labels, None without."""
        return self.description.num_classes

    @functools.cached_property
    def splits(self) -> Splits:
        """The splits; ValueError unless they have the form that is known of them."""
        found = open_splits(self.config) if self.opened is None else self.opened
        check_form(self, found)
        return found

    @property
    def train(self) -> Any:
        """The training split."""
        return self.splits.train

    @property
    def test(self) -> Any:
        """The held-out split; ValueError if there is none."""
        if self.splits.test is None:
            raise ValueError(f"data.source {self.config.source!r} gives no test split")
        return self.splits.test

    def described(self) -> "RunData":
        """The same with the numbers of its examples, as they are found."""
        return dataclasses.replace(self, sizes=self.splits.sizes, opened=self.splits)

    def surveyed(self) -> tuple["RunData", list[str]]:
        """(the data of a new run, notes): looked at, and standardised as the config says.

        Raises ValueError for values and labels that the data cannot have.
        """
        description, cond, notes = surveyed(self.config, self.splits)
        found = dataclasses.replace(self.described(), description=description, cond=cond)
        if self.splits.test is None:
            return found, notes
        if cond is not None:
            found = dataclasses.replace(found, kept=self.examples(KEPT)["cond"])
        elif self.config.low_res_factor:
            small = found.reduced(found.on_levels(self.examples(KEPT)["x"]))
            found = dataclasses.replace(found, kept=np.asarray(small))
        return found, notes

    def report(self) -> str:
        """The splits in one line."""
        size = lambda n: "a stream" if n is None else f"{n:,}"
        train, test = self.splits.sizes
        levels = "continuous" if self.levels is None else f"{self.levels} levels"
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        held_out = "no test split" if self.splits.test is None else f"{size(test)} test"
        return (
            f"data {self.config.name}: {size(train)} training examples and {held_out} "
            f"({split_rule(self.config)}), {levels}{classes}"
        )

    def batches(
        self, batch_size: int, *, seed: int, process_index: int = 0, process_count: int = 1
    ) -> Any:
        """The endless batches of training, with exact state; see `score_jax.data.batches`.

        They have a method `close` that ends the workers.
        """
        if isinstance(self.train, Stream):
            if self.config.pair_noise:
                raise ValueError("data.pair_noise: the training data are a stream, without numbers")
            return self.train.checked(batch_size // process_count)
        return data.batches(
            self.train, batch_size, seed=seed, process_index=process_index,
            process_count=process_count, workers=self.config.workers,
            processes=self.config.processes, pair_noise=self.config.pair_noise,
        )  # fmt: skip

    def split(self, name: str) -> Any:
        """The source of "train" or "test"; ValueError for a stream, whose examples have no numbers."""
        found = self.train if name == "train" else self.test
        if isinstance(found, Stream):
            raise ValueError("the training data are a stream, and this needs examples by number")
        size = self.config.crop_size
        return found if name == "test" or size is None else data.Cropped(found, size)

    def examples(self, most: int, name: str = "test") -> Batch:
        """The first examples of a split, raw and stacked."""
        found = self.split(name)
        return data.take(found, np.arange(min(most, len(found))))

    def to_record(self) -> dict[str, Any]:
        """A JSON value for `from_record`."""
        cond = None if self.cond is None else self.cond.to_record()
        train, test = self.sizes
        return {"x": self.description.to_record(), "cond": cond, "train": train, "test": test}

    def prepare(self, key: PRNGKey, batch: Batch, *, training: bool = False) -> Batch:
        """Prepare a raw batch for the loss; images are augmented in training only.

        Images that are larger than those of the run are cropped at random.
        """
        draw = draw_of(key, batch)
        if batch["x"].shape[1:] != self.shape and self.config.crop_size is not None:
            batch = self._cropped(draw.fold(_CROP), batch)
        raw = batch["x"]
        if self.levels is None or not self.config.dequantize:
            x = self.on_levels(raw)
        else:
            x = draw.fold(_DEQUANTISE).each(self.from_data, raw)
        ready = {"x": x} | self.given(batch) | {k: batch[k] for k in ("z",) if k in batch}
        if self.config.missing == "mask":
            mask = jnp.isfinite(x) & jnp.asarray(batch.get("mask", True), bool)
            ready |= {"x": jnp.where(mask, x, 0), "mask": mask}
        if self.config.flip:
            ready |= _flipped(draw.fold(_FLIP), ready)
        if training and self.config.augment is not None:
            p = self.config.augment
            drawn = draw.fold(_AUGMENT).each(lambda key: data.random_augmentation(key, p))
            ready |= {"x": data.augment(ready["x"], drawn), "augment": drawn.vector}
        small = {"low_res": self.reduced(ready["x"])} if self.config.low_res_factor else {}
        return ready | small

    def _cropped(self, draw: Any, batch: Batch) -> Batch:
        """The same random part of each image and of what has its size."""
        size, whole = (self.shape[0], self.shape[1]), batch["x"].shape[:-1]
        parts = {k: batch[k] for k in ("x", "mask", "cond") if k in batch}
        parts = {k: v for k, v in parts.items() if v.shape[:-1] == whole}
        return batch | draw.each(lambda key, image: data.random_crop(key, image, size), parts)

    def given(self, batch: Batch) -> dict[str, Any]:
        """What the network is given beside x and the noise input: {"y": ...}, {"low_res": ...} or {}.

        "y" are labels (b,) or vectors (b, k), "low_res" fields (b, *d).
        """
        found = {"y": batch["y"]} if self.labelled else {}
        return found if self.cond is None else found | self.conditions(batch["cond"])

    def conditions(self, cond: Any) -> dict[str, Any]:
        """Vectors or fields in the data's own units as the network is given them."""
        assert self.cond is not None
        return {"y" if len(self.cond.shape) == 1 else "low_res": _affine(self.cond, cond)}

    def on_levels(self, x: Any) -> Any:
        """Take data to points of the range, one for each level, without dequantisation."""
        if self.levels is None:
            return _affine(self.description, x)
        return data.scale(jnp.asarray(x, jnp.float32) / (self.levels - 1), self.config.range)

    def from_data(self, key: PRNGKey, x: Any) -> Any:
        """Take data to densities: dequantised and scaled where there are levels, else standardised."""
        if self.levels is None:
            return _affine(self.description, x)
        return data.dequantize(key, jnp.asarray(x), levels=self.levels, range=self.config.range)

    def to_data(self, x: Any) -> np.ndarray:
        """Take samples back to the data's own units: grey levels, or the numbers themselves."""
        if self.levels is None:
            scale, shift = (np.asarray(v, np.float32) for v in _map(self.description, np.ndim(x)))
            return (np.asarray(x) - shift) / scale
        if self.config.dequantize:
            x = data.quantize(jnp.asarray(x), levels=self.levels, range=self.config.range)
            return np.asarray(x)
        # The nearest level: without dequantisation the levels are points, not cells.
        top = self.levels - 1
        x = np.rint(np.asarray(data.unscale(x, self.config.range)) * top)
        return np.clip(x, 0, top).astype(self.description.dtype)

    @property
    def log_det(self) -> float:
        """log |d x_net / d x| of an example of continuous data: log p(x) = log p(x_net) + log_det."""
        each = np.log(np.abs(self.description.scale))
        return float(each.mean() * math.prod(self.shape))

    def reduced(self, x: Any) -> Any:
        """The small images (b, h, w, c) of a super-resolution network: means of blocks."""
        n = self.config.low_res_factor or 1
        b, h, w, c = x.shape
        return x.reshape(b, h // n, n, w // n, n, c).mean(axis=(2, 4))


def _map(description: Description, ndim: int) -> tuple[Any, Any]:
    """(scale, shift) for arrays of `ndim` axes."""
    lift = lambda v: np.reshape(v, (1,) * (ndim - 1) + (-1,))
    return lift(description.scale), lift(description.shift)


def _affine(description: Description, x: Any) -> Any:
    """Numbers as stored to what the network sees."""
    x = jnp.asarray(x)
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    if description.scale == (1.0,) and description.shift == (0.0,):
        return x
    scale, shift = (jnp.asarray(v, x.dtype) for v in _map(description, x.ndim))
    return x * scale + shift


def _flipped(draw: Any, ready: dict[str, Any]) -> dict[str, Any]:
    """The images of a batch, with their masks, fields and noise, half of them mirrored."""
    names = [name for name in ("x", "z", "mask", "low_res") if name in ready]
    widths = np.cumsum([ready[name].shape[-1] for name in names])[:-1]
    joined = jnp.concatenate([ready[name].astype(ready["x"].dtype) for name in names], axis=-1)
    mirrored = draw.each(lambda key, x: data.random_flip(key, x[None])[0], joined)
    parts = jnp.split(mirrored, widths, axis=-1)
    return {n: p.astype(ready[n].dtype) for n, p in zip(names, parts, strict=True)}


def run_data(config: Config, record: Mapping[str, Any] | None = None) -> RunData:
    """The data of a config: as a record of them says, or else as they are found.

    Data that are not there are as the config declares them, so that a run can be built without them.

    Raises ValueError for a network conditioned on classes or a condition that the data do not have.
    """
    c = config.data
    if record is not None:
        found = from_record(c, record)
    else:
        form = declared(c)
        found = RunData(c, form) if form is not None else opened(c)
    return _conditioned(config, found)


def _conditioned(config: Config, found: RunData) -> RunData:
    c = config.data
    if config.class_conditional and found.num_classes is None:
        raise ValueError(f"class_conditional needs labels, and data.name={c.name!r} has none")
    vector = found.cond is not None and len(found.cond.shape) == 1
    if config.class_conditional and vector:
        raise ValueError(
            f"data.cond={c.cond!r} is a vector, and class_conditional is set: a network is conditioned "
            "on one of them"
        )
    for name in ("flip", "crop", "augment"):
        if getattr(c, name) and len(found.shape) != 3:
            raise ValueError(
                f"data.{name} is for images, and the examples are of shape {found.shape}"
            )
    if c.augment and c.missing == "mask":
        raise ValueError("data.augment is for images without missing entries")
    if c.augment and found.cond is not None and not vector:
        raise ValueError(
            "data.augment moves the images, and the fields of data.cond would not fit them"
        )
    if c.low_res_factor and (len(found.shape) != 3 or found.cond is not None):
        raise ValueError("data.low_res_factor is for images without data.cond")
    for name, used in (("missing", c.missing == "mask"), ("augment", c.augment is not None)):
        if used and config.loss.objective not in ("dsm", "simple"):
            raise ValueError(
                f"data.{name}={getattr(c, name)!r} needs loss.objective 'dsm' or 'simple', got "
                f"{config.loss.objective!r}"
            )
    return dataclasses.replace(found, labelled=config.class_conditional)


def from_record(c: DataConfig, record: Mapping[str, Any]) -> RunData:
    """The data of a config as `RunData.to_record` wrote them; ValueError for another value."""
    if not {"x", "cond", "train", "test"} <= set(record):
        raise ValueError(f"data.json must have x, cond, train and test, got {sorted(record)}")
    cond = None if record["cond"] is None else Description.from_record(record["cond"])
    sizes = (record["train"], record["test"])
    return RunData(c, Description.from_record(record["x"]), cond, sizes)


def opened(c: DataConfig) -> RunData:
    """The data of a config, opened."""
    found = open_splits(c)
    return RunData(c, found.description, found.cond, found.sizes, opened=found)


def declared(c: DataConfig) -> Description | None:
    """The form of data as a config declares it, or None where the data have to be opened for it."""
    found = _declared(c)
    return found if found is None else at_crop(c, found)


def _declared(c: DataConfig) -> Description | None:
    """The form of the data before images are cropped.

    Data sets of tensorflow-datasets are declared: they are large, and every published run names one.
    """
    known = {
        "digits": ((8, 8, 1), 17, 10), "mnist5k": ((28, 28, 1), 256, 10), "two_moons": ((2,), None, 2),
    }  # fmt: skip
    if c.name in known:
        shape, levels, classes = known[c.name]
        return Description(shape, "uint8" if levels else "float32", levels, classes)
    absent = c.name == "tfds" or (c.path is not None and not pathlib.Path(c.path).exists())
    if not absent or c.image_size is None or c.channels is None:
        return None
    levels = c.levels or 256
    kind = "uint8" if levels <= 256 else "uint16"
    return Description((*c.image_size, c.channels), kind, levels, c.num_classes)


def form_of(c: DataConfig) -> Description:
    """The description of data, declared or opened."""
    return declared(c) or opened(c).description


def check_form(expected: RunData, found: Splits) -> None:
    """Raise ValueError unless data that were opened have the form that was known or declared."""
    c = expected.config
    where = c.path or c.builder or c.source or c.name
    for name in ("shape", "levels"):
        known, seen = getattr(expected.description, name), getattr(found.description, name)
        if known != seen:
            raise ValueError(
                f"the data of this run have {name} {known}, but {where} has {seen}: give the data that "
                "it was made for, or prepare them at this size"
            )
    for name, known, size in zip(("training", "test"), expected.sizes, found.sizes, strict=True):
        if known is not None and size is not None and known != size:
            raise ValueError(
                f"the run began with {known:,} {name} examples, but {where} has {size:,}: give the same "
                "data, or choose another --workdir"
            )
