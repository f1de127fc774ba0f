"""The driver of a sweep: it gives runs to an executor until each is done or has failed too often.

Nothing of what it knows is lost with it: how far runs are stands in their folders, errors in the manifest.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from slotkit.config import Overrides
from slotkit.data import sources
from slotkit.errors import SlotkitError
from slotkit.sweeps import memory
from slotkit.sweeps.contract import Ended, Executor, Job, Progress, Told
from slotkit.sweeps.estimate import Left, Pace
from slotkit.sweeps.kinds import of_memory
from slotkit.sweeps.parcel import settle
from slotkit.sweeps.plan import Planned, key_of, words
from slotkit.sweeps.sweep import DONE, State, Sweep, SweepRun
from slotkit.sweeps.training import here
from slotkit.training.prepare import whole_path, with_whole_paths
from slotkit.training.signals import StoppedError

# How often one run is tried again after an error, as long as it gets no further than before.
RETRIES = 2

# Seconds between two looks at what could be started, and until a run that is busy is tried again.
LOOK, BUSY = 0.5, 1.0


@dataclass(frozen=True)
class Begun:
    """The driver begins: so many runs are wanted, and so many are done."""

    runs: int
    done: int
    epochs: int
    left_epochs: int


@dataclass(frozen=True)
class Started:
    """A run is given to the executor; `words` say what it is."""

    key: str
    name: str
    words: str
    epochs: int


@dataclass(frozen=True)
class Tried:
    """A run will be tried again, for that reason."""

    key: str
    name: str
    error: str


@dataclass(frozen=True)
class Waits:
    """Another process trains a run of this sweep; it is looked at again and again until that has ended."""

    key: str
    name: str


@dataclass(frozen=True)
class Done:
    """A run is over: "finished", "diverged" or "failed"."""

    key: str
    name: str
    how: str
    error: str
    run: SweepRun


Event = Begun | Started | Progress | Tried | Waits | Left | Done
Report = Callable[[Event], None]


def train(
    sweep: Sweep,
    planned: Sequence[Planned],
    executor: Executor,
    report: Report = lambda event: None,
    retries: int = RETRIES,
    memory_each: int | None = None,
) -> list[SweepRun]:
    """Train what is not done. KeyboardInterrupt, and SIGTERM as StoppedError, pass through after saving.

    A run that is damaged, whose folder holds another run than it should, or that has other data than the runs
    before it, is given up at once with that as its error. Its folder stays as it is.

    Args:
        planned: the runs of the sweep, as it was started with them.
        retries: how often a run is tried again after an error, as long as it gets no further.
        memory_each: bytes that a run is expected to need, instead of what others of its kind took.

    Returns:
        The runs that failed.

    Raises SlotkitError if another process trains this sweep, or a mask has changed since a run of it began.
    """
    layers = {key_of(one.settings()): one for one in planned}
    with sweep.locked():
        sweep.check_masks()
        driver = _Driver(sweep, layers, executor, report, retries, memory_each)
        try:
            with _sigterm() as stopped:
                driver.train(stopped)
        finally:
            executor.stop()
    return driver.failed


class _Driver:
    def __init__(
        self,
        sweep: Sweep,
        planned: Mapping[str, Planned],
        executor: Executor,
        report: Report,
        retries: int,
        memory_each: int | None,
    ) -> None:
        self.sweep, self.planned, self.executor, self.report = sweep, planned, executor, report
        self.retries, self.memory_each = retries, memory_each
        self.runs = {run.key: run for run in sweep.runs()}
        self.pace, self.at_a_time = Pace(), 0
        self.first: dict[str, tuple[float, float]] = {}
        self.waiting: list[str] = []
        self.training: set[str] = set()
        self.not_before: dict[str, float] = {}
        self.tries: dict[str, int] = {}
        self.reached: dict[str, float] = {}
        self.share: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.lost: set[str] = set()
        self.busy: set[str] = set()
        self.failed: list[SweepRun] = []

    def train(self, stopped: threading.Event) -> None:
        for run in self.runs.values():
            settle(run.folder.path)
        states = {key: run.state() for key, run in self.runs.items()}
        faults = {key: fault for key, state in states.items() if (fault := self._fault(state))}
        left = [key for key, state in states.items() if key in faults or state.status not in DONE]
        self.waiting = [key for key in left if key not in faults]
        self.pace = Pace(states.values())
        for key in self.waiting:
            self.share[key] = states[key].summary.get("epochs", 0) / self.runs[key].epochs()
        epochs = sum(run.epochs() for run in self.runs.values())
        epochs_left = sum(self.runs[key].epochs() for key in self.waiting)
        self.report(Begun(len(self.runs), len(self.runs) - len(left), epochs, epochs_left))
        for key, fault in faults.items():
            self._give_up(Ended(key, "failed", fault, here()))
        while self.waiting or self.training:
            self._start()
            self.at_a_time = len(self.training)
            self.executor.wait(self._told, LOOK)
            if stopped.is_set():
                raise StoppedError("SIGTERM")

    def _fault(self, state: State) -> str:
        """Why a run can't be trained on, and is not touched; "" if it can."""
        try:
            if not state.fault:
                self.sweep.keep_data(state.run)
        except SlotkitError as fault:
            return str(fault)
        return state.fault

    def _start(self) -> None:
        """Start what can be started."""
        for key in list(self.waiting):
            if self.not_before.get(key, 0.0) > time.monotonic():
                continue
            needed = self._memory(key)
            if not self.executor.has_room(needed):
                return
            run, planned = self.runs[key], self.planned[key]
            data = self.sweep.data_of(key)
            self.waiting.remove(key)
            self.training.add(key)
            first = key not in self.not_before
            self.executor.start(
                Job(
                    key,
                    run.entry.name,
                    self.sweep.path.absolute(),
                    self.sweep.manifest.id,
                    tuple(map(_with_whole_paths, planned.layers)),
                    None if data is None else data.model_dump(mode="json"),
                    needed,
                    self.sweep.manifest.command or self.sweep.manifest.source,
                )
            )
            if first:
                self.report(
                    Started(key, run.entry.name, words(run.entry.varied, run.entry.seed), run.epochs())
                )

    def _told(self, told: Told) -> None:
        if isinstance(told, Progress):
            self.share[told.key] = told.share
            self.peaks[told.key] = max(told.peak, self.peaks.get(told.key, 0))
            self._see(told)
            self.report(told)
            self._tell_left()
            return
        self.training.remove(told.key)
        self.first.pop(told.key, None)
        self.sweep.keep_peak(told.key, self.peaks.pop(told.key, 0))
        if told.how in ("finished", "diverged"):
            self._done(told)
        elif told.how == "busy":
            self._again(told.key, BUSY)
            if told.key not in self.busy:
                self.busy.add(told.key)
                self.report(Waits(told.key, self.runs[told.key].entry.name))
        elif told.how == "stopped":
            self._again(told.key, 0.0)
        else:
            self._failed(told)

    def _done(self, ended: Ended) -> None:
        run = self._renewed(ended.key)
        try:
            self.sweep.keep_data(run)
        except SlotkitError as fault:
            self._failed(replace(ended, how="failed", error=str(fault)))
            return
        summary = run.state().summary
        self.pace.see(run, summary.get("epochs", 0), summary.get("seconds", 0.0))
        self._tell_left()
        self.report(Done(ended.key, run.entry.name, ended.how, ended.error, run))

    def _failed(self, ended: Ended) -> None:
        """Keep the error, and try again if the run got further than before or hasn't failed too often."""
        key = ended.key
        self.lost |= {key} if ended.how == "lost" else set()
        further = self.share.get(key, 0.0) > self.reached.get(key, 0.0)
        self.reached[key] = max(self.share.get(key, 0.0), self.reached.get(key, 0.0))
        self.tries[key] = 1 if further else self.tries.get(key, 0) + 1
        if self.tries[key] > self.retries:
            self._give_up(ended)
            return
        self.sweep.keep_failure(key, ended)
        self._again(key, 0.0)
        self.report(Tried(key, self._renewed(key).entry.name, ended.error))

    def _give_up(self, ended: Ended) -> None:
        """Keep the error, and leave that run to the next driver."""
        self.sweep.keep_failure(ended.key, ended)
        run = self._renewed(ended.key)
        self.failed.append(run)
        self.report(Done(ended.key, run.entry.name, "failed", ended.error, run))

    def _see(self, told: Progress) -> None:
        """How fast a run is, since it was first heard of after it began or went on."""
        now = time.monotonic()
        began, share = self.first.setdefault(told.key, (now, told.share))
        run = self.runs[told.key]
        self.pace.see(run, (told.share - share) * run.epochs(), now - began)

    def _tell_left(self) -> None:
        """Say how long the rest takes, as far as anything allows to tell."""
        todo = [
            (self.runs[key], (1 - self.share.get(key, 0.0)) * self.runs[key].epochs())
            for key in self.runs
            if key in self.training or key in self.waiting
        ]
        self.report(self.pace.left(todo, self.at_a_time))

    def _again(self, key: str, seconds: float) -> None:
        self.waiting.append(key)
        self.not_before[key] = time.monotonic() + seconds

    def _renewed(self, key: str) -> SweepRun:
        self.runs[key] = replace(self.runs[key], entry=self.sweep.manifest.runs[key])
        return self.runs[key]

    def _memory(self, key: str) -> int:
        """Bytes that a run is expected to need: what the hungriest of its kind took.

        It is twice that if its process was lost, which is what lack of memory does.
        """
        if self.memory_each is not None:
            return self.memory_each
        kind = of_memory(self.runs[key].entry.settings)
        entries = self.sweep.manifest.runs.items()
        taken = [
            max(entry.peak or 0, self.peaks.get(other, 0))
            for other, entry in entries
            if of_memory(entry.settings) == kind
        ]
        return (max(taken) or memory.UNKNOWN) * (2 if key in self.lost else 1)


def _with_whole_paths(layer: Overrides) -> Overrides:
    """Settings for a process that may be in another folder."""
    values = with_whole_paths(layer).values
    if "data.dataset" in values:
        values = {**values, "data.dataset": sources.absolute(values["data.dataset"])}
    if values.get("mask") is not None:
        values = {**values, "mask": whole_path(values["mask"])}
    return replace(layer, values=values)


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; it does not end the process then."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGTERM, before)
