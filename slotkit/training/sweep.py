"""A sweep: many runs in one folder. Those that are finished are not trained again, others go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slotkit.config import Overrides, resolve
from slotkit.data.identity import Identity
from slotkit.data.sources import find
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
        words: what it is, for the progress messages.
    """

    name: str
    settings: tuple[Overrides, ...]
    words: str = ""


def status(folder: RunFolder) -> str:
    """The status of a run; "missing" if it isn't there, or was killed before it wrote a summary."""
    return folder.status() if (folder.path / "summary.json").is_file() else "missing"


def accuracy(folder: RunFolder) -> float:
    """The test accuracy of a finished run at its best epoch, as a fraction, in its first reading."""
    first = next(iter(folder.summary()["test"]["best"].values()))
    return float(first["accuracy"])


def left_words(runs: int, left: int) -> str:
    """The sentence that is reported first."""
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
        begin: (runs, left to train) -> the sentence that is reported first.
        read: called once with each run when it is finished; gives the test accuracy that is reported.

    Raises SlotkitError if another process trains this sweep, or for settings that are refused.
    """
    with RunFolder(place).locked():
        left = [cell for cell in cells if status(RunFolder(place / cell.name)) not in DONE]
        report(Note(begin(len(cells), len(left))))
        data = _data_before(place, cells)
        for number, cell in enumerate(left, start=1):
            words = f": {cell.words}" if cell.words else ""
            report(Note(f"run {number} of {len(left)}, {cell.name}{words}"))
            try:
                folder = _train(place, cell, report, data)
            except DivergedError as fault:
                report(Note(f"  {fault}"))
                continue
            report(Note(f"  test {100 * read(folder):.2f} %, {folder.summary()['seconds']:.0f} s"))


def _data_before(place: Path, cells: Sequence[Cell]) -> dict[tuple[str, int | None], Identity]:
    """What the data were for the first run on each dataset: the others are compared with it."""
    found: dict[tuple[str, int | None], Identity] = {}
    for cell in cells:
        folder = RunFolder(place / cell.name)
        if status(folder) in DONE and (data := folder.data()) is not None:
            found.setdefault(_dataset(cell), data)
    return found


def _dataset(cell: Cell) -> tuple[str, int | None]:
    """The name of its dataset, and the size that pictures are stretched to."""
    data = resolve(cell.settings).config.data
    return data.dataset, data.size


def _train(
    place: Path, cell: Cell, report: Report, data: dict[tuple[str, int | None], Identity]
) -> RunFolder:
    """One run, new or from its last checkpoint; only its `Step` events are reported.

    Raises SlotkitError if a new run's data are not what `data` says; adds what they are.
    """
    folder = RunFolder(place / cell.name)

    def steps(event: object) -> None:
        if isinstance(event, Step):
            report(event)

    if (folder.path / "checkpoints").is_dir():
        return resume(folder, _free(cell), steps)
    if folder.path.exists():  # no run, or what an older slotkit left that was killed while it made one
        remove(folder.path)
    done = run(resolve(cell.settings), place, cell.name, steps, data=data.get(_dataset(cell)))
    if (known := done.data()) is not None:
        data.setdefault(_dataset(cell), known)
    return done


def _free(cell: Cell) -> list[Overrides]:
    """Those of its settings that may change when it goes on, such as where the data lies now."""
    own_folder = find(_dataset(cell)[0]).is_there  # which `data.dir` of a new run doesn't move
    free = [path for path in FREE if not (own_folder and path == "data.dir")]
    return [
        Overrides(layer.origin, {path: value for path, value in layer.values.items() if path in free})
        for layer in cell.settings
    ]
