"""Weights of the feature networks, read from published files without executing anything in them."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_jax._files import PathLike, sha256_of
from score_jax.convert.torch_file import read_torch

NORM_EPSILON = 1e-3
PICKLES = (".pkl", ".pickle")  # endings of files
TORCHSCRIPT = "constants.pkl"  # a file that every TorchScript archive has
IGNORED = ("num_batches_tracked", "fc.bias", "mask_token")  # not used by the features
_WITH_POOL = {
    "5": ("branch1x1", "branch5x5_1", "branch3x3dbl_1", "branch_pool"),
    "6": ("branch1x1", "branch7x7_1", "branch7x7dbl_1", "branch_pool"),
}
# The 1x1 convolutions that `Inception` joins, by block.
POINTWISE = {
    **{f"Mixed_5{b}": _WITH_POOL["5"] for b in "bcd"},
    **{f"Mixed_6{b}": _WITH_POOL["6"] for b in "bcde"},
    "Mixed_7a": ("branch3x3_1", "branch7x7x3_1"),
    "Mixed_7b": ("branch1x1", "branch3x3_1", "branch3x3dbl_1", "branch_pool"),
    "Mixed_7c": ("branch1x1", "branch3x3_1", "branch3x3dbl_1"),
}


class WeightFile(NamedTuple):
    """A published file: its names, size, SHA-256 (None if not known), and source."""

    names: tuple[str, ...]
    size: int
    sha256: str | None
    source: str

    def __str__(self) -> str:
        """One line that describes the file."""
        known = f", sha256 {self.sha256}" if self.sha256 else ""
        return f"{' or '.join(self.names)} ({self.size:,} bytes{known}) from {self.source}"


INCEPTION_FILE = WeightFile(
    (
        "pt_inception-2015-12-05-6726825d.pth",
        "weights-inception-2015-12-05-6726825d.pth",
    ),
    95_628_359,
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "the releases of github.com/mseitzer/pytorch-fid or github.com/toshas/torch-fidelity",
)
DINOV2_FILE = WeightFile(
    ("dinov2_vitl14_pretrain.pth",),
    1_217_586_395,
    None,
    "github.com/facebookresearch/dinov2",
)


class Weights(NamedTuple):
    """Parameters of a feature network, and the SHA-256 of their file, which belongs to every result."""

    params: Any
    sha256: str


def _state(path: PathLike, wanted: WeightFile, any_file: bool) -> tuple[dict[str, np.ndarray], str]:
    """The state dict of the file and its SHA-256, after the checks."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; the file must be {wanted}")
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle that runs code, which is not read; the file must be {wanted}"
        )
    if _is_torchscript(path):
        raise ValueError(
            f"{path} is a TorchScript program, which is not read; the file must be {wanted}"
        )
    size = path.stat().st_size
    if not any_file and size != wanted.size:
        raise ValueError(
            f"{path} has {size:,} bytes: it is another file, or not complete; the file must be {wanted}"
        )
    digest = sha256_of(path)
    if not any_file and wanted.sha256 not in {None, digest}:
        raise ValueError(
            f"{path} has sha256 {digest}: it is another file; the file must be {wanted}"
        )
    try:
        state = read_torch(path)
    except ValueError as error:
        raise ValueError(f"{error}; the file must be {wanted}") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, np.ndarray) for v in state.values()):
        raise ValueError(f"{path} holds no state dict; the file must be {wanted}")
    return dict(state), digest


def _is_torchscript(path: Path) -> bool:
    """Whether the file is a zip with the constants of a program, as NVIDIA's Inception."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any(name.endswith(TORCHSCRIPT) for name in file.namelist())


class _Taken:
    """A state dict whose entries are taken once each, and checked."""

    def __init__(self, path: PathLike, state: dict[str, np.ndarray]) -> None:
        self.path, self.state = path, state

    def take(self, name: str, rank: int | None = None) -> np.ndarray:
        """Remove an entry; ValueError if it is missing or of another rank."""
        if name not in self.state:
            raise ValueError(
                f"{self.path} has no array {name!r}: these are weights of another network"
            )
        value = self.state.pop(name)
        if rank is not None and value.ndim != rank:
            raise ValueError(f"{self.path}: {name} must have {rank} axes, got shape {value.shape}")
        return value

    def finish(self) -> None:
        """ValueError unless the features use none of the remaining entries."""
        left = sorted(n for n in self.state if not n.endswith(IGNORED))
        if left:
            raise ValueError(f"{self.path} has arrays of another network, such as {left[0]!r}")


def _folded(state: _Taken, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (h, w, in, out) and bias (out,) in float64 of a convolution and its batch norm."""
    kernel = state.take(f"{name}.conv.weight", 4).astype(np.float64)
    gamma, beta, mean, variance = (
        state.take(f"{name}.bn.{part}", 1).astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + NORM_EPSILON)
    return kernel.transpose(2, 3, 1, 0) * scale, beta - mean * scale


