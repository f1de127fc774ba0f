"""Sweeps of short runs, an executor that follows a script, and what is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slotkit.config import Overrides
from slotkit.sweeps import results, run
from slotkit.sweeps.contract import Ended, Job, Options, Tell
from slotkit.sweeps.inline import Inline
from slotkit.sweeps.plan import Planned
from slotkit.sweeps.sweep import Sweep, start

TINY = {"slots.k": 2, "training.limit_batches": 8, "training.device": "cpu", "data.validation": 0.1}


def planned(epochs: int = 1, seeds: tuple[int, ...] = (3, 4), **values: Any) -> list[Planned]:
    """Runs that differ in their seed, called seed-3 and so on; settings as slots__k=4."""
    given = TINY | {"training.epochs": epochs} | {path.replace("__", "."): v for path, v in values.items()}
    return [
        Planned(
            (Overrides("test", given), Overrides("cell", {"seeds.reels": seed})), {}, seed, f"seed-{seed}"
        )
        for seed in seeds
    ]


class Scripted:
    """An executor that trains nothing: each run ends as the script says, once more each time it is tried.

    Args:
        script: name -> how each try ends; the last one is repeated. "finished" leaves a run trained inline.
        capacity: jobs at the same time.
    """

    def __init__(self, script: Mapping[str, list[str]], capacity: int = 100) -> None:
        self.script = {name: list(ends) for name, ends in script.items()}
        self.capacity, self.jobs, self.order, self.stops = capacity, list[Job](), list[str](), 0
        self.memory: dict[str, list[int]] = {}
        self.before: Callable[[Job, Tell], None] = lambda job, tell: None

    def has_room(self, memory: int) -> bool:
        del memory
        return len(self.jobs) < self.capacity

    def start(self, job: Job) -> None:
        self.jobs.append(job)
        self.order.append(job.name)
        self.memory.setdefault(job.name, []).append(job.memory)

    def wait(self, tell: Tell, seconds: float) -> None:
        del seconds
        if not self.jobs:
            return
        job = self.jobs.pop(0)
        self.before(job, tell)
        ends = self.script.get(job.name, ["finished"])
        how = ends.pop(0) if len(ends) > 1 else ends[0]
        if how == "finished":
            inline = Inline(Options())
            inline.start(job)
            inline.wait(tell, 0)
            return
        tell(Ended(job.key, how, f"It {how} here.", "nowhere, process 1"))

    def stop(self) -> None:
        self.stops += 1


def trained(place: Path, these: list[Planned], executor: Any = None, **given: Any) -> list[str]:
    """Train a sweep; what is said of it, an event a line."""
    sweep, notes = start(place, these, "the test")
    run.train(sweep, these, executor or Inline(Options()), lambda event: notes.append(said(event)), **given)
    return notes


def said(event: run.Event) -> str:
    if isinstance(event, run.Begun):
        return f"{event.done} of {event.runs} done, {event.left_epochs} of {event.epochs} epochs left"
    if isinstance(event, run.Started):
        return f"{event.name} started: {event.words}"
    if isinstance(event, run.Tried):
        return f"{event.name} tried again: {event.error}"
    if isinstance(event, run.Waits):
        return f"{event.name} waits for another process"
    if isinstance(event, run.Done):
        return f"{event.name} {event.how}" + (f": {event.error}" if event.error else "")
    return "progress"


def table(place: Path) -> list[dict[str, Any]]:
    """The final table of a sweep."""
    return [row.as_dict() for row in results.rows(Sweep.open(place))]


def assert_same_sweep(one: Path, other: Path) -> None:
    """The same final table, and the same metrics of every run, to the last bit."""
    assert table(one) == table(other)
    names = [run.entry.name for run in Sweep.open(one).runs()]
    assert names == [run.entry.name for run in Sweep.open(other).runs()]
    for name in names:
        texts = [(place / name / "metrics.jsonl").read_text() for place in (one, other)]
        assert texts[0] == texts[1]
        assert texts[0]
