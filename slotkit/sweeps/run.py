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
from typing import Any

from slotkit.config import Overrides
from slotkit.data import sources
from slotkit.errors import SlotkitError
from slotkit.sweeps import memory
from slotkit.sweeps.contract import Ended, Executor, Job, Progress, Told
from slotkit.sweeps.parcel import settle
from slotkit.sweeps.plan import Planned, key_of, words
from slotkit.sweeps.sweep import Sweep, SweepRun
from slotkit.training.prepare import with_whole_paths
from slotkit.training.signals import StoppedError

# How often one run is tried again after an error, as long as it gets no further than before.
RETRIES = 2

# Seconds between two looks at what could be started, and until a run that is busy is tried again.
LOOK, BUSY = 0.5, 1.0

# What decides how much memory a run takes, among its settings.
KIND = ("method", "model", "data.dataset", "data.size", "training.batch_size", "training.precision")


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


Event = Begun | Started | Progress | Tried | Waits | Done
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

    Args:
        planned: the runs of the sweep, as it was started with them.
        retries: how often a run is tried again after an error, as long as it gets no further.
        memory_each: bytes that a run is expected to need, instead of what others of its kind took.

    Returns:
        The runs that failed.

    Raises SlotkitError if another process trains this sweep, or a folder holds another run than it should.
    """
    layers = {key_of(one.settings()): one for one in planned}
    with sweep.locked():
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
            if (run.folder.path / "config.toml").is_file():
                self.sweep.check(run)
                self.sweep.keep_data(run)
        self.waiting = [key for key, run in self.runs.items() if not run.done()]
        epochs = {key: run.epochs() for key, run in self.runs.items()}
        left = sum(epochs[key] for key in self.waiting)
        self.report(Begun(len(self.runs), len(self.runs) - len(self.waiting), sum(epochs.values()), left))
        while self.waiting or self.training:
            self._start()
            self.executor.wait(self._told, LOOK)
            if stopped.is_set():
                raise StoppedError("SIGTERM")

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
            self.report(told)
            return
        self.training.remove(told.key)
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
        self.report(Done(ended.key, run.entry.name, ended.how, ended.error, run))

    def _failed(self, ended: Ended) -> None:
        """Keep the error, and try again if the run got further than before or hasn't failed too often."""
        key = ended.key
        self.sweep.keep_failure(key, ended)
        self.lost |= {key} if ended.how == "lost" else set()
        further = self.share.get(key, 0.0) > self.reached.get(key, 0.0)
        self.reached[key] = max(self.share.get(key, 0.0), self.reached.get(key, 0.0))
        self.tries[key] = 1 if further else self.tries.get(key, 0) + 1
        run = self._renewed(key)
        if self.tries[key] > self.retries:
            self.failed.append(run)
            self.report(Done(key, run.entry.name, "failed", ended.error, run))
            return
        self._again(key, 0.0)
        self.report(Tried(key, run.entry.name, ended.error))

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
        kind = _kind(self.runs[key].entry.settings)
        entries = self.sweep.manifest.runs.items()
        taken = [
            max(entry.peak or 0, self.peaks.get(other, 0))
            for other, entry in entries
            if _kind(entry.settings) == kind
        ]
        return (max(taken) or memory.UNKNOWN) * (2 if key in self.lost else 1)


def _with_whole_paths(layer: Overrides) -> Overrides:
    """Settings for a process that may be in another folder."""
    values = with_whole_paths(layer).values
    if "data.dataset" in values:
        values = {**values, "data.dataset": sources.absolute(values["data.dataset"])}
    return replace(layer, values=values)


def _kind(settings: Mapping[str, Any]) -> dict[str, Any]:
    dense = settings.get("slots.form") == "dense" or settings.get("slots.update") == "selected"
    k = {"slots.k": settings.get("slots.k")} if dense else {}
    return k | {path: value for path, value in settings.items() if path in KIND or path.startswith("model.")}


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
