"""How long what is left of a sweep takes, as far as runs of the same kind have shown how fast they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from slotkit.sweeps.kinds import of_time
from slotkit.sweeps.sweep import COUNT_NOWHERE, DONE, State, SweepRun


@dataclass(frozen=True)
class Left:
    """What is left to train.

    Attributes:
        runs: how many are left.
        known: of how many of these a time can be told.
        training: seconds of those, one after the other.
        longest: seconds of the longest of them.
        at_a_time: how many are trained at the same time; None if that isn't known.
    """

    runs: int
    known: int
    training: float
    longest: float
    at_a_time: int | None

    @property
    def seconds(self) -> float | None:
        """Until those are finished; None if nothing allows to tell."""
        if not self.known or not self.at_a_time:
            return None
        return max(self.longest, self.training / self.at_a_time)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: seconds are None where nothing allows to tell."""
        return {
            "runs": self.runs,
            "runs with an estimate": self.known,
            "seconds of training": self.training if self.known else None,
            "at a time": self.at_a_time,
            "seconds": self.seconds,
        }


class Pace:
    """How fast runs of each kind are. `states` are what is there already."""

    def __init__(self, states: Iterable[State] = ()) -> None:
        self._seen: dict[str, dict[str, tuple[float, float]]] = {}
        for state in states:
            self.see(state.run, state.summary.get("epochs", 0), state.summary.get("seconds", 0.0))

    def see(self, run: SweepRun, epochs: float, seconds: float) -> None:
        """A run has taken so long for so many epochs; what was seen of it before counts no more."""
        if epochs > 0 and seconds > 0:
            self._seen.setdefault(of_time(run.entry.settings), {})[run.key] = (epochs, seconds)

    def left(self, todo: Sequence[tuple[SweepRun, float]], at_a_time: int | None) -> Left:
        """The time of runs that lack so many epochs."""
        times = [epochs * each for run, epochs in todo if (each := self._of(run)) is not None]
        most = at_a_time and min(at_a_time, len(todo))
        return Left(len(todo), len(times), sum(times), max(times, default=0.0), most)

    def _of(self, run: SweepRun) -> float | None:
        """Seconds of an epoch: the mean of its kind."""
        seen = self._seen.get(of_time(run.entry.settings), {}).values()
        return sum(seconds for _, seconds in seen) / sum(epochs for epochs, _ in seen) if seen else None


def left_of(states: Sequence[State], at_a_time: int | None) -> Left:
    """What is left of a sweep whose runs are so far; runs that count nowhere are not trained."""
    todo = [
        (state.run, max(0.0, state.run.epochs() - state.summary.get("epochs", 0)))
        for state in states
        if state.status not in (*DONE, *COUNT_NOWHERE)
    ]
    return Pace(states).left(todo, at_a_time)
