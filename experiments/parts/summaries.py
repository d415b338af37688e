"""Statistics of the features of images, over all hosts, and those of a reference."""

import itertools
import pathlib
import warnings
from typing import Any, NamedTuple

import numpy as np

from score_jax import metrics
from score_jax._hosts import share_of
from score_jax.metrics import Moments, Summary

from . import images
from .drawing import Progress
from .feature_networks import FUNCTION, Network
from .images import Images
from .results import say


class Statistics(NamedTuple):
    """Moments and features, by the names of a network's outputs, with numbers of the features.

    `numbers` are those of the examples whose features are kept; `parts` are the moments of equal parts.
    """

    moments: dict[str, Moments]
    features: dict[str, np.ndarray]
    numbers: np.ndarray
    n: int | None
    parts: tuple[dict[str, Moments], ...] = ()


def summarize(
    network: Network, found: Images, *, keep: int, batch: int, parts: int = 1, what: str = "images"
) -> dict[str, list[Summary]]:
    """Summaries of equal parts of the images, the same on all hosts; each keeps its share of `keep`."""
    out: dict[str, list[Summary]] = {}
    ends = [found.n * i // parts for i in range(parts + 1)]
    with Progress(len(share_of(0, found.n)), what) as progress:
        for start, stop in itertools.pairwise(ends):
            mine = share_of(start, stop)
            features = metrics.extract(
                network.features, found.read(mine.start, mine.stop), batch=batch
            )
            own = metrics.collect(
                progress.count(features), first=mine.start, keep=-(-keep // parts)
            )
            for name, summary in metrics.merge_hosts(own).items():
                out.setdefault(name, []).append(summary)
    return out


def statistics(network: Network, found: Images, **options: Any) -> Statistics:
    """The statistics of images; options as in `summarize`."""
    return of_summaries(summarize(network, found, **options))


def of_summaries(found: dict[str, list[Summary]]) -> Statistics:
    """The statistics of the union of parts."""
    whole = {name: [s.moments for s in parts] for name, parts in found.items()}
    rows = {n: np.concatenate([s.reservoir.rows for s in parts]) for n, parts in found.items()}
    some = next(iter(found.values()))
    numbers = np.concatenate([s.reservoir.index for s in some])
    moments = {name: metrics.merge(*parts) for name, parts in whole.items()}
    parts = tuple(dict(zip(whole, each, strict=True)) for each in zip(*whole.values(), strict=True))
    return Statistics(moments, rows, numbers, next(iter(moments.values())).n, parts)


class Reference(NamedTuple):
    """What samples are compared with, and the record of it for the result."""

    statistics: Statistics
    record: dict[str, Any]


def read_reference(network: Network, path: str, *, keep: int, batch: int) -> Reference:
    """The reference of a network: a file of statistics, or images of which they are computed.

    Of images, `keep` features are kept, chosen at random.

    Raises FileNotFoundError, or ValueError for statistics of another network or other weights.
    """
    file = pathlib.Path(path)
    if file.is_dir() or file.suffix in (".zip", ".npy"):
        return _of_images(network, path, keep, batch)
    protocol = network.features.protocol
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        found = metrics.read_reference(file, resizing=protocol.get("resizing"))
    notes = [str(warning.message) for warning in noted]
    for note in notes:
        say(f"warning: {note}")
    _check_protocol(path, found.protocol, protocol)
    # A function's features are alone in their file, and have no name of their own there.
    names = {"pool": network.main} if network.kind == FUNCTION else {}
    moments = {names.get(k, k): v for k, v in found.moments.items()}
    features = {names.get(k, k): v for k, v in found.features.items()}
    if network.main not in moments and found.images:
        return _of_images(network, path, keep, batch)
    if network.main not in moments:
        raise ValueError(f"--reference {path!r} has no statistics of {network.kind} features")
    n = moments[network.main].n
    numbers = np.arange(len(features.get(network.main, ())))
    record: dict[str, Any] = {
        "source": path, "sha256": found.sha256, "n": n, "protocol": found.protocol,
    }  # fmt: skip
    record |= {"warnings": notes} if notes else {}
    return Reference(Statistics(moments, features, numbers, n), record)


def _of_images(network: Network, path: str, keep: int, batch: int) -> Reference:
    found = images.of_path(path, name="--reference")
    record = {"source": path, "sha256_of_pixels": found.sha256(), "n": found.n}
    return Reference(statistics(network, found, keep=keep, batch=batch, what="references"), record)


def _check_protocol(path: str, made: dict[str, Any], used: dict[str, str]) -> None:
    """Raise ValueError if a file states that another network made it."""
    for name in ("network", "weights"):
        if made.get(name) is not None and used.get(name) is not None and made[name] != used[name]:
            raise ValueError(
                f"--reference {path!r} was made with {name} {made[name]!r}, and the samples are "
                f"measured with {used[name]!r}"
            )
