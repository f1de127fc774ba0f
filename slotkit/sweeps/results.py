"""What a sweep has found so far: a row for each cell and reading, over its repetitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slotkit.sweeps.plan import cell_of
from slotkit.sweeps.sweep import COUNT_NOWHERE, State, Sweep
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
        left_out: how many count nowhere, being damaged or other runs (`Sweep.states` says why).
    """

    varied: dict[str, Any]
    reading: str
    wanted: int
    diverged: int
    accuracies: tuple[float, ...]
    runs: tuple[str, ...]
    left_out: int = 0

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
            "left out": self.left_out,
            "mean": self.mean,
            "spread": self.spread,
            "accuracies": list(self.accuracies),
            "runs": list(self.runs),
        }


def rows(sweep: Sweep, states: Sequence[State] | None = None) -> list[Row]:
    """In the order of the sweep. A run that is damaged, or is another one, is in no row's numbers.

    Args:
        states: of its runs, if they have been read already.
    """
    cells: dict[str, list[State]] = {}
    for state in sweep.states() if states is None else states:
        cells.setdefault(cell_of(state.run.entry.settings), []).append(state)
    return [row for cell in cells.values() for row in _rows(cell)]


def _rows(cell: list[State]) -> Iterator[Row]:
    finished = {
        state.run.entry.name: state.summary["test"]["best"] for state in cell if state.status == "finished"
    }
    statuses = [state.status for state in cell]
    left_out = sum(map(statuses.count, COUNT_NOWHERE))
    readings = list(dict.fromkeys(kind for test in finished.values() for kind in test)) or [""]
    for reading in readings:
        found = {name: test[reading]["accuracy"] for name, test in finished.items() if reading in test}
        yield Row(
            dict(cell[0].run.entry.varied),
            reading,
            len(cell),
            statuses.count("diverged"),
            tuple(found.values()),
            tuple(found),
            left_out,
        )
