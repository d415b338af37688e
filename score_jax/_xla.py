"""Settings of XLA that matter on a CPU, and the cache of compiled programs; nothing acts on import."""

import contextlib
import contextvars
import functools
import mmap
import os
import pathlib
from collections.abc import Iterator

import jax
import jaxlib

FLAG = "xla_cpu_experimental_ynn_fusion_type"
VALUE = "-individual_convolution"
KNOWN_AS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"  # what VALUE names inside jaxlib


def tune_cpu() -> bool:
    """Make float32 convolutions about 1.4 times faster on a CPU; returns whether this call set it.

    jaxlib 0.10 sends convolutions to a library that is slower for small networks; XLA_FLAGS turns that
    off. Call it before JAX computes anything: JAX reads XLA_FLAGS once. The flag is set only if the
    user (or an earlier call) has not set it, if no other platform than a CPU is asked for, and if
    this jaxlib knows flag and value: an unknown flag would end the process.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    platforms = os.environ.get("JAX_PLATFORMS") or "cpu"
    if FLAG in flags or "cpu" not in platforms.split(",") or not _known(FLAG, KNOWN_AS):
        return False
    os.environ["XLA_FLAGS"] = f"{flags} --{FLAG}={VALUE}".strip()
    return True


_FORWARD = contextvars.ContextVar("_FORWARD", default=False)


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """Say to what is traced inside that forward mode alone will be met: plain convolutions do it best.

    Wrong use costs time, never correctness.
    """
    token = _FORWARD.set(True)
    try:
        yield
    finally:
        _FORWARD.reset(token)


def wants_own_derivatives() -> bool:
    """Say whether convolutions should bring their own derivatives: on a CPU, but for forward mode."""
    return jax.default_backend() == "cpu" and not _FORWARD.get()


@functools.cache
def _known(*names: str) -> bool:
    """Look for all names in one of jaxlib's binaries (a tenth of a second, no process started)."""
    folder = pathlib.Path(jaxlib.__file__).parent
    for path in sorted(folder.rglob("*.so*"), key=lambda p: -p.stat().st_size)[:2]:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if all(data.find(name.encode()) >= 0 for name in names):
                return True
    return False


def cache_folder() -> pathlib.Path:
    """Where score_jax keeps what can be made again: $SCORE_JAX_CACHE or ~/.cache/score_jax."""
    given = os.environ.get("SCORE_JAX_CACHE")
    return pathlib.Path(given) if given else pathlib.Path.home() / ".cache" / "score_jax"


def enable_compilation_cache(folder: str | os.PathLike[str] | None = None) -> pathlib.Path | None:
    """Keep compiled programs between runs, in `folder` or cache_folder()/xla; returns the place.

    Does nothing (None) if the user has set jax_compilation_cache_dir already or if the folder cannot be
    written.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return None
    place = pathlib.Path(folder) if folder is not None else cache_folder() / "xla"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(place, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return place
