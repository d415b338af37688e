"""Releases of this library: trained weights in one .npz file that describes itself.

The arrays are the parameters in float16, by their paths, such as "first/kernel". The entry "about" is a
text of JSON: what the `Model` is made of, what the data look like, the step, and notes of the writer. The
file holds no pickle.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import score_jax
from score_jax._check import brief, check
from score_jax._files import reading, sha256_of, write_npz
from score_jax.convert.assemble import Slot, assemble, leaves, same, template
from score_jax.convert.files import PUBLISHED_FILES
from score_jax.convert.records import Ingredients, from_record, to_record
from score_jax.convert.score_sde import Loaded
from score_jax.data import Description
from score_jax.types import Params

ENDING = ".npz"
FOLDER = "pretrained"  # of the releases, in the current folder or beside the package
ABOUT, FORMAT = "about", 1
# Fields of networks that are conditioned on more than class labels.
FURTHER = ("cond_size", "super_resolution", "augment_size")


def find_release(name: str) -> Path | None:
    """The file of a release by its name, or None if it is not there.

    It is searched in the folder `pretrained` of the current folder, then in that of the checkout. Raises
    ValueError if the file is not the published one, by its sha256.

    >>> find_release("fashion_vp")
    PosixPath('pretrained/fashion_vp.npz')
    """
    known = PUBLISHED_FILES.get(name)
    if known is None or known.place is None:
        return None
    checkout = Path(score_jax.__file__).parents[1]
    for path in (Path(known.place), checkout / known.place):
        if path.is_file():
            found = sha256_of(path)
            if known.sha256 not in (None, found):
                raise ValueError(
                    f"{path} must have the sha256 {known.sha256}, got {found}: it is damaged, or another "
                    f"file, which load_pretrained({str(path)!r}) loads"
                )
            return path
    return None


def to_release(
    path: str | Path,
    ingredients: Ingredients,
    params: Params,
    data: Description,
    *,
    step: int = 0,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a release that `from_release` and `load_pretrained` read, whole or not at all.

    Args:
      path: the file, which ends in .npz.
      ingredients: the network and its process. The network is conditioned on class labels or on nothing.
      params: the parameters, usually their average; they are rounded to float16.
      data: what the examples look like: their shape, levels, scaling and the names of the classes.
      step: updates made.
      notes: further JSON values, which `from_release` gives back.

    Raises ValueError for another ending, for a network that is conditioned on more, and for parameters
    that are not finite in float16.

    >>> to_release("fashion.npz", ingredients, ema_params, Description((28, 28, 1), "uint8", 256, 10))
    """
    check("path", str(path), Path(path).suffix == ENDING, f"a file that ends in {ENDING}")
    for field in FURTHER:
        value = getattr(ingredients.net, field, None)
        check(f"net.{field}", value, not value, "unset for a release")
    arrays = {}
    for names, leaf in leaves(params["params"]).items():
        with np.errstate(over="ignore"):
            arrays["/".join(names)] = half = np.asarray(leaf).astype(np.float16)
        ok = np.isfinite(half).all()
        check(f"params {'/'.join(names)}", brief(leaf), ok, "finite in float16, below 65,520")
    about = {
        "format": FORMAT, "step": int(step), "model": to_record(ingredients),
        "data": data.to_record(), "notes": dict(notes or {}),
    }  # fmt: skip
    write_npz(path, **{ABOUT: np.array(json.dumps(about))}, **arrays)


def from_release(path: str | Path) -> Loaded:
    """The model of a release: (model, params, info), with the parameters in float32.

    `info` has the "module", the "shape" of an example, the "step", the "data", a
    `score_jax.data.Description` with the names of the classes and the scaling, and the "notes". A network
    that was trained with hidden labels has one class more than the data: the last, for no label.

    Raises ValueError, naming the file, if it cannot be read, is not a release, or its arrays do not fit
    its network; OSError if it cannot be opened.

    >>> model, params, info = from_release("pretrained/fashion_vp.npz")
    >>> info["data"].class_names[9]
    'Ankle boot'
    """
    with reading(path, "a release"):
        about, weights = _read(Path(path))
        ingredients: Ingredients = from_record(Ingredients, about["model"], "its model")
        data = Description.from_record(about["data"])
        classes = getattr(ingredients.net, "num_classes", None) is not None
        shapes = template(ingredients.net, data.shape, classes=classes)
    plan = {"/".join(names): Slot(names, same) for names in leaves(shapes)}
    params = assemble(shapes, plan, weights, path)
    info = {
        "module": ingredients.net, "shape": data.shape, "step": about.get("step", 0), "data": data,
        "notes": about.get("notes", {}),
    }  # fmt: skip
    return ingredients.model(), params, info


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a release says of itself, and its arrays; nothing is unpacked to more than its size."""
    with zipfile.ZipFile(path) as file:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist()):
            raise ValueError("it is compressed, which a release is not")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    text = arrays.pop(ABOUT, None)
    if text is None:
        raise ValueError(f"it has no entry {ABOUT!r}")
    about = json.loads(str(text))
    found = about.get("format") if isinstance(about, dict) else about
    if found != FORMAT:
        raise ValueError(f"its format must be {FORMAT}, got {brief(found)}")
    return about, arrays
