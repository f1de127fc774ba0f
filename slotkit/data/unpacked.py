"""Encoded pictures one after the other in a temporary file, where any of them is found at once.

A parquet file is read in groups of rows: in a shuffled order each picture would cost the reading of a group.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from slotkit.data.files import naming
from slotkit.errors import SlotkitError


class _Place:
    """A temporary file, which is gone when the process that made it ends or no longer needs it.

    On Linux, where workers are copies of that process and share what it has open, the file loses its name at
    once: then the system removes it, however the process ends.
    """

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="slotkit-pictures-")
        self.path, self.owner = Path(name), os.getpid()
        self.file = os.fdopen(handle, "w+b")
        if sys.platform == "linux":
            self.path.unlink()
        self.end = weakref.finalize(self, _remove, self.file, self.path, self.owner)

    def read(self, begin: int, end: int) -> bytes:
        """Without a position in the file, which workers would share."""
        return os.pread(self.file.fileno(), end - begin, begin)


def _remove(file: BinaryIO, path: Path, owner: int) -> None:
    with suppress(OSError):  # what could not be written was told
        file.close()
    if os.getpid() == owner:  # a worker is a copy of that process
        path.unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class Unpacked:
    """See `slotkit.data.streams.Pictures`.

    Attributes:
        path: the file.
        ends: int64 (n + 1,): picture i is the bytes ends[i] to ends[i + 1].
        sources, first_rows: the parquet files, and the number of the first picture of each, int64.
        start: the number of the first picture, counted over all files.
        place: keeps the file; None in a worker.
    """

    path: Path
    ends: Tensor
    sources: tuple[Path, ...]
    first_rows: Tensor
    start: int
    place: _Place | None

    def __len__(self) -> int:
        return len(self.ends) - 1

    def between(self, first: int, last: int) -> Unpacked:
        """Those from number `first` to before `last`."""
        ends = self.ends[first : last + 1]
        return Unpacked(self.path, ends, self.sources, self.first_rows, self.start + first, self.place)

    def opened(self, number: int) -> tuple[str, BinaryIO]:
        begin, end = int(self.ends[number]), int(self.ends[number + 1])
        with naming(self.path):
            return self._where(number), BytesIO(self._bytes(begin, end))

    def _bytes(self, begin: int, end: int) -> bytes:
        if self.place is not None and sys.platform == "linux":
            return self.place.read(begin, end)
        with self.path.open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)

    def _where(self, number: int) -> str:
        row = self.start + number
        at = int(torch.searchsorted(self.first_rows, row, right=True)) - 1
        return f"{self.sources[at]} row {row - int(self.first_rows[at])}"

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"place": None}  # where workers are not copies of this process


def unpack(
    pictures: Iterable[tuple[str, bytes]],
    sources: Sequence[Path],
    rows: Sequence[int],
    size: int,
    needed_whole: bool = False,
) -> Unpacked:
    """Copy encoded pictures into a temporary file, in the folder that TMPDIR names.

    Args:
        pictures: (where it lies, encoded bytes), file by file.
        sources, rows: the files that they come from, and how many each has.
        size: about how many bytes they have.
        needed_whole: whether they are unpacked because an augmentation needs them whole, for the error.

    Raises SlotkitError if there is not enough space.
    """
    folder = tempfile.gettempdir()
    size *= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each process of a training unpacks them for itself
    free = shutil.disk_usage(folder).free
    if free < size:
        raise SlotkitError(
            f"{sources[0].parent} is unpacked into {folder} while it is used, which needs {size / 1e9:.1f} "
            f"GB, and {free / 1e9:.1f} GB are free. Let TMPDIR name a folder with more space, or "
            f"{'leave resized-crop out' if needed_whole else 'allow more memory with data.memory'}."
        )
    place, ends = _Place(), [0]
    try:
        for _, encoded in pictures:
            place.file.write(encoded)
            ends.append(ends[-1] + len(encoded))
        place.file.flush()
    except OSError as fault:
        raise SlotkitError(
            f"{place.path}, into which {sources[0].parent} is unpacked, can't be written: "
            f"{fault.strerror or fault}. Let TMPDIR name a folder with more space."
        ) from fault
    first_rows = torch.tensor([0, *rows[:-1]]).cumsum(0)
    return Unpacked(place.path, torch.tensor(ends), tuple(sources), first_rows, 0, place)
