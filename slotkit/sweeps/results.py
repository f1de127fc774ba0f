"""What a sweep has found so far: a row for each cell and reading, over its repetitions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from slotkit.sweeps.plan import cell_of
from slotkit.sweeps.sweep import Sweep, SweepRun
from slotkit.training.experiment import mean_and_spread


@dataclass(frozen=True)
class Row:
    """One cell in one reading.

    Attributes:
        varied: what tells the cell from the others.
        reading: "greedy", "sample", ...; "" before a run of it is finished.
        wanted: how many runs it is to have.
        diverged: how many did.
        accuracies: of the finished ones, as fractions of the test images, at the best epoch by validation.
        runs: their folders' names.
    """

    varied: dict[str, Any]
    reading: str
    wanted: int
    diverged: int
    accuracies: tuple[float, ...]
    runs: tuple[str, ...]

    @property
    def n(self) -> int:
        """How many runs are finished."""
        return len(self.accuracies)

    @property
    def mean(self) -> float | None:
        """Mean accuracy of the finished runs, a fraction; None without one."""
        return mean_and_spread(self.accuracies)[0] if self.accuracies else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the runs (n - 1 in the denominator); None below two runs."""
        return mean_and_spread(self.accuracies)[1] if self.accuracies else None

    def as_dict(self) -> dict[str, Any]:
        """As `slotkit sweep --json` prints it."""
        return {
            **self.varied,
            "reading": self.reading,
            "n": self.n,
            "wanted": self.wanted,
            "diverged": self.diverged,
            "mean": self.mean,
            "spread": self.spread,
            "accuracies": list(self.accuracies),
            "runs": list(self.runs),
        }


def rows(sweep: Sweep) -> list[Row]:
    """In the order of the sweep. Raises SlotkitError if a finished run is not the one that was asked for."""
    cells: dict[str, list[SweepRun]] = {}
    for run in sweep.runs():
        if run.done():
            sweep.check(run)
        cells.setdefault(cell_of(run.entry.settings), []).append(run)
    return [row for runs in cells.values() for row in _rows(runs)]


def _rows(runs: list[SweepRun]) -> Iterator[Row]:
    statuses = {run.key: run.status() for run in runs}
    finished = {
        run.entry.name: run.folder.summary()["test"]["best"]
        for run in runs
        if statuses[run.key] == "finished"
    }
    diverged = list(statuses.values()).count("diverged")
    readings = list(dict.fromkeys(kind for test in finished.values() for kind in test)) or [""]
    for reading in readings:
        found = {name: test[reading]["accuracy"] for name, test in finished.items() if reading in test}
        yield Row(
            dict(runs[0].entry.varied), reading, len(runs), diverged, tuple(found.values()), tuple(found)
        )
