"""The splits of a run's data: opened, divided, checked, and standardised once, at the start of a run."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from score_jax import data
from score_jax.data import Description, Survey

from ..data_config import DataConfig
from . import readers

LEAST = 20  # examples of data that are divided
# Examples that are looked at, of data that are not in memory: for moments, and for values alone.
FOR_MOMENTS, FOR_VALUES = 20_000, 256


@dataclasses.dataclass(frozen=True)
class Splits:
    """The opened data of a run. test is None where a stream has none; train is a source or a stream."""

    train: Any
    test: Any
    description: Description
    cond: Description | None = None

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        """Numbers of training and test examples; None for a stream and for no split."""
        size = lambda part: len(part) if hasattr(part, "__len__") else None
        return size(self.train), size(self.test)


def open_splits(c: DataConfig) -> Splits:
    """Open the data of a config; ValueError where they do not fit it."""
    if c.name == "source":
        return _of_function(c)
    kind = readers.KINDS[c.name]
    train = open_source(c, c.path, "train")
    if c.test_path is not None:
        if c.cond is not None and pathlib.Path(c.cond).exists():
            raise ValueError("data.cond names data beside data.path: use data.test_fraction")
        return _described(c, train, open_source(c, c.test_path, "test"))
    if kind.own_split(c, str(c.path)):
        return _described(c, train, open_source(c, c.path, "test"))
    return _described(c, *_divided(c, train))


def split_rule(c: DataConfig) -> str:
    """How the data of a config are divided, in words."""
    if c.test_path is not None:
        return f"test: {c.test_path}"
    if c.name == "source":
        return f"by {c.source}"
    if readers.KINDS[c.name].own_split(c, str(c.path)):
        return "a split of the data"
    return f"test: {c.test_fraction:g} of all, the same in every run"


def open_source(c: DataConfig, path: str | None, split: str) -> Any:
    """A source of the config, with what the network is conditioned on."""
    kind = readers.KINDS[c.name]
    source = kind.open(c, path, split)
    if c.cond is None or "cond" in source[0]:
        return source
    if pathlib.Path(c.cond).exists():
        conditions = kind.open(dataclasses.replace(c, cond=None, levels=None), c.cond, split)
    else:
        named = dataclasses.replace(c, cond=None, key=c.cond, label_key=None, levels=None)
        try:
            conditions = kind.open(named, path, split)
        except ValueError as error:
            raise ValueError(
                f"data.cond {c.cond!r} is no file or folder, nor part of {path}: {error}"
            ) from None
    return data.Paired(source, conditions)


def _divided(c: DataConfig, source: Any) -> tuple[Any, Any]:
    n = len(source)
    if n < LEAST:
        hint = "" if c.path is None else "; data.test_path names others for testing"
        raise ValueError(
            f"{c.path or c.source}: at least {LEAST} examples are needed to keep some for testing, got "
            f"{n}{hint}"
        )
    parts = data.split(source, c.test_fraction)
    if not isinstance(source, data.Dataset):
        return parts
    train, test = (_part(source, part.indices) for part in parts)
    return train, test


def _part(dataset: data.Dataset, index: np.ndarray) -> data.Dataset:
    y = None if dataset.y is None else dataset.y[index]
    return dataclasses.replace(dataset, x=dataset.x[index], y=y)


def _described(c: DataConfig, train: Any, test: Any) -> Splits:
    """The splits with their common description, in which the config has the last word on classes."""
    forms = [data.describe(part) for part in (train, test) if hasattr(part, "__len__")]
    form = forms[0] if forms else None
    if form is None:
        first = np.asarray(train.first["x"])
        levels = c.levels or data.INT_LEVELS.get(first.dtype.name)
        form = Description(first.shape[1:], first.dtype.name, levels)
    for other in forms[1:]:
        if (other.shape, other.levels) != (form.shape, form.levels):
            raise ValueError(
                f"the test examples are of shape {other.shape} with levels {other.levels}, the "
                f"training examples of shape {form.shape} with levels {form.levels}"
            )
    classes = c.num_classes or max((f.num_classes or 0 for f in forms), default=0) or None
    if classes != form.num_classes:
        named = form.class_names if classes == form.num_classes else None
        form = dataclasses.replace(form, num_classes=classes, class_names=named)
    if c.levels is not None and form.levels is not None and form.levels != c.levels:
        form = dataclasses.replace(form, levels=c.levels, scale=(), shift=())
    if form.levels is not None:
        form = form.with_range(c.range)
    cond = None if c.cond is None else _condition(c, train)
    if c.crop_size is None:
        return Splits(train, test, form, cond)
    # Training crops at random, in its step; all other uses see the centres.
    cropped = at_crop(c, form)
    test = None if test is None else data.Cropped(test, c.crop_size)
    if cond is not None and cond.shape[:-1] == form.shape[:-1]:
        cond = at_crop(c, cond)
    return Splits(train, test, cropped, cond)


def at_crop(c: DataConfig, form: Description) -> Description:
    """The description of images as data.crop cuts them; ValueError where they are smaller."""
    size = c.crop_size
    if size is None:
        return form
    if len(form.shape) != 3:
        raise ValueError(f"data.crop is for images, and the examples are of shape {form.shape}")
    if size[0] > form.shape[0] or size[1] > form.shape[1]:
        raise ValueError(
            f"data.crop must be at most the size {form.shape[:2]} of the images, got {size}"
        )
    return dataclasses.replace(form, shape=(*size, form.shape[-1]))


def _condition(c: DataConfig, train: Any) -> Description:
    """The description of what the network is conditioned on."""
    example = train.first if isinstance(train, Stream) else train[0]
    if "cond" not in example:
        raise ValueError(f"data.cond={c.cond!r}, but the examples have no 'cond'")
    value, x = np.asarray(example["cond"]), np.asarray(example["x"])
    if isinstance(train, Stream):
        value, x = value[0], x[0]
    field = value.ndim == x.ndim and value.shape[:-1] == x.shape[:-1] and x.ndim > 1
    if value.ndim != 1 and not field:
        raise ValueError(
            f"data.cond must be vectors, or fields of the size {x.shape[:-1]} of the data, got shape "
            f"{value.shape}"
        )
    kind = value.dtype.name if value.dtype.name in data.INT_LEVELS else "float32"
    return Description(value.shape, kind, data.INT_LEVELS.get(kind))


class Stream:
    """Batches of a user's iterator, of which the first is looked at before it is given.

    The iterator yields dicts of arrays {"x": (b, *d), ...}. Its state is that of the iterator.
    """

    def __init__(self, iterator: Any) -> None:
        self._iterator: Any = iter(iterator)
        if hasattr(self._iterator, "get_state") and hasattr(self._iterator, "set_state"):
            self.get_state, self.set_state = self._get_state, self._set_state
            start = self._iterator.get_state()
            self.first = next(self._iterator)
            self._iterator.set_state(start)
            self._waiting = []
        else:
            self.first = next(self._iterator)
            self._waiting = [self.first]
        if not isinstance(self.first, dict) or "x" not in self.first:
            raise ValueError(f"data.source must yield dicts with 'x', got {self.first!r:.60}")

    def checked(self, batch_size: int) -> "Stream":
        """The same; ValueError unless its batches have this size."""
        found = len(self.first["x"])
        if found != batch_size:
            raise ValueError(
                f"the batches of data.source have {found} examples, but train.batch_size asks for "
                f"{batch_size} on this host"
            )
        return self

    @property
    def resumable(self) -> bool:
        """Whether the iterator has a state."""
        return hasattr(self, "get_state")

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Any:
        return self._waiting.pop() if self._waiting else next(self._iterator)

    def close(self) -> None:
        """Nothing: the iterator is the user's."""

    def _get_state(self) -> Any:
        return self._iterator.get_state()

    def _set_state(self, state: Any) -> None:
        self._iterator.set_state(state)


