"""Networks whose features are compared, by the files and names that a command is given."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

from ..late import late

with late():
    import jax.numpy as jnp

    from score_jax import metrics
    from score_jax._check import check_count

    from .named import function_named


INCEPTION, DINOV2, FUNCTION = "inception", "dinov2", "function"
FRECHET = {
    INCEPTION: "fid",
    DINOV2: "fd_dinov2",
    FUNCTION: "frechet",
}  # what its distance is called


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The networks that give features."""

    # Weights of the FID Inception, pt_inception-2015-12-05-6726825d.pth, a file that you have.
    inception: str | None = None
    # Weights of DINOv2, dinov2_vitl14_pretrain.pth, for FD-DINOv2.
    dinov2: str | None = None
    # A function of your own, package.module:function, from uint8 images (b, h, w, 3) to (b, k).
    features: str | None = None
    # How images are resized: tf1, pytorch_fid or clean for Inception (default: tf1), dgm_eval or edm2
    # for DINOv2 (default: dgm_eval).
    resizing: str | None = None
    # Type in which the networks compute; bfloat16 changes features by about 1%.
    feature_type: Literal["float32", "bfloat16"] = "float32"
    # Images that go through a network at once.
    feature_chunk: int = 64
    # Accept weights of another size or hash; the distances are then no FID.
    any_weights: bool = False

    def check(self) -> None:
        """Raise ValueError naming the first flag with an invalid value."""
        check_count(**{"--feature-chunk": self.feature_chunk})
        if self.resizing is None:
            return
        owners = dict.fromkeys(metrics.INCEPTION_RESIZINGS, "inception") | dict.fromkeys(
            metrics.DINO_RESIZINGS, "dinov2"
        )
        if self.resizing not in owners:
            raise ValueError(f"--resizing must be of {', '.join(owners)}, got {self.resizing!r}")
        if not getattr(self, owners[self.resizing]):
            raise ValueError(f"--resizing {self.resizing} needs --{owners[self.resizing]} FILE")

    @property
    def given(self) -> bool:
        """Whether any network is given."""
        return bool(self.inception or self.dinov2 or self.features)


class Network(NamedTuple):
    """A network: its features, and the name of the output by which distances are measured."""

    kind: str
    features: metrics.Features
    main: str

    @property
    def frechet(self) -> str:
        """What its Frechet distance is called: FID only with the published weights of Inception."""
        published = self.features.protocol.get("weights") == metrics.INCEPTION_FILE.sha256
        other = self.kind == INCEPTION and not published
        return FRECHET[FUNCTION if other else self.kind]


def make(c: NetworkConfig, outputs: tuple[str, ...] = ()) -> list[Network]:
    """The networks of a config; `outputs` are further ones of Inception, "logits" and "spatial".

    Raises FileNotFoundError or ValueError, which name the file that is wanted.
    """
    c.check()
    found, dtype = [], getattr(jnp, c.feature_type)
    if c.inception:
        resizing = metrics.INCEPTION_RESIZINGS.get(
            c.resizing or "tf1", metrics.INCEPTION_RESIZINGS["tf1"]
        )
        weights = metrics.read_inception(c.inception, any_file=c.any_weights)
        names = ("pool", *outputs)
        features = metrics.inception_features(
            weights, resizing=resizing, outputs=names, dtype=dtype
        )
        found.append(Network(INCEPTION, features, "pool"))
    if c.dinov2:
        resizing = metrics.DINO_RESIZINGS.get(
            c.resizing or "dgm_eval", metrics.DINO_RESIZINGS["dgm_eval"]
        )
        weights = metrics.read_dinov2(c.dinov2, any_file=c.any_weights)
        features = metrics.dinov2_features(weights, resizing=resizing, dtype=dtype)
        found.append(Network(DINOV2, features, "class_token"))
    if c.features:
        function = function_named("--features", c.features)
        features = metrics.function_features(function, c.features)
        found.append(Network(FUNCTION, features, c.features))
    return found


def need_inception(flag: str) -> str:
    """The line for a metric of Inception's features where the weights are not given."""
    return f"{flag} needs --inception FILE: {metrics.INCEPTION_FILE}"
