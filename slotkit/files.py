"""Writing so that a file is either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from slotkit.errors import SlotkitError


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, then put it in place.

    Raises SlotkitError if the disk is full or the folder can't be written; `path` is then as before.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as fault:
        raise unwritable(path, fault) from fault
    finally:
        # Ctrl-C may come in the middle, too.
        temporary.unlink(missing_ok=True)


def unwritable(path: Path, fault: Exception) -> SlotkitError:
    """The sentence for a file that could not be written."""
    reason = getattr(fault, "strerror", None) or str(fault)
    return SlotkitError(
        f"{path} could not be written: {reason}. Free some space, or choose another folder with --runs-dir."
    )