def _of_function(c: DataConfig) -> Splits:
    """The splits of data.source: what a function of the user returns."""
    made = readers.called(str(c.source))
    pair = made if isinstance(made, tuple) else (made,)
    if len(pair) not in (1, 2):
        raise ValueError(
            f"data.source must return a source, or (train, test), got {len(pair)} values"
        )
    if hasattr(pair[0], "__getitem__"):
        parts = tuple(map(data.as_source, pair))
        return _described(c, *(parts if len(parts) == 2 else _divided(c, parts[0])))
    stream = Stream(pair[0])
    if not stream.resumable and c.resume:
        raise ValueError(
            f"the iterator of data.source {c.source!r} has no get_state and set_state, so that a run "
            "could not resume its data exactly; --data.no-resume accepts it"
        )
    test = data.as_source(pair[1]) if len(pair) == 2 and pair[1] is not None else None
    return _described(c, stream, test)


def surveyed(c: DataConfig, found: Splits) -> tuple[Description, Description | None, list[str]]:
    """Look at the data: (description of x, that of the condition, notes), with their standardisation.

    Raises ValueError for values and labels that the data cannot have.
    """
    if isinstance(found.train, Stream):
        how = "as they come: a stream is not surveyed"
        return found.description, found.cond, [how] if found.description.levels is None else []
    form, cond, notes = found.description, found.cond, []
    in_memory = isinstance(found.train, data.Dataset)
    continuous = form.levels is None
    most = None if in_memory and continuous else FOR_MOMENTS if continuous else FOR_VALUES
    seen = {"train": data.survey(found.train, most=most)}
    if found.test is not None:
        seen["test"] = data.survey(found.test, most=FOR_VALUES)
    for name, survey in seen.items():
        notes += _checked(c, form, name, survey)
    if continuous:
        form, note = _standardised(c, form, seen["train"])
        notes += [note] if note else []
    elif c.standardize is not None:
        raise ValueError(
            f"data.standardize={c.standardize!r} is for continuous data, and these have {form.levels} "
            "levels"
        )
    if cond is not None and cond.levels is None:
        of = data.survey(found.train, most=FOR_MOMENTS, leaf="cond")
        cond, _ = _standardised(c, cond, of)
    return form, cond, notes


