"""Files: written whole or not at all, locked by one process at a time, and read with clear errors."""

import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PathLike = str | os.PathLike[str]

_LOCK = ".lock"
_log = logging.getLogger(__name__)


REASON = 300  # characters of a reason in a message


class FolderLocked(OSError):
    """Another process that is alive holds the folder."""


def reason(error: BaseException) -> str:
    """What an exception says, on one line of bounded length, with its type unless it is a ValueError."""
    text = " ".join(str(error)[: 4 * REASON].split())
    if type(error) is not ValueError:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= REASON else f"{text[:REASON]} ..."


@contextmanager
def reading(path: PathLike, kind: str = "") -> Iterator[None]:
    """Turn every exception of the body, which reads the file, into a ValueError that names the file.

    A library that reads damaged files raises whatever its code happens to raise. The message is one
    line, "PATH cannot be read (as KIND): reason". Errors of the operating system, such as
    FileNotFoundError, and a ValueError of one line that begins with the path pass unchanged.

    >>> with reading("x.npz", "an array file"):
    ...     arrays = dict(np.load("x.npz"))
    """
    try:
        yield
    except Exception as error:
        # Without a number, or "invalid argument": a library's own, or an offset outside of the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        named = type(error) is ValueError and str(error)[: 4 * REASON].startswith(str(path))
        if named and str(error) == reason(error):
            raise
        how = f" as {kind}" if kind else ""
        raise ValueError(f"{path} cannot be read{how}: {reason(error)}") from error


_HOST = socket.gethostname().partition(".")[0]


@functools.cache
def remove_left(folder: PathLike, *, every: bool = False) -> None:
    """Remove what `replacing` left in a folder when its process was killed, once in this process.

    Those are the parts of processes of this host that are no more; with `every`, for a folder that is
    `locked`, also those of other hosts.
    """
    for part in Path(folder).glob(".*.part*"):
        name = re.fullmatch(r"\..*\.(?:([^.]*)-)?(\d+)\.part(\..*)?", part.name)
        if name is None or (name[1] == _HOST and _is_alive(int(name[2]))):
            continue
        if every or name[1] == _HOST:
            _log.debug("removing %s", part)
            _remove(part)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Give the path of a new file or folder beside `path`, which replaces it if the body succeeds.

    What was written is synchronised to the disk before it is renamed, and removed if the body fails.
    Its ending is that of `path`, because some writers add one.

    >>> with replacing("grid.png") as part:
    ...     image.save(part)
    """
    path = Path(path)
    remove_left(path.parent)
    part = path.with_name(f".{path.stem}.{_HOST}-{os.getpid()}.part{path.suffix}")
    try:
        yield part
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(part, path)
    finally:
        _remove(part)


def sha256_of(path: PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: PathLike, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: PathLike, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_npz(path: PathLike, **arrays: Any) -> None:
    """Write arrays to a .npz file whole or not at all."""
    with replacing(path) as part:
        np.savez(part, **arrays)


@contextmanager
def locked(folder: PathLike, *, wait: bool = False) -> Iterator[None]:
    """Hold the folder, which is made if it is missing, while the body runs.

    The operating system frees the lock (flock) when the process ends, so a killed run leaves none.
    On a file system without locks this is logged and the body runs.

    Raises FolderLocked, naming the holder, unless `wait` is set, and OSError if the folder
    cannot be written.

    >>> with locked("runs/x"):
    ...     fit(...)
    """
    path = Path(folder) / _LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            owner = path.read_text(encoding="utf-8") or "another process"
            raise FolderLocked(f"the folder {path.parent} is in use by {owner}") from None
        except OSError as error:
            _log.warning("cannot lock %s: %s", path, error)
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield
