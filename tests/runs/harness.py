"""A disk on which the n-th change fails, and what becomes of a run on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slotkit import files
from slotkit.errors import SlotkitError
from slotkit.files import Disk

# error: the operation fails, once. kill: the process ends before it. torn: it ends in the middle of it, with
# half of a file written. power: it ends before it, and what was not flushed is lost.
MODES = ("error", "kill", "torn", "power")


class Killed(BaseException):
    """The process ends here."""


class FailingDisk(Disk):
    """Fails at its n-th operation, counted from 1; never with n = 0."""

    def __init__(self, n: int = 0, mode: str = "kill") -> None:
        self.n, self.mode, self.count, self.dead = n, mode, 0, False
        self.operations: list[str] = []
        self.unsynced: dict[Path, int] = {}

    def _now(self, what: str, path: Path) -> bool:
        """Whether to end in the middle. Raises if it ends, or has ended, before."""
        if self.dead:
            raise Killed
        self.count += 1
        self.operations.append(f"{what} {path.name}")
        if self.count != self.n:
            return False
        if self.mode == "error":
            raise OSError(28, "No space left on device")
        self.dead = True
        if self.mode == "torn":
            return True
        if self.mode == "power":
            for lost, size in self.unsynced.items():
                if lost.exists():
                    with lost.open("rb+") as file:
                        file.truncate(size)
        raise Killed

    def fill(self, path: Path, write: Callable[[Path], None]) -> None:
        torn = self._now("fill", path)
        super().fill(path, write)
        self.unsynced[path] = 0
        if torn:
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            raise Killed

    def append(self, path: Path, text: str) -> None:
        torn = self._now("append", path)
        self.unsynced.setdefault(path, path.stat().st_size if path.exists() else 0)
        super().append(path, text[: len(text) // 2] if torn else text)
        if torn:
            raise Killed

    def sync(self, path: Path) -> None:
        # Nothing here survives the process, so nothing waits for a real disk.
        torn = self._now("sync", path)
        self.unsynced.pop(path, None)
        if torn:
            raise Killed

    def rename(self, path: Path, to: Path) -> None:
        torn = self._now("rename", to)
        super().rename(path, to)
        inside = [lost for lost in self.unsynced if lost.is_relative_to(path)]
        for lost in inside:
            self.unsynced[to / lost.relative_to(path)] = self.unsynced.pop(lost)
        if torn:
            raise Killed

    def truncate(self, path: Path, size: int) -> None:
        torn = self._now("truncate", path)
        super().truncate(path, size)
        if torn:
            raise Killed

    def remove(self, path: Path) -> None:
        torn = self._now("remove", path)
        super().remove(path)
        self.unsynced.pop(path, None)
        if torn:
            raise Killed

    def make_folder(self, path: Path) -> None:
        torn = self._now("make", path)
        super().make_folder(path)
        if torn:
            raise Killed


def attempt(work: Callable[[], object], n: int, mode: str) -> tuple[str, FailingDisk]:
    """How `work` ends on a failing disk: "done", "killed", or the sentence of a SlotkitError."""
    disk = FailingDisk(n, mode)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "disk", disk)
        try:
            work()
        except Killed:
            return "killed", disk
        except SlotkitError as fault:
            return str(fault), disk
    return "done", disk
