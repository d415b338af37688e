"""Data that users make in Python, for --data.source."""

import numpy as np

from score_jax import data

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


class Plain:
    """A source without a description, with labels and conditions."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return {"x": X[i], "y": int(i) % 2, "cond": X[i, :2] * 3}


class Stateless:
    """Batches without a state."""

    def __iter__(self):
        return self

    def __next__(self):
        return {"x": X[:8]}


class Stateful(Stateless):
    """Batches of which each holds its number."""

    def __init__(self):
        self.n = 0

    def __next__(self):
        self.n += 1
        return {"x": np.full((8, 3), self.n, np.float32)}

    def get_state(self):
        """The number of the last batch."""
        return {"n": self.n}

    def set_state(self, state):
        """Go on after that batch."""
        self.n = state["n"]


def pair():
    """(train, test)."""
    return Plain(), Plain()


def stream():
    """Batches with a state, and a test split."""
    return Stateful(), data.from_arrays(X)
