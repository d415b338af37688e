"""A lock that keeps two runs out of one folder, freed by the system when its process ends."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)
_NAME = ".lock"


class FolderLocked(OSError):
    """Another run that is alive has the folder."""


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the folder, which is made if it is missing, while the body runs.

    The lock is the operating system's (flock), so a killed run leaves none. Where the file system has
    no locks, that is logged and the body runs.

    Raises FolderLocked, saying who has it, and OSError if the folder cannot be written.

    >>> with locked("runs/x"):
    ...     fit(...)
    """
    path = Path(folder) / _NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if _take(file.fileno(), path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def _take(descriptor: int, path: Path) -> bool:
    """Whether the lock is ours now; False where there is no such thing as a lock."""
    try:
        import fcntl
    except ImportError:
        _log.warning("this system has no flock: nothing keeps a second run out of %s", path.parent)
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = path.read_text(encoding="utf-8") or "another process"
        raise FolderLocked(f"the folder {path.parent} is in use by {owner}") from None
    except OSError as error:
        _log.warning("cannot lock %s: %s", path, error)
        return False
    return True
