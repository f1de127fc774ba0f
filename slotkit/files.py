"""Writing so that a file is either whole or not there. Everything that a run writes goes through here."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from slotkit.errors import SlotkitError, is_text


class Disk:
    """Every way in which slotkit changes a disk, one method each, so that tests can let each of them fail."""

    def fill(self, path: Path, write: Callable[[Path], None]) -> None:
        """Let `write` make a new file, which others may read if the umask lets them.

        safetensors makes files that their owner alone can read, whatever the umask.
        """
        path.unlink(missing_ok=True)
        path.touch()
        mode = stat.S_IMODE(path.stat().st_mode)
        write(path)
        path.chmod(mode)

    def append(self, path: Path, text: str) -> None:
        # A name in a sentence may be no UTF-8: it is shown escaped.
        with path.open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)

    def sync(self, path: Path) -> None:
        """Flush a file, or the names in a folder, to the disk."""
        if path.is_dir() and os.name == "nt":
            return  # Windows opens no folders, and needs none of this
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, path: Path, to: Path) -> None:
        path.replace(to)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(path, size)

    def remove(self, path: Path) -> None:
        """A file or an empty folder."""
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)


disk = Disk()


def write_whole(path: Path, write: Callable[[Path], None], aside: Path | None = None) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, then put it in place.

    `aside` is where the file of before goes, just before the new one takes its place.

    Raises SlotkitError if `path` is a folder, the disk is full or the folder can't be written; `path` is then
    as before.
    """
    if path.is_dir():
        raise SlotkitError(
            f"{path} is a folder, and a file is to be written there. Give the file a name, such as "
            f"{path / 'NAME'}."
        )
    temporary = path.with_name(path.name + ".tmp")
    try:
        with _told(path):
            disk.fill(temporary, write)
            disk.sync(temporary)
            if aside is not None and path.exists():
                if not aside.parent.is_dir():
                    disk.make_folder(aside.parent)
                    disk.sync(aside.parent.parent)
                disk.rename(path, aside)
                disk.sync(aside.parent)
            disk.rename(temporary, path)
            disk.sync(path.parent)
    finally:
        # Ctrl-C may come in the middle, too.
        if temporary.exists():
            _try_to_remove(temporary)


def write_text(path: Path, text: str) -> None:
    """`write_whole` of a text. Raises SlotkitError, too, if it names a file or folder that is not UTF-8."""
    check_utf8(text, f"What {path} is to name")
    write_whole(path, lambda file: _put(file, text.encode("utf-8")))


def check_utf8(text: str, what: str) -> None:
    """Raise SlotkitError if a text names a file or folder that is not UTF-8."""
    if not is_text(text):
        shown = next(line.strip() for line in text.splitlines() if not is_text(line))
        raise SlotkitError(
            f"{what} is not UTF-8: {shown!r}. Rename that file or folder, in letters of UTF-8."
        )


def write_bytes(path: Path, data: bytes) -> None:
    """`write_whole` of bytes."""
    write_whole(path, lambda file: _put(file, data))


def append_line(path: Path, line: str) -> None:
    """One line more. Not flushed to the disk: see `flush`."""
    with _told(path):
        disk.append(path, line + "\n")


def flush(path: Path) -> None:
    """Have what was appended on the disk."""
    with _told(path):
        disk.sync(path)


def cut(path: Path, size: int) -> None:
    """Keep the first `size` bytes."""
    with _told(path):
        disk.truncate(path, size)
        disk.sync(path)


def move(path: Path, to: Path) -> None:
    """Rename a file or a folder, and have that on the disk."""
    with _told(to):
        disk.rename(path, to)
        for folder in {path.parent, to.parent}:
            disk.sync(folder)


def make_folder(path: Path) -> None:
    """A folder, with those above it; it may be there."""
    with _told(path):
        if not path.is_dir():
            disk.make_folder(path)


def remove(path: Path) -> None:
    """A file, or a folder with all that is in it."""
    with _told(path):
        if path.is_dir() and not path.is_symlink():
            for inner in sorted(path.iterdir()):
                remove(inner)
        disk.remove(path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, UnicodeEncodeError) as fault:
        raise unwritable(path, fault) from fault


def unwritable(path: Path, fault: Exception) -> SlotkitError:
    """The sentence for a file that could not be written."""
    reason = getattr(fault, "strerror", None) or str(fault)
    return SlotkitError(
        f"{path} could not be written: {reason}. Free some space, or choose another folder, with --out where "
        "the command has it, else with --runs-dir."
    )


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _try_to_remove(path: Path) -> None:
    """It is swept later otherwise, and what went wrong first is what is told."""
    try:
        disk.remove(path)
    except OSError:
        return
