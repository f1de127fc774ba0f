"""One process at a time trains in a folder. The lock ends with the process, even if it is killed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EAGAIN
from pathlib import Path

from filelock import FileLock, Timeout

from slotkit.errors import SlotkitError
from slotkit.files import unwritable

LOCK = "lock"

# Long enough for one who only looks (`is_locked`) to be gone again.
PATIENCE = 0.2


class LockedError(SlotkitError):
    """Another process has the lock."""


@contextmanager
def locked(folder: Path, what: str = "run") -> Iterator[None]:
    """Keep other processes from training in `folder`, which is a run or something else (`what`).

    Raises LockedError if another process has it, and SlotkitError if the lock can't be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE, poll_interval=0.02)
    except Timeout:
        raise refusal(folder, what) from None
    except OSError as fault:
        raise unwritable(folder / LOCK, fault) from fault
    try:
        yield
    finally:
        lock.release()


def refusal(folder: Path, what: str = "run") -> LockedError:
    """What `locked` raises if another process has the lock."""
    return LockedError(
        f"The {what} {folder.name} is being trained by another process. Wait for it, or stop it first."
    )


def is_locked(folder: Path) -> bool:
    """Whether a process trains in `folder`. Nothing is written: the disk may be read-only."""
    if not (folder / LOCK).is_file():
        return False
    if sys.platform == "win32":
        try:
            with locked(folder):
                return False
        except SlotkitError:
            return True
    import fcntl

    try:
        with (folder / LOCK).open("rb") as file:
            # Let go of when the file is closed.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as fault:
        return fault.errno in (EACCES, EAGAIN)
    return False
