"""A run folder as bytes, for machines that share no disk."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path, PurePosixPath
from uuid import uuid4

from slotkit.errors import SlotkitError
from slotkit.files import make_folder, move, remove, write_bytes
from slotkit.runs.folder import BESIDE
from slotkit.runs.lock import LOCK

# Ends the name that a folder has while another one takes its place.
BEFORE = ".before"


def pack(folder: Path) -> bytes:
    """The files of a run as a tar archive, without its lock and what is half written."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != LOCK and path.suffix != ".tmp":
                archive.add(path, str(PurePosixPath(path.relative_to(folder))), recursive=False)
    return buffer.getvalue()


def deliver(data: bytes, folder: Path) -> None:
    """Put the folder in the parcel in the place of `folder`, which may be there, in one stroke.

    Raises SlotkitError if it is no parcel, or the disk is full; `folder` is then as it was.
    """
    beside = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}{BESIDE}")
    try:
        make_folder(beside / "checkpoints")
        _unpack(data, beside)
        before = folder.with_name(f".{folder.name}{BEFORE}")
        if folder.exists():
            if before.exists():
                remove(before)
            move(folder, before)
        move(beside, folder)
        if before.exists():
            remove(before)
    finally:
        if beside.exists():
            remove(beside)


def settle(folder: Path) -> None:
    """Put things right if a process was killed in `deliver`."""
    before = folder.with_name(f".{folder.name}{BEFORE}")
    if before.exists():
        remove(before) if folder.exists() else move(before, folder)


def _unpack(data: bytes, folder: Path) -> None:
    try:
        with tarfile.open(fileobj=BytesIO(data)) as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                content = archive.extractfile(member)
                if content is None or path.is_absolute() or ".." in path.parts:
                    raise SlotkitError(
                        f"the parcel of {folder.name} has {member.name!r}, which is no file of a run"
                    )
                make_folder((folder / path).parent)
                write_bytes(folder / path, content.read())
    except tarfile.TarError as fault:
        raise SlotkitError(f"What came back as the run {folder.name} is no parcel: {fault}.") from fault
