"""Inverse problems by flags: pictures and arrays from files, masks, operators, measurements."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from score_jax import inverse
from score_jax.data._handles import needed

from ..runs import Run

MASKS = ("center", "border", "left", "right", "top", "bottom", "random", "nan")


def open_image(path: str, what: str) -> Image.Image:
    """Read a picture whole; ValueError that names a file that cannot be read, FileNotFoundError."""
    if not pathlib.Path(path).exists():
        raise FileNotFoundError(f"{what} {path!r} does not exist")
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{what} {path!r} cannot be read as a picture: {error}") from None


def top_of(image: Image.Image) -> int:
    """The value of white."""
    return 65535 if image.mode.startswith("I") else 255


def resized(image: Image.Image, height: int, width: int) -> Image.Image:
    """The largest middle part of this form, brought to this size by means over areas."""
    scale = min(image.height / height, image.width / width)
    tall, wide = height * scale, width * scale
    left, top = (image.width - wide) / 2, (image.height - tall) / 2
    method = Image.Resampling.BOX if scale >= 1 else Image.Resampling.BICUBIC
    return image.resize((width, height), method, box=(left, top, left + wide, top + tall))


def read_image(
    path: str, shape: tuple[int, ...], range: tuple[float, float], *, resize: bool = False
) -> np.ndarray:
    """Read a picture into the data's range, of this shape (h, w, 1 or 3).

    Raises ValueError naming the file for one of another size, unless it is to be resized, or colours.
    """
    image = open_image(path, "image")
    if image.mode in ("RGBA", "LA") and np.asarray(image.getchannel("A")).min() == 255:
        image = image.convert(image.mode[:-1])  # opaque
    grey = {"1": "L", "L": "L"}.get(image.mode) or ("F" if image.mode.startswith("I") else None)
    colours = 1 if grey else {"RGB": 3, "P": 3}.get(image.mode)
    if colours != shape[-1]:
        wanted = "grey" if shape[-1] == 1 else "colour (RGB)"
        raise ValueError(f"image {path!r} must be {wanted}, got mode {image.mode}")
    top = top_of(image)
    image = image.convert(grey or "RGB")
    if (image.height, image.width) != shape[:2]:
        if not resize:
            raise ValueError(
                f"image {path!r} must have {shape[0]} x {shape[1]} pixels (height x width), got "
                f"{image.height} x {image.width}: --resize crops and resizes it"
            )
        image = resized(image, *shape[:2])
    pixels = np.asarray(image, np.float32)
    return (range[0] + (range[1] - range[0]) * pixels / top).reshape(shape)


def _numbers(path: str) -> np.ndarray:
    """The array of a .npy file, or of a .zarr store of one array or of one that is named x."""
    if not path.endswith(".zarr"):
        return np.load(path, allow_pickle=False)
    zarr = needed("zarr")
    store = zarr.open(path, mode="r")
    if isinstance(store, zarr.Array):
        return np.asarray(store[...])
    names = sorted(name for name in store if isinstance(store[name], zarr.Array))
    name = names[0] if len(names) == 1 else "x"
    if name not in names:
        raise ValueError(f"it has the arrays {names}, and none is named x")
    return np.asarray(store[name][...])


def read_array(path: str, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Examples (n, *shape) of a .npy or .zarr file, which may hold a single one.

    Raises ValueError naming the file, FileNotFoundError.
    """
    if not pathlib.Path(path).exists():
        raise FileNotFoundError(f"{what} {path!r} does not exist")
    kind = pathlib.Path(path).suffix
    try:
        x = _numbers(path)
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise ValueError(f"{what} {path!r} cannot be read as a {kind} file: {error}") from None
    x = x[None] if x.shape == shape else x
    if x.shape[1:] != shape or not len(x):
        raise ValueError(f"{what} {path!r} must have examples of shape {shape}, got {x.shape}")
    if not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
        raise ValueError(f"{what} {path!r} must hold real numbers, got dtype {x.dtype}")
    return x


def read_examples(
    run: Run, paths: Sequence[str], shape: tuple[int, ...], what: str, *, resize: bool
) -> np.ndarray:
    """Pictures, .npy and .zarr files as examples of this shape in the network's range: (n, *shape)."""
    found = []
    for path in paths:
        if path.rstrip("/").endswith((".npy", ".zarr")):
            raw = read_array(path.rstrip("/"), shape, what)
            found.append(np.asarray(run.source.on_levels(raw), np.float32))
        elif len(shape) != 3 or shape[-1] not in (1, 3) or run.source.levels is None:
            raise ValueError(
                f"{what} {path!r} must be a .npy or .zarr file of examples {shape} in the data's own "
                "units: this run is not on pictures"
            )
        else:
            image = read_image(path, shape, run.config.data.range, resize=resize)
            found.append(image[None])
    return np.concatenate(found)


