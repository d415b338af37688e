"""Settings of a process: XLA on a CPU, the cache of compiled programs, failures of solvers.

Importing this module changes nothing.
"""

import functools
import mmap
import os
import pathlib
import sys

import jax
import jaxlib

ON_ERROR, AS_NAN = "EQX_ON_ERROR", "nan"
FLAG = "xla_cpu_experimental_ynn_fusion_type"
VALUE = "-individual_convolution"
KNOWN_AS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"  # the name of VALUE inside jaxlib


def tune_cpu() -> bool:
    """Make float32 convolutions about 1.4 times faster on a CPU; whether this call set the flag.

    jaxlib 0.10 passes convolutions to a library that is slower for small networks; a flag in XLA_FLAGS
    turns that off. Call this before JAX computes anything, because JAX reads XLA_FLAGS once. The flag
    is set only if nobody has set it, if JAX_PLATFORMS names no platform without the CPU, and if this
    jaxlib has both flag and value, because an unknown flag would end the process.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    platforms = os.environ.get("JAX_PLATFORMS") or "cpu"
    if FLAG in flags or "cpu" not in platforms.split(",") or not _known(FLAG, KNOWN_AS):
        return False
    os.environ["XLA_FLAGS"] = f"{flags} --{FLAG}={VALUE}".strip()
    return True


@functools.cache
def _known(*names: str) -> bool:
    """Whether one of jaxlib's binaries contains all names (a tenth of a second, no process started)."""
    folder = pathlib.Path(jaxlib.__file__).parent
    for path in sorted(folder.rglob("*.so*"), key=lambda p: -p.stat().st_size)[:2]:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if all(data.find(name.encode()) >= 0 for name in names):
                return True
    return False


def failures_as_nan() -> bool:
    """Let solvers that fail return NaN instead of raising; whether the setting changed.

    Adaptive solvers and likelihoods report failures by a call to the host, with which a program cannot
    be exported, nor compiled on a machine without the accelerator. With NaN in its place it can:

    >>> runtime.failures_as_nan()  # before the first solver is imported
    >>> program = jax.export.export(jax.jit(solve), platforms=["tpu"])(x)

    Sets EQX_ON_ERROR=nan for this process, which equinox reads once. Raises RuntimeError if equinox has
    been imported with another setting.
    """
    if os.environ.get(ON_ERROR) == AS_NAN:
        return False
    if "equinox" in sys.modules:
        raise RuntimeError(
            f"failures_as_nan must be called before solvers are imported; or set {ON_ERROR}=nan in the "
            "environment"
        )
    os.environ[ON_ERROR] = AS_NAN
    return True


def cache_folder() -> pathlib.Path:
    """The folder of files that can be made again: $SCORE_JAX_CACHE or ~/.cache/score_jax."""
    given = os.environ.get("SCORE_JAX_CACHE")
    return pathlib.Path(given) if given else pathlib.Path.home() / ".cache" / "score_jax"


def enable_compilation_cache(folder: str | os.PathLike[str] | None = None) -> pathlib.Path | None:
    """Keep compiled programs between runs, in `folder` or cache_folder()/xla; returns the folder.

    Does nothing and returns None if jax_compilation_cache_dir is already set or if the folder cannot
    be written.
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