def inception_params(state: Mapping[str, np.ndarray], path: PathLike = "state") -> Any:
    """Parameters of `Inception` from a torch state dict: batch norm folded, 1x1 convolutions joined.

    Raises ValueError, naming the array, if one is missing or belongs to another network.
    """
    taken = _Taken(path, dict(state))
    names = sorted({n.removesuffix(".conv.weight") for n in state if n.endswith(".conv.weight")})
    joined = {f"{block}.{branch}" for block, branches in POINTWISE.items() for branch in branches}
    params: dict[str, Any] = {}

    def put(target: list[str], kernel: np.ndarray, bias: np.ndarray) -> None:
        place = params
        for part in target:
            place = place.setdefault(part, {})
        kernel = kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel
        place["conv"] = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}

    for name in names:
        if name not in joined:
            put(name.split("."), *_folded(taken, name))
    for block, branches in POINTWISE.items():
        kernels, biases = zip(*(_folded(taken, f"{block}.{b}") for b in branches), strict=True)
        put([block, "pointwise"], np.concatenate(kernels, -1), np.concatenate(biases))
    params["fc"] = {"kernel": np.ascontiguousarray(taken.take("fc.weight", 2).T, np.float32)}
    taken.finish()
    return {"params": params}


def read_inception(path: PathLike, *, any_file: bool = False) -> Weights:
    """Read the weights of the FID Inception (`INCEPTION_FILE`): `Weights`.

    Size and SHA-256 must be those of the published file, unless `any_file`: then a number computed
    with it is not an FID. A pickle that executes code and a TorchScript archive raise an
    error.

    Raises FileNotFoundError or ValueError, which name the required file.

    >>> weights = read_inception("pt_inception-2015-12-05-6726825d.pth")
    """
    state, digest = _state(path, INCEPTION_FILE, any_file)
    return Weights(inception_params(state, path), digest)


def dinov2_params(state: Mapping[str, np.ndarray], path: PathLike = "state") -> Any:
    """Parameters of `DINOv2` from a torch state dict; ValueError as `inception_params`."""
    taken = _Taken(path, dict(state))
    array = lambda name: np.asarray(taken.take(name), np.float32)
    dense = lambda name: {"kernel": array(f"{name}.weight").T, "bias": array(f"{name}.bias")}
    norm = lambda name: {"scale": array(f"{name}.weight"), "bias": array(f"{name}.bias")}
    params: dict[str, Any] = {
        "cls_token": array("cls_token"),
        "pos_embed": array("pos_embed"),
        "patch_embed": {
            "kernel": taken.take("patch_embed.proj.weight", 4).transpose(2, 3, 1, 0),
            "bias": array("patch_embed.proj.bias"),
        },
        "norm": norm("norm"),
    }
    depth = 0
    while (name := f"blocks.{depth}") + ".norm1.weight" in taken.state:
        params[f"blocks_{depth}"] = {
            **{part: norm(f"{name}.{part}") for part in ("norm1", "norm2")},
            **{part: dense(f"{name}.attn.{part}") for part in ("qkv", "proj")},
            **{part: dense(f"{name}.mlp.{part}") for part in ("fc1", "fc2")},
            **{part: array(f"{name}.{part}.gamma") for part in ("ls1", "ls2")},
        }
        depth += 1
    taken.finish()
    return {"params": params}


def read_dinov2(path: PathLike, *, any_file: bool = False) -> Weights:
    """Read the weights of DINOv2 (`DINOV2_FILE`), checked by size unless `any_file`: `Weights`.

    Raises FileNotFoundError or ValueError, which name the file that is wanted.
    """
    state, digest = _state(path, DINOV2_FILE, any_file)
    return Weights(dinov2_params(state, path), digest)