def _standardised(c: DataConfig, form: Description, found: Survey) -> tuple[Description, str]:
    """(the standardised description, a note of how, "" where the data are left as they are)."""
    stored = (form.scale, form.shift) != ((1.0,), (0.0,))
    if c.standardize is None and stored:
        return form, "standardised by the mean and the standard deviation that the data state"
    if c.standardize == "none" or (c.standardize is None and found.standard):
        return dataclasses.replace(form, scale=(1.0,), shift=(0.0,)), ""
    by_channel = c.standardize != "global"
    how = "by channel" if by_channel else "all alike"
    return data.standardised(form, found, by_channel=by_channel), _said(found, how)


def _said(found: Survey, how: str) -> str:
    mean, std = found.spread
    part = "" if found.examples == found.total else f" (of {found.examples:,} examples)"
    return (
        f"standardised {how}: mean {mean:.4g}, standard "
        f"deviation {std:.4g}{part} become 0 and 1 (data.standardize none: as they are)"
    )


def _checked(c: DataConfig, form: Description, split: str, found: Survey) -> list[str]:
    """Notes of what was found in a split; ValueError for what cannot be."""
    where = f"the {split} examples"
    notes = []
    if found.missing and c.missing == "refuse":
        raise ValueError(
            f"{found.missing:.2%} of the entries of {where} are missing (NaN or masked): "
            "data.missing mask leaves them out of the loss"
        )
    if found.missing:
        notes.append(f"{found.missing:.2%} of the entries of {where} are missing")
    if form.levels is not None and not (found.low >= 0 and found.high < form.levels):
        raise ValueError(
            f"data.levels={form.levels}, but {where} have values from {found.low:g} to {found.high:g}"
        )
    if found.classes is None or form.num_classes is None:
        return notes
    if len(found.classes) > form.num_classes:
        raise ValueError(
            f"data.num_classes={form.num_classes}, but {where} have the label {len(found.classes) - 1}"
        )
    counts = np.zeros(form.num_classes, int)
    counts[: len(found.classes)] = found.classes
    absent = [str(i) for i in np.flatnonzero(counts == 0)]
    if absent and found.all_labels:
        some = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        notes.append(f"no example of class {some} among {where}")
    return notes
