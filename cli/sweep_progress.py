"""How a sweep in training is shown: a line a run in progress and one bar for all; plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slotkit.cli.output import duration

from slotkit.errors import many

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import Task, TaskID

    from slotkit.sweeps.estimate import Left
    from slotkit.sweeps.run import Done, Event
    from slotkit.training.loop import Note


@contextmanager
def sweep_progress() -> Iterator[Callable[[Event | Note], None]]:
    """A reporter of the events of a sweep, and of notes."""
    if not sys.stderr.isatty():
        yield _Lines(lambda text: print(text, file=sys.stderr, flush=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class OfOneRun(TimeRemainingColumn):
        """The time of all runs is told by the driver, which knows of what kind each is."""

        def render(self, task: Task) -> Text:
            return Text() if task.fields["of_all"] else super().render(task)

    columns = (
        *(TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.percentage:>3.0f} %")),
        *(TextColumn("{task.fields[told]}"), OfOneRun()),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars)


class _Lines:
    """A line for what begins and ends."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.runs, self.over, self.left = say, 0, 0, ""

    def __call__(self, event: Event | Note) -> None:
        from slotkit.sweeps.estimate import Left
        from slotkit.sweeps.run import Begun, Done, Started, Tried, Waits
        from slotkit.training.loop import Note

        if isinstance(event, Note):
            self.say(event.text)
        elif isinstance(event, Begun):
            self.runs, self.over = event.runs, event.done
            lacking = event.runs - event.done
            self.say(f"{many(event.runs, 'run')}, {lacking} of them left to train.")
        elif isinstance(event, Left):
            self.left = _left(event)
        elif isinstance(event, Started):
            self.say(f"{event.name}: {event.words or 'started'}")
        elif isinstance(event, Tried):
            self.say(f"{event.name} is tried again: {event.error}")
        elif isinstance(event, Waits):
            self.say(f"{event.name} waits: another process trains it. It goes on when that has ended.")
        elif isinstance(event, Done):
            self.over += 1
            left = f"; {self.left}" if self.left else ""
            self.say(f"[{self.over}/{self.runs}] {event.name}: {_result(event)}{left}")


class _Bars(_Lines):
    """A bar for all, and one for each run that has begun to train."""

    def __init__(self, bars: Bars) -> None:
        super().__init__(lambda text: bars.console.print(text, highlight=False, markup=False))
        self.bars, self.all = bars, bars.add_task("all runs", total=None, told="", of_all=True)
        self.tasks: dict[str, TaskID] = {}
        self.names: dict[str, tuple[str, int]] = {}
        self.before = 0.0

    def __call__(self, event: Event | Note) -> None:
        from slotkit.sweeps.contract import Progress
        from slotkit.sweeps.run import Begun, Done, Started

        if isinstance(event, Started):
            self.names[event.key] = event.name, event.epochs
            return
        if not isinstance(event, Progress):
            super().__call__(event)
        if isinstance(event, Begun):
            self.before = event.epochs - event.left_epochs
            self.bars.update(self.all, total=event.epochs)
        elif isinstance(event, Progress):
            name, _ = self.names.get(event.key, (event.key, 0))
            if event.key not in self.tasks:
                self.tasks[event.key] = self.bars.add_task(name, total=1.0, told="", of_all=False)
            best = "" if event.best is None else f", best {100 * event.best:.2f} %"
            told = f"epoch {event.epoch}/{event.epochs}{best}"
            self.bars.update(self.tasks[event.key], completed=event.share, told=told)
        elif isinstance(event, Done):
            self.before += self.names.pop(event.key, ("", 0))[1]
            if (task := self.tasks.pop(event.key, None)) is not None:
                self.bars.remove_task(task)
        self.bars.update(self.all, completed=self.before + self._under_way(), told=self._of_all())

    def _of_all(self) -> str:
        return f"{self.over}/{self.runs}" + (f", {self.left}" if self.left else "")

    def _under_way(self) -> float:
        """Epochs of the runs in progress."""
        tasks = {task.id: task.completed for task in self.bars.tasks}
        return sum(self.names[key][1] * tasks[task] for key, task in self.tasks.items() if key in self.names)


def _left(left: Left) -> str:
    """How long the rest takes; "" where nothing allows to tell."""
    if left.seconds is None:
        return ""
    whose = "" if left.known == left.runs else f" for {left.known} of {left.runs} runs"
    return f"about {duration(left.seconds)} left{whose}"


def _result(event: Done) -> str:
    """How a run ended, in words."""
    if event.how != "finished":
        return f"{event.how}: {event.error}"
    summary = event.run.folder.summary()
    first = next(iter(summary["test"]["best"].values()))
    return f"test {100 * first['accuracy']:.2f} %, {summary['seconds']:.0f} s"
