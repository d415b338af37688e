"""Metrics of samples by features of networks: distances to a reference, and copies of training data."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from ..late import late
from ..parts import feature_networks
from ..parts.feature_networks import INCEPTION

with late():
    from score_jax import metrics, viz
    from score_jax._check import check_count

    from ..parts.feature_networks import Network
    from ..parts.images import Images
    from ..parts.results import Results
    from ..parts.summaries import Reference, Statistics


PICTURE = "memorization.png"
_SHOWN = 24  # pairs of the picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricConfig:
    """Which metrics of samples, and their protocols; the Frechet distance is always computed."""

    # FID: the Frechet distance of Inception's features (always computed with --inception).
    fid: bool = False
    # sFID: that of Inception's spatial features.
    sfid: bool = False
    # Inception score.
    inception_score: bool = False
    # KID, by random subsets.
    kid: bool = False
    # Precision and recall.
    precision_recall: bool = False
    # Density and coverage.
    density_coverage: bool = False
    # Distance to the nearest training images over that of held-out images, and a picture of them.
    memorization: bool = False
    # Splits of the Inception score.
    splits: int = 10
    # Subsets of the KID.
    kid_subsets: int = 100
    # Examples of each subset of the KID.
    kid_size: int = 1_000
    # Neighbours of precision and recall; density and coverage use two more.
    neighbours: int = 3
    # Examples of the reference for KID, precision, recall, density and coverage.
    reference_num: int = 10_000
    # Parts of the samples by which Frechet distances get a standard error (the jackknife; 0: none).
    jackknife: int = 0

    def check(self, networks: feature_networks.NetworkConfig) -> None:
        """Raise ValueError naming the first flag with an invalid value, or without its network."""
        for name in ("fid", "sfid", "inception_score"):
            if getattr(self, name) and not networks.inception:
                raise ValueError(feature_networks.need_inception(_flag(name)))
        for name in ("kid", "precision_recall", "density_coverage", "memorization"):
            if getattr(self, name) and not networks.given:
                flag = feature_networks.need_inception(_flag(name))
                raise ValueError(f"{flag}; or --dinov2 FILE, or --features package.module:function")
        counts = {"splits": 1, "kid_subsets": 1, "kid_size": 2, "neighbours": 1, "reference_num": 2}
        for name, least in counts.items():
            check_count(least, **{_flag(name): getattr(self, name)})
        check_count(0, **{"--jackknife": self.jackknife})
        if self.jackknife == 1:
            raise ValueError("--jackknife must be 0 or at least 2, got 1")

    @property
    def needs_features(self) -> bool:
        """Whether features of samples have to be kept, not only their moments."""
        return any(
            (self.kid, self.precision_recall, self.density_coverage, self.memorization,
             self.inception_score)
        )  # fmt: skip

    @property
    def outputs(self) -> tuple[str, ...]:
        """The further outputs of Inception that are needed."""
        wanted = {"logits": self.inception_score, "spatial": self.sfid}
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def measure(
    results: Results, network: Network, samples: Statistics, reference: Reference, c: MetricConfig
) -> None:
    """Compute the metrics of one network against a reference into `results`, under its kind."""
    at = lambda name: f"{network.kind}.{name}"
    results.keep(
        network.kind, {"protocol": network.features.protocol, "reference": reference.record}
    )
    part = lambda name, what, f: results.part(at(name), what, f)
    name = network.frechet
    part(name, name.replace("_", "-").upper() if name != "frechet" else "Frechet distance",
         lambda: _frechet(samples, reference.statistics, network.main, c))  # fmt: skip
    if c.sfid and network.kind == INCEPTION:
        part("sfid", "sFID", lambda: _frechet(samples, reference.statistics, "spatial", c))
    if c.inception_score and network.kind == INCEPTION:
        logits = lambda: samples.features["logits"]
        part("inception_score", "Inception score",
             lambda: _estimate(metrics.inception_score(logits(), splits=c.splits)))  # fmt: skip
    both = lambda: (_kept(reference, network.main, c), samples.features[network.main])
    if c.kid:
        part("kid", "KID", lambda: _kid(*both(), c))
    if c.precision_recall:
        f = lambda: metrics.precision_recall(*both(), k=c.neighbours)
        part("precision_recall", "precision and recall", lambda: _with_counts(f(), *both()))
    if c.density_coverage:
        g = lambda: metrics.density_coverage(*both(), k=c.neighbours + 2)
        part("density_coverage", "density and coverage", lambda: _with_counts(g(), *both()))


def _kept(reference: Reference, name: str, c: MetricConfig) -> np.ndarray:
    """A random choice of features of the reference; ValueError if only its moments are known."""
    found = reference.statistics.features.get(name)
    if found is None or not len(found):
        raise ValueError(
            f"the reference {reference.record['source']!r} holds no features, only their mean and "
            "covariance: make one by experiments.statistics, or give the images themselves"
        )
    if len(found) <= c.reference_num:
        return found
    # Data are often sorted by class, so the first ones are not a fair choice.
    chosen = np.random.default_rng(0).choice(len(found), c.reference_num, replace=False)
    return found[np.sort(chosen)]


def _frechet(
    samples: Statistics, reference: Statistics, name: str, c: MetricConfig
) -> dict[str, Any]:
    if name not in reference.moments:
        raise ValueError(f"the reference has no statistics of the output {name!r}")
    target, n = reference.moments[name], samples.n
    distance = lambda moments: metrics.frechet(moments, target)
    width = len(target.mean)
    out: dict[str, Any] = {"value": distance(samples.moments[name]), "n": n}
    if n is not None and n <= width:
        out["note"] = f"n is not above the {width} features: the covariance is singular"
    if c.jackknife:
        parts = [part[name] for part in samples.parts]
        out["stderr"] = metrics.jackknife(parts, distance).error
    return out


def _estimate(found: metrics.Estimate) -> dict[str, Any]:
    return {"value": found.value, "std": found.std, "repetitions": found.n}


def _kid(reference: np.ndarray, samples: np.ndarray, c: MetricConfig) -> dict[str, Any]:
    found = metrics.kid_subsets(samples, reference, subsets=c.kid_subsets, size=c.kid_size)
    counts = {"n": len(samples), "reference_n": len(reference), "size": c.kid_size}
    return _estimate(found) | {"stderr": found.error} | counts


def _with_counts(found: Any, reference: np.ndarray, samples: np.ndarray) -> dict[str, Any]:
    return found._asdict() | {"n": len(samples), "reference_n": len(reference)}


def copies(
    network: Network,
    found: tuple[Images, Statistics],
    train: tuple[Images, Statistics],
    test: Statistics,
    path: pathlib.Path | None,
) -> dict[str, Any]:
    """Compare the distances of samples and of held-out images to the training images.

    The samples that are nearest to training images are drawn beside these, at `path`.
    """
    (images, samples), (train_images, own) = found, train
    name = network.main
    near = metrics.memorization(samples.features[name], own.features[name], test.features[name])
    order = np.argsort(near.distance)[:_SHOWN]
    if path is not None:
        pairs = {
            "samples nearest to a training image": images.some(samples.numbers[order]),
            "the training image": train_images.some(own.numbers[near.where[order]]),
        }
        columns, scale = 6, max(1, 72 // images.some(np.arange(1)).shape[2])
        grids = [
            viz.image_grid(x, range=(0.0, 255.0), columns=columns, scale=scale)
            for x in pairs.values()
        ]
        viz.save_image(viz.side_by_side(grids, list(pairs)), path)
    return {
        "ratio": near.ratio,
        "n": len(samples.features[name]),
        "train_n": len(own.features[name]),
        "held_out_n": len(test.features[name]),
        "nearest": [
            {"sample": int(samples.numbers[i]), "train": int(own.numbers[near.where[i]]),
             "distance": float(near.distance[i])}
            for i in order
        ],
    }  # fmt: skip
