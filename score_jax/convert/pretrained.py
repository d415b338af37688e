"""A trained model in one line: from a run folder, a release or another published file, or the hub."""

import re
from pathlib import Path

import flax.linen as nn

from score_jax import checkpoints
from score_jax.convert.diffusers import from_diffusers
from score_jax.convert.edm import from_edm
from score_jax.convert.files import published_file
from score_jax.convert.hub import SCHEME, from_hub, is_hub_name
from score_jax.convert.openai import from_improved_diffusion
from score_jax.convert.published import PUBLISHED, lookup
from score_jax.convert.records import Ingredients, read_json
from score_jax.convert.release import ENDING, find_release, from_release
from score_jax.convert.score_sde import Loaded, from_score_sde_jax, from_score_sde_pytorch
from score_jax.convert.vdm import from_vdm
from score_jax.model import Model
from score_jax.nets import UNet
from score_jax.types import Params

MODEL_FILE = "model.json"  # of a run folder: the ingredients of its model
CHECKPOINTS = "checkpoints"
NVIDIA, VDM = ".pkl", ".flax"  # of files that say what their network is
HUB_LIKE = re.compile(
    r"[\w-][\w.-]*/[\w.-]+"
)  # what a name on the hub looks like without its scheme
FIELDS = {True: "ema_params", False: "params"}
# Program that wrote a file of score_sde, by the ending of the file.
SCORE_SDE = {".pth": from_score_sde_pytorch, ".pt": from_score_sde_pytorch}


def load_pretrained(
    path: str | Path, preset: str | None = None, *, ema: bool = True
) -> tuple[Model, Params]:
    """A trained model and its parameters, ready for sampling: (model, params).

    Args:
      path: the name of a release of this library, such as "fashion_vp", or its `.npz`; the folder of
        a run of `experiments.train`; the folder of a diffusers `UNet2DModel`; a `.pkl` of EDM or EDM2;
        a `.flax` of VDM; with a preset, a file of score_sde, score_flow,
        OpenAI's consistency models, improved-diffusion or guided-diffusion; or, with the extra `hub`,
        any of these on the Hugging Face hub: "hf://USER/NAME" for a folder, "hf://USER/NAME/FILE" for
        a file.
      preset: name of the published run, such as "cifar10_ncsnpp_continuous"
        (`score_jax.convert.published`).
      ema: the averaged weights, or those of the last step. A release holds the averaged ones only.
        Files of improved-diffusion and diffusers hold one of them and do not say which.

    Raises ValueError for an unknown preset, a preset with a folder, a file without one, and weights
    that do not fit; OSError for files that cannot be opened or downloaded; ImportError for a name on the
    hub without the extra. For a name or a preset of a published file (`PUBLISHED_FILES`) that is not
    there, the error says what to download; nothing but a name on the hub is downloaded.

    >>> model, params = load_pretrained("runs/digits_vp")
    >>> out = sample(key, model.sde, model.score(params), (16, 8, 8, 1), sampler=heun, grid=grid)
    """
    return load_network(path, preset, ema=ema)[1:]


def load_network(
    path: str | Path, preset: str | None = None, *, ema: bool = True
) -> tuple[nn.Module, Model, Params]:
    """The network itself beside what `load_pretrained` gives: (network, model, params).

    A `Model` has only the function of its network. The module also has its fields, such as its classes.
    Arguments and errors are those of `load_pretrained`.

    >>> net, model, params = load_network("runs/digits_vp")
    """
    path = located(path)
    if not path.exists():
        known = published_file(path, preset)
        how = f": {known.how()}" if known else ""
        if not known and HUB_LIKE.fullmatch(str(path)):
            how = f"; on the Hugging Face hub it is {SCHEME}{path}"
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}{how}")
    if path.is_dir() or path.suffix in (NVIDIA, VDM, ENDING):
        if preset is not None:
            kind = "folder" if path.is_dir() else "file"
            raise ValueError(f"preset must be None for the {kind} {str(path)!r}, got {preset!r}")
        if (path / CHECKPOINTS).is_dir():
            return _of_run(path, ema)
        model, params, info = _described(path, ema)
        return info["module"], model, params
    if preset is None:
        raise ValueError(f"preset must name the network of the file {str(path)!r}, got None")
    ingredients = lookup(preset, PUBLISHED)
    if isinstance(ingredients.net, UNet):
        params = from_improved_diffusion(path, ingredients.net, ingredients.sde, ema=ema)[1]
    else:
        read = SCORE_SDE.get(path.suffix, from_score_sde_jax)
        params = read(path, ingredients.net, ingredients.sde, ema=ema)[1]
    return ingredients.net, ingredients.model(), params


def _described(path: Path, ema: bool) -> Loaded:
    """What a reader makes of a folder or file that describes its network."""
    if path.is_dir():
        return from_diffusers(path)
    if path.suffix == ENDING:
        if not ema:
            raise ValueError(f"ema must be True for the release {str(path)!r}, got {ema!r}")
        return from_release(path)
    return from_edm(path) if path.suffix == NVIDIA else from_vdm(path, ema=ema)


def located(path: str | Path) -> Path:
    """The local path of what `load_pretrained` is given: downloaded from the hub, or a found release.

    Without either the path is returned as it is. Raises as `from_hub` and `find_release`.
    """
    if is_hub_name(path):
        return from_hub(str(path))
    found = None if Path(path).exists() else find_release(str(path))
    return Path(path) if found is None else found


def _of_run(path: Path, ema: bool) -> tuple[nn.Module, Model, Params]:
    file = path / MODEL_FILE
    if not file.is_file():
        raise ValueError(
            f"{file} is missing: the run was made by score_jax 0.1, and repeating its command of "
            "experiments.train writes the file"
        )
    ingredients: Ingredients = read_json(Ingredients, file.read_text(encoding="utf-8"), str(file))
    params = checkpoints.restore_params(path / CHECKPOINTS, field=FIELDS[ema])
    return ingredients.net, ingredients.model(), params
