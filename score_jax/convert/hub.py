"""Repositories of the Hugging Face hub, by names such as `hf://google/ddpm-cifar10-32`.

The package `huggingface_hub`, of the extra `hub`, downloads them into its cache; what is there already
is not downloaded again, and with HF_HUB_OFFLINE=1 nothing is. Nothing that is downloaded is executed.
"""

import re
from pathlib import Path
from typing import Any

from score_jax._files import reason

SCHEME = "hf://"
_NAME = re.compile(rf"{SCHEME}([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/([^@]+))?")
# Of a run folder and of diffusers' folders; code and other programs' weights are left out.
FOLDER = ("*.json", "*.safetensors", "*.npz", "checkpoints/*", "**/checkpoints/*")


def is_hub_name(path: str | Path) -> bool:
    """Whether a path names a repository of the hub."""
    return isinstance(path, str) and path.startswith(SCHEME)


def from_hub(name: str) -> Path:
    """The local copy of a repository, `hf://USER/NAME`, or of a file in it, `hf://USER/NAME/FILE`.

    A revision may follow the name: `hf://USER/NAME@REVISION/FILE`.

    Raises ValueError for another form of name, ImportError without huggingface_hub, and OSError, in one
    line, if it cannot be downloaded.

    >>> folder = from_hub("hf://google/ddpm-cifar10-32")
    """
    found = _NAME.fullmatch(name)
    if found is None:
        forms = f"{SCHEME}USER/NAME or {SCHEME}USER/NAME/FILE"
        raise ValueError(f"a name on the hub must be {forms}, got {name!r}")
    repo, revision, file = found.groups()
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError(f'{name} needs huggingface_hub: pip install "score_jax[hub]"') from None
    given: dict[str, Any] = {"repo_id": repo, "revision": revision}
    try:
        if file is not None:
            return Path(huggingface_hub.hf_hub_download(filename=file, **given))
        folder = Path(huggingface_hub.snapshot_download(allow_patterns=list(FOLDER), **given))
        weights = [*folder.rglob("*.safetensors"), *folder.rglob("checkpoints/*")]
        if not weights:  # an older repository of diffusers
            every = [*FOLDER, "*.bin"]
            folder = Path(huggingface_hub.snapshot_download(allow_patterns=every, **given))
        return folder
    except Exception as error:  # whatever the package and its network library raise
        raise OSError(f"{name} cannot be downloaded: {reason(error)}") from error
