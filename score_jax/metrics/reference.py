"""Files of reference statistics: all published layouts, and that of this library.

| file | arrays |
|---|---|
| TTUR, pytorch-fid, EDM | `mu`, `sigma` |
| score_sde, score_flow | `pool_3` (n, 2048), features |
| EDM2 | a pickle of `fid` and `fd_dinov2`, each `mu` and `sigma`, which is read and not executed |
| ADM | `arr_0` (n, h, w, 3) uint8, with or without `mu`, `sigma`, `mu_s`, `sigma_s` (sFID) |
| score_jax | `mu`, `sigma`, and `mu_s`, `sigma_s`, `reservoir`, `n`, `protocol` (JSON) |
"""

import io
import json
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from score_jax._check import check
from score_jax._files import PathLike, sha256_of, write_npz
from score_jax._pickled_arrays import PickledArray, arrays_table
from score_jax._pickles import read_pickle
from score_jax.metrics.dinov2 import CLASS_TOKEN
from score_jax.metrics.inception import POOL, SPATIAL
from score_jax.metrics.statistics import Moments, Summary, check_points, moments_of
from score_jax.metrics.weights import PICKLES

# Our names of features, and the endings of `mu` and `sigma` for them in a file.
ENDINGS = {POOL: "", SPATIAL: "_s", CLASS_TOKEN: "_dinov2"}
PICKLED = {"fid": POOL, "fd_dinov2": CLASS_TOKEN}
IMAGES = "arr_0"
TABLE = arrays_table(("f8", "f4"))


@dataclass(frozen=True)
class Reference:
    """The contents of a file of reference statistics by names of features; `sha256` is that of the file.

    `images` is whether the file has images, which `read_samples` reads. `protocol` describes how the
    file was made; it is empty for files of other programs.
    """

    sha256: str
    moments: dict[str, Moments] = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)
    images: bool = False
    protocol: dict[str, Any] = field(default_factory=dict)


def _gaussian(path: PathLike, name: str, mu: Any, sigma: Any, n: int | None = None) -> Moments:
    mu, sigma = np.asarray(mu, np.float64), np.asarray(sigma, np.float64)
    if mu.ndim != 1 or sigma.shape != mu.shape * 2:
        raise ValueError(
            f"{path}: mu and sigma of {name} must be (k,) and (k, k), got {mu.shape}, {sigma.shape}"
        )
    if not np.isfinite(mu).all() or not np.isfinite(sigma).all():
        raise ValueError(f"{path}: mu and sigma of {name} must be finite")
    return Moments(mu, sigma, n)


def _read_pickled(path: Path) -> Reference:
    try:
        value = read_pickle(io.BytesIO(path.read_bytes()), TABLE)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as statistics: {error}") from error
    moments: dict[str, Moments] = {}
    n = value.get("num_images") if isinstance(value, dict) else None
    for key, name in PICKLED.items():
        part = value.get(key) if isinstance(value, dict) else None
        if isinstance(part, dict) and all(
            isinstance(part.get(k), PickledArray) for k in ("mu", "sigma")
        ):
            mu, sigma = part["mu"].value, part["sigma"].value
            moments[name] = _gaussian(path, name, mu, sigma, n if isinstance(n, int) else None)
    if not moments:
        raise ValueError(f"{path} has no statistics: expected are fid or fd_dinov2 of mu and sigma")
    return Reference(sha256_of(path), moments)


def _open(path: PathLike) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error


def read_reference(path: PathLike, *, resizing: str | None = None) -> Reference:
    """Read reference statistics of any layout above: `Reference`.

    `resizing` is the name of the one in use; a file made with another one gives a warning. Most files
    do not state it.

    Raises FileNotFoundError, or ValueError for a file without statistics, a hostile pickle (nothing
    in it is executed), and arrays of wrong shapes.

    >>> reference = read_reference("cifar10-32x32.npz").moments["pool"]
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    if path.suffix in PICKLES:
        return _read_pickled(path)
    with _open(path) as file:
        names = set(file.files) if hasattr(file, "files") else set()
        protocol = json.loads(str(file["protocol"])) if "protocol" in names else {}
        n = int(file["n"]) if "n" in names else None
        moments, features = {}, {}
        for name, ending in ENDINGS.items():
            if {f"mu{ending}", f"sigma{ending}"} <= names:
                mu, sigma = file[f"mu{ending}"], file[f"sigma{ending}"]
                moments[name] = _gaussian(path, name, mu, sigma, n)
            if f"reservoir{ending}" in names:
                features[name] = check_points(f"{path}: reservoir", file[f"reservoir{ending}"], 1)
        if "pool_3" in names:
            x = np.asarray(file["pool_3"])
            features[POOL] = check_points(f"{path}: pool_3", x.reshape(len(x), -1))
            moments.setdefault(POOL, moments_of(features[POOL]))
        if not moments and IMAGES not in names:
            raise ValueError(
                f"{path} has no statistics: it holds {sorted(names)}, expected are mu and sigma, "
                f"pool_3, or images {IMAGES}"
            )
    made = protocol.get("resizing")
    if resizing is not None and made is not None and made != resizing:
        warnings.warn(
            f"{path} was made with resizing {made}, not {resizing}: the distance compares resizings",
            stacklevel=2,
        )
    return Reference(sha256_of(path), moments, features, IMAGES in names, protocol)


def read_samples(path: PathLike) -> np.ndarray:
    """Images (n, h, w, 3) of uint8 from an .npz of ADM's layout (`arr_0`); ValueError otherwise."""
    with _open(path) as file:
        names = file.files if hasattr(file, "files") else []
        check(f"{path}", sorted(names), IMAGES in names, f"an .npz with {IMAGES}")
        images = file[IMAGES]
    ok = images.ndim == 4 and images.dtype == np.uint8
    check(f"{path}: {IMAGES}", (images.shape, images.dtype.name), ok, "(n, h, w, c) of uint8")
    return images


def write_reference(
    path: PathLike, summaries: Mapping[str, Summary], protocol: Mapping[str, Any]
) -> None:
    """Write summaries of features as .npz: `mu` and `sigma`, as pytorch-fid and EDM read them, and more.

    Those are of "pool"; "spatial" and "class_token" go to `mu_s` and `mu_dinov2`, their reservoirs to
    `reservoir...`. The protocol (resizing, weights' hash, data) is kept as JSON.

    Raises ValueError for features of another name, unless they are the only ones.
    """
    arrays: dict[str, Any] = {"protocol": json.dumps(dict(protocol))}
    alone = len(summaries) == 1
    for name, summary in summaries.items():
        check("summaries", name, alone or name in ENDINGS, f"of {', '.join(ENDINGS)}, or alone")
        ending = ENDINGS.get(name, "")
        arrays[f"mu{ending}"] = summary.moments.mean
        arrays[f"sigma{ending}"] = summary.moments.covariance
        arrays["n"] = np.int64(summary.moments.n or 0)
        if len(summary.reservoir.rows):
            arrays[f"reservoir{ending}"] = summary.reservoir.rows
    write_npz(path, **arrays)
