"""Optional packages: which extra of setup.cfg brings them, and what a command lacks of them."""

import importlib.util
import pathlib
from collections.abc import Sequence

# The modules that each extra brings, which a command asks for before it starts its work.
EXTRAS: dict[str, tuple[str, ...]] = {
    "plots": ("matplotlib",),
    "metrics": ("sklearn",),
    "data": ("sklearn", "mlxtend", "array_record", "pyarrow", "zarr", "h5py"),
    "weights": ("safetensors",),
    "video": ("imageio_ffmpeg",),
    "hub": ("huggingface_hub",),
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
}


def needs(extra: str, what: str, modules: Sequence[str] | None = None) -> None:
    """Raise ValueError naming the extra to install if a module of it, or one of those, is missing.

    >>> needs("plots", "the pictures of a run")
    """
    wanted = EXTRAS[extra] if modules is None else modules
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        raise ValueError(f'{names} must be installed for {what}: pip install "score_jax[{extra}]"')


def of_weights(option: str, path: str | None) -> str | None:
    """What needs the extra "weights": an option with a safetensors file or a folder of them, or None."""
    found = pathlib.Path(path or "")
    packed = found.suffix == ".safetensors"
    if path and (packed or (found.is_dir() and any(found.rglob("*.safetensors")))):
        return f"{option} {path}"
    return None


def hint(error: Exception) -> str:
    """The extra that brings the module that an error misses, as the end of a line; "" without one."""
    name = str(getattr(error, "name", None)).partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if name in modules), None)
    known = extra is None or "score_jax[" in str(error)
    return "" if known else f': pip install "score_jax[{extra}]"'
