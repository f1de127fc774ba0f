"""Opening a safetensors file that may come from anyone: slot files and mask files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open

from slotkit.errors import SlotkitError

LARGEST_HEADER = 8 << 20


def open_checked(path: Path) -> Any:
    """The open file, whose header is not longer than the file or than LARGEST_HEADER bytes.

    Raises SlotkitError, the part of a sentence, or what safetensors raises for other faults of the header.
    """
    if not path.is_file():
        raise SlotkitError("there is no such file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(LARGEST_HEADER, size - 8):
        raise SlotkitError(
            f"its header claims {length} bytes, in a file of {size} bytes; {LARGEST_HEADER} are allowed"
        )
    return safe_open(path, framework="pt")
