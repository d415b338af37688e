"""From images to features: one record for every network, and the loop over batches and devices."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_jax._check import check, check_count
from score_jax.metrics.dinov2 import HEAD, DINOv2
from score_jax.metrics.inception import POOL, WIDTHS, Inception
from score_jax.metrics.resize import DGM_EVAL, TF1, Resizing
from score_jax.metrics.weights import Weights


@dataclass(frozen=True)
class Features:
    """A map from bytes to named features, and the protocol that decides their values.

    `apply(params, images)` takes uint8 (b, h, w, 3) and returns a dict of float32 (b, k). `protocol`
    (network, weights' SHA-256, resizing, type) belongs in every record of a result.
    """

    apply: Callable[[Any, Any], dict[str, Any]]
    params: Any = None
    protocol: dict[str, str] = field(default_factory=dict)


def _network(name: str, module: Any, weights: Weights, resizing: Resizing) -> Features:
    def apply(params: Any, images: Any) -> dict[str, Any]:
        return module.apply(params, resizing.apply(images).astype(module.dtype))

    protocol = {
        "network": name,
        "weights": weights.sha256,
        "resizing": resizing.name,
        "dtype": jnp.dtype(module.dtype).name,
    }
    return Features(jax.jit(apply), weights.params, protocol)


def inception_features(
    weights: Weights,
    *,
    resizing: Resizing = TF1,
    outputs: Sequence[str] = (POOL,),
    dtype: Any = jnp.float32,
) -> Features:
    """Features of the FID Inception (FID, KID, Inception score, sFID, precision and recall).

    `outputs` are names of `WIDTHS`: "pool" (2048), "logits" (1008, without their bias), "spatial"
    (2023, of sFID), "64", "192", "768". With dtype bfloat16 the features are off by about 1%.

    Raises ValueError for an unknown output.

    >>> features = inception_features(read_inception(path), outputs=("pool", "logits"))
    """
    for name in outputs:
        check("outputs", name, name in WIDTHS, f"of {', '.join(WIDTHS)}")
    return _network("inception-2015-12-05", Inception(tuple(outputs), dtype), weights, resizing)


def dinov2_features(
    weights: Weights, *, resizing: Resizing = DGM_EVAL, dtype: Any = jnp.float32
) -> Features:
    """Features of DINOv2, "class_token" (FD-DINOv2), of the size that the weights have."""
    params = weights.params["params"]
    width = params["cls_token"].shape[-1]
    depth = sum(name.startswith("blocks_") for name in params)
    side = int((params["pos_embed"].shape[1] - 1) ** 0.5)
    check("weights", width, width % HEAD == 0, f"of a width that {HEAD} divides")
    module = DINOv2(width, depth, side, dtype)
    return _network(f"dinov2-{width}-{depth}", module, weights, resizing)


def function_features(function: Callable[[Any], Any], name: str) -> Features:
    """Features of your own: a traceable function of uint8 images that returns (b, k)."""
    apply = lambda params, images: {name: function(images)}
    return Features(jax.jit(apply), protocol={"network": name})


def check_images(images: Any) -> np.ndarray:
    """Images (b, h, w, 1 or 3) of bytes as (b, h, w, 3).

    Raises ValueError for another type or shape: floats must be rounded to bytes first, as in
    `viz.to_uint8`, because the rounding changes the features.
    """
    images = np.asarray(images)
    ok = images.ndim == 4 and images.shape[-1] in {1, 3}
    check("images", images.shape, ok, "(b, h, w, 1 or 3)")
    check("images", images.dtype, images.dtype == np.uint8, "uint8 (viz.to_uint8 rounds floats)")
    return np.broadcast_to(images, (*images.shape[:3], 3))


def extract(
    features: Features,
    images: Any,
    *,
    batch: int = 64,
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Features of images, batch by batch, in order: dicts of float32 (b, k).

    `images` is an array (n, h, w, 1 or 3) of uint8, or an iterable of such arrays. Batches are
    divided among the devices (all local ones unless given); a short one is filled up and cut, so
    that the program is compiled once for each size of images. Nothing is dropped.

    Raises ValueError for images of another type or shape, and for images of different sizes.

    >>> summary = collect(extract(features, images))["pool"]
    """
    check_count(batch=batch)
    devices = jax.local_devices() if devices is None else list(devices)
    batch = -(-batch // len(devices)) * len(devices)
    mesh = Mesh(np.array(devices), ("images",))
    params = jax.device_put(features.params, NamedSharding(mesh, PartitionSpec()))
    divided = NamedSharding(mesh, PartitionSpec("images"))
    for part in _batches(images, batch):
        filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
        out = features.apply(params, jax.device_put(filled, divided))
        yield {name: np.asarray(value, np.float32)[: len(part)] for name, value in out.items()}


def _batches(images: Any, batch: int) -> Iterator[np.ndarray]:
    """Cut and join arrays of images to batches of one size; the last may be shorter."""
    parts: Iterable[Any] = [images] if hasattr(images, "shape") else images
    waiting: list[np.ndarray] = []
    size = None
    for part in parts:
        checked = check_images(part)
        if size is None:
            size = checked.shape[1:]
        check("images", checked.shape[1:], checked.shape[1:] == size, f"all of the shape {size}")
        for start in range(0, len(checked), batch):
            waiting.append(checked[start : start + batch])
            if sum(map(len, waiting)) >= batch:
                joined = np.concatenate(waiting)
                yield joined[:batch]
                waiting = [joined[batch:]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)
