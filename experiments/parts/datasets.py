"""The data of a config: what they look like, known without loading them, and the splits."""

import dataclasses
from typing import NamedTuple

import numpy as np

from experiments.config import Config
from score_jax import data


class Form(NamedTuple):
    """Shape of one example, grey levels (None: continuous), classes (None: no labels)."""

    shape: tuple[int, ...]
    levels: int | None
    num_classes: int | None


def form(config: Config) -> Form:
    """What the data of a config look like; only an array file has to be read for it."""
    c = config.data
    makers = {
        "digits": lambda: Form((8, 8, 1), 17, 10),
        "two_moons": lambda: Form((2,), None, 2),
        "array": lambda: _form_of(data.load_array(str(c.path))),
        "tfds": lambda: Form((c.image_size, c.image_size, c.channels), 256, c.num_classes),
    }
    found = makers[c.name]()
    if config.net.conditional and found.num_classes is None:
        raise ValueError(f"net.conditional needs labels, and data.name={c.name!r} has none")
    return found


def _form_of(dataset: data.Dataset) -> Form:
    classes = None if dataset.y is None else int(dataset.y.max()) + 1
    return Form(dataset.x.shape[1:], dataset.levels, classes)


def load(config: Config) -> tuple[data.Dataset, data.Dataset]:
    """Load the (train, test) splits; ValueError if they are not of the form that the config says."""
    c = config.data
    makers = {
        "digits": lambda: (data.load_digits("train"), data.load_digits("test")),
        "two_moons": lambda: (data.two_moons(c.num_points, seed=0), data.two_moons(2_000, seed=1)),
        "array": lambda: split(data.load_array(str(c.path))),
        "tfds": lambda: (_prepared(config, "train"), _prepared(config, "test")),
    }
    train, test = makers[c.name]()
    return train, test


def _prepared(config: Config, name: str) -> data.Dataset:
    c = config.data
    label_key = None if c.num_classes is None else "label"
    dataset = data.load_tfds(
        str(c.builder), name, data_dir=data.default_data_dir(), label_key=label_key
    )
    shape = form(config).shape
    if dataset.x.shape[1:] != shape:
        raise ValueError(
            f"data.image_size and data.channels say images of shape {shape}, but {c.builder} holds "
            f"{dataset.x.shape[1:]}: prepare them at this size, or give them by data.path"
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