def read_mask(path: str, size: tuple[int, ...]) -> np.ndarray:
    """The mask of a picture, True where its pixels are known: (h, w).

    Transparent pixels are missing; without transparent ones the black pixels (the darker half of the
    range) are. Raises ValueError naming the file for another size, and if nothing is missing or known.
    """
    image = open_image(path, "--mask")
    if len(size) != 2:
        raise ValueError(
            f"--mask {path!r}: a picture cannot be a mask for examples with {size} places"
        )
    if (image.height, image.width) != size:
        raise ValueError(
            f"--mask {path!r} must have {size[0]} x {size[1]} pixels (height x width), got "
            f"{image.height} x {image.width}"
        )
    seen = None
    if image.has_transparency_data:
        seen = np.asarray(image.convert("RGBA").getchannel("A")) > 127
    if seen is None or seen.all():
        top = top_of(image)
        flat = image if image.mode.startswith("I") else image.convert("L")
        seen = np.asarray(flat, np.float64) > top / 2
    if seen.all() or not seen.any():
        state = "known" if seen.all() else "missing"
        raise ValueError(f"--mask {path!r}: all of its pixels are {state}; black is missing")
    return seen


def known_places(mask: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The mask of this name or file, True where data are known: of the shape of an example.

    left and right are along the last axis of space, top and bottom along the first.
    """
    space = shape[:-1] if len(shape) > 1 else shape
    places = np.indices(space)
    inner = np.all(
        [abs(p - (n - 1) / 2) < n / 4 for p, n in zip(places, space, strict=True)], axis=0
    )
    masks: dict[str, Callable[[], np.ndarray]] = {
        "center": lambda: ~inner,
        "border": lambda: inner,
        "left": lambda: places[-1] >= space[-1] / 2,
        "right": lambda: places[-1] < space[-1] / 2,
        "top": lambda: places[0] >= space[0] / 2,
        "bottom": lambda: places[0] < space[0] / 2,
        "random": lambda: np.random.default_rng(seed).random(space) < 0.5,
    }
    if mask in masks:
        known = masks[mask]()
    elif pathlib.Path(mask).is_file():
        known = read_mask(mask, space)
    else:
        raise ValueError(f"--mask must be one of {', '.join(MASKS)} or a file, got {mask!r}")
    return np.broadcast_to(known[..., None], shape).copy() if len(shape) > 1 else known


def make_operator(
    task: str, shape: tuple[int, ...], *, factor: int, blur: float
) -> inverse.Operator | None:
    """The operator of a task on examples of this shape, None for inpainting, which has masks.

    Raises ValueError where they do not match.
    """
    if task == "inpaint":
        return None
    if len(shape) < 2:
        raise ValueError(
            f"--task {task} needs axes of space, and the examples are of shape {shape}"
        )
    if task == "colorize" and shape[-1] == 1:
        raise ValueError("--task colorize needs a run on colour images, and this one's are grey")
    size = min(2 * int(np.ceil(3 * blur)) + 1, *shape[:-1])
    made: dict[str, Callable[[], inverse.Operator]] = {
        "colorize": lambda: inverse.grayscale(shape[-1]),
        "superres": lambda: inverse.BlockAverage(factor),
        "deblur": lambda: inverse.Blur(inverse.gaussian_kernel(size, blur, len(shape) - 1)),
    }
    operator = made[task]()
    operator.out_shape(shape)
    return operator


def make_noise(kind: str, run: Run, *, noise_std: float, photons: float, step: float) -> Any:
    """The noise of a name, of data in the network's range; None for normal noise.

    Raises ValueError for counts of data without levels, whose zero is not known.
    """
    if kind == "normal":
        return None
    if kind == "laplace":
        return inverse.Laplace(noise_std / 2**0.5)
    if kind == "rounded":
        return inverse.Rounded(step, noise_std)
    if run.source.levels is None:
        raise ValueError(
            "--noise poisson needs data with levels, such as images: the value of no light is not known"
        )
    low, high = run.config.data.range
    return inverse.Poisson(photons / (high - low), zero=low)


def masks_of(names: Sequence[str], y: np.ndarray, seed: int) -> list[np.ndarray]:
    """One mask for each of the examples y (n, *d): of one name for all, or of as many.

    Raises ValueError for another number of names, for masks that hide everything or nothing, and for
    known entries that are not finite.
    """
    if len(names) not in (1, len(y)):
        raise ValueError(
            f"--mask must be one, or one for each of the {len(y)} examples, got {len(names)}"
        )
    made = {name: known_places(name, y.shape[1:], seed) for name in names if name != "nan"}
    every = list(names) * (len(y) if len(names) == 1 else 1)
    found = [made[name] if name in made else np.isfinite(y[i]) for i, name in enumerate(every)]
    for i, mask in enumerate(found):
        if mask.all() or not mask.any():
            state = "nothing is missing" if mask.all() else "nothing is known"
            raise ValueError(f"--mask {every[i]}: {state} in example {i}")
        if bad := np.sum(~np.isfinite(y[i][mask])):
            raise ValueError(
                f"--mask {every[i]}: {bad} known entries of example {i} are NaN or infinite; --mask nan "
                "hides all of them"
            )
    return found
