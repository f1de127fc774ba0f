"""A sweep: many runs in one folder. Those that are finished are not trained again, others go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slotkit.config import Overrides, resolve
from slotkit.errors import DivergedError
from slotkit.files import remove
from slotkit.runs.fingerprint import FREE
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import Report, resume, run
from slotkit.training.loop import Note, Step

# Runs that need nothing more.
DONE = ("finished", "diverged")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        settings: the later ones count.
        words: what it is, for the one who waits.
    """

    name: str
    settings: tuple[Overrides, ...]
    words: str = ""


def status(folder: RunFolder) -> str:
    """That of the run; "missing" if it isn't there, or was killed before it said anything."""
    return folder.status() if (folder.path / "summary.json").is_file() else "missing"


def accuracy(folder: RunFolder) -> float:
    """Of a finished run: the first reading of the test images at the best epoch, as a fraction."""
    first = next(iter(folder.summary()["test"]["best"].values()))
    return float(first["accuracy"])


def left_words(runs: int, left: int) -> str:
    """What is said first: of so many runs so many are left."""
    return f"{runs} runs, {left} of them left to train."


def train(
    place: Path,
    cells: Sequence[Cell],
    report: Report = lambda event: None,
    begin: Callable[[int, int], str] = left_words,
    read: Callable[[RunFolder], float] = accuracy,
) -> None:
    """Train every run that is not finished; one that was interrupted goes on from its last checkpoint.

    A run that diverges is left as it is. Other errors, KeyboardInterrupt and StoppedError pass through:
    `train` again goes on from there.

    Args:
        place: the folder of the sweep, which is there; the runs' folders lie in it.
        begin: (runs, left to train) -> the sentence that is said first.
        read: called once with each run when it is finished; gives the test accuracy that is said.

    Raises SlotkitError if another process trains this sweep, or for settings that can't be.
    """
    with RunFolder(place).locked():
        left = [cell for cell in cells if status(RunFolder(place / cell.name)) not in DONE]
        report(Note(begin(len(cells), len(left))))
        for number, cell in enumerate(left, start=1):
            words = f": {cell.words}" if cell.words else ""
            report(Note(f"run {number} of {len(left)}, {cell.name}{words}"))
            try:
                folder = _train(place, cell, report)
            except DivergedError as fault:
                report(Note(f"  {fault}"))
                continue
            report(Note(f"  test {100 * read(folder):.2f} %, {folder.summary()['seconds']:.0f} s"))


def _train(place: Path, cell: Cell, report: Report) -> RunFolder:
    """One run, new or from its last checkpoint; of its events only the steps are told."""
    folder = RunFolder(place / cell.name)

    def steps(event: object) -> None:
        if isinstance(event, Step):
            report(event)

    if (folder.path / "checkpoints").is_dir():
        return resume(folder, _free(cell), steps)
    if folder.path.exists():  # no run, or what an older slotkit left that was killed while it made one
        remove(folder.path)
    return run(resolve(cell.settings), place, cell.name, steps)


def _free(cell: Cell) -> list[Overrides]:
    """Those of its settings that may change when it goes on, such as where the data lies now."""
    return [
        Overrides(layer.origin, {path: value for path, value in layer.values.items() if path in FREE})
        for layer in cell.settings
    ]
