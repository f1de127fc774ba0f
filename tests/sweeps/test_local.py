"""Processes on this machine: what is killed loses nothing, whoever it is."""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import invoke  # type: ignore[import-not-found]
from forks import COMMAND, Fork, Forks  # type: ignore[import-not-found]
from sweeps.made import assert_same_sweep, planned, table  # type: ignore[import-not-found]

from slotkit.errors import SlotkitError
from slotkit.runs.folder import RunFolder
from slotkit.runs.lock import is_locked
from slotkit.sweeps import memory
from slotkit.sweeps.contract import Ended, Job, Options, Progress, Told
from slotkit.sweeps.local import Local
from slotkit.sweeps.process import Worker
from slotkit.sweeps.sweep import Sweep, start
from slotkit.sweeps.worker import _listen as listen
from slotkit.sweeps.worker import event

# Runs that take a second or two each, with a checkpoint every epoch.
FILE = """
name = "some"
seeds = [0, 1]
settings.training = { epochs = EPOCHS, limit_batches = 8, device = "cpu", batch_size = 32 }
settings.data.validation = 0.1
grid.k = [2, 8]
"""
TWICE = 'grid.selection = ["GS", "PS"]\n'

# How often a test looks for what has to come. A clock would go on while a busy machine stops this process.
LOOKS = 15_000


def until(what: Callable[[], Any], process: Fork | None = None) -> Any:
    """Wait for something that comes to pass while a process runs."""
    for _ in range(LOOKS):
        if found := what():
            return found
        assert process is None or process.poll() is None, process.err.read_text()
        time.sleep(0.02)
    raise AssertionError("it never came")


def workers(of: Fork) -> list[int]:
    """The processes that a driver has started."""
    found = Path(f"/proc/{of.pid}/task").glob("*/children")
    return [int(pid) for children in found for pid in children.read_text().split()]


def statuses(place: Path) -> list[str]:
    return [run.status() for run in Sweep.open(place).runs()]


def begun(place: Path, epochs: int) -> list[str]:
    """Runs that are being trained and have so many epochs."""
    found = []
    for path in place.glob("*/summary.json"):
        summary = json.loads(path.read_text())
        if summary["status"] == "running" and summary.get("epochs", 0) >= epochs:
            found.append(path.parent.name)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers of a process in /proc")
@pytest.mark.parametrize("drivers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_drivers_are_killed_and_a_worker(
    drivers: int, tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """A driver is killed, a worker of the next one, in the long form that driver too; the last one ends."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        text = FILE.replace("EPOCHS", str(20 * drivers)) + (TWICE if drivers == 2 else "")
        (folder / "some.toml").write_text(text)
    monkeypatch.chdir(whole)
    undisturbed = invoke("sweep", "some.toml", "--executor", "inline")
    assert undisturbed.exit_code == 0
    place = cut / "runs" / "some"

    def driver() -> Fork:
        return forks.start(COMMAND, "sweep", "some.toml", "--jobs", str(drivers), cwd=cut)

    first = driver()
    until(lambda: begun(place, 2), first)
    first.kill()
    last = driver()
    # The first driver's runs that were under way are saved by their workers, or go on from a checkpoint.
    until(lambda: statuses(place).count("finished") >= drivers and begun(place, 2), last)
    os.kill(workers(last)[0], signal.SIGKILL)
    until(lambda: any(run.entry.failures for run in Sweep.open(place).runs()), last)
    if drivers == 2:
        until(lambda: statuses(place).count("finished") >= 4 and begun(place, 2), last)
        last.kill()
        last = driver()
    out = last.checked()
    # What was under way when a driver was killed, or a worker, was not begun anew.
    logs = [path.read_text() for path in place.glob("*/log.txt")]
    assert any("Resumed after step" in log for log in logs)
    failures = [failure.error for run in Sweep.open(place).runs() for failure in run.entry.failures]
    assert failures == [
        "The process that trained it was ended by SIGKILL. The system does that when memory runs out: try "
        "fewer --jobs."
    ]
    assert undisturbed.stdout == out
    assert_same_sweep(whole / "runs" / "some", place)
    assert {row["n"] for row in table(place)} == {2}


@pytest.fixture
def told() -> list[Told | Path]:
    return []


@pytest.fixture
def worker(told: list[Told | Path]) -> Iterator[Worker]:
    one = Worker(1, told.append)
    yield one
    one.ask_to_stop()
    one.join()


def job(place: Path, epochs: int, seed: int = 3) -> Job:
    (these,) = planned(epochs, (seed,))
    sweep, _ = start(place, [these], "the test")
    (key,) = sweep.manifest.runs
    return Job(key, f"seed-{seed}", place, sweep.manifest.id, these.layers)


def ended(told: list[Told | Path]) -> Ended | None:
    return next((one for one in told if isinstance(one, Ended)), None)


def test_a_worker_trains_one_run_after_the_other(
    tmp_path: Path, worker: Worker, told: list[Told | Path]
) -> None:
    assert worker.job is None
    for name in ("a", "b"):
        worker.start(one := job(tmp_path / name, 2))
        end = until(lambda: ended(told))
        assert (end.key, end.how, end.error) == (one.key, "finished", "")
        assert f"process {worker.pid}" in end.where
        assert worker.job is None
        told.clear()
    # What it is asked while it trains: to stop, which saves the run.
    worker.start(job(tmp_path / "c", 100_000))
    until(lambda: any(isinstance(one, Progress) and one.epoch > 1 for one in told))
    worker.ask_to_stop()
    worker.join()
    assert ended(told).how == "stopped"  # type: ignore[union-attr]
    folder = RunFolder(tmp_path / "c" / "seed-3")
    assert folder.status() == "stopped"
    assert not is_locked(folder.path)
    assert not worker.alive()


def test_a_process_that_dies_says_that_its_run_is_lost(
    tmp_path: Path, worker: Worker, told: list[Told | Path]
) -> None:
    # What the process says for itself is kept: this is no job.
    worker.job = job(tmp_path, 1)
    assert worker._process.stdin is not None
    worker._process.stdin.write("{}\n")
    worker._process.stdin.flush()
    end = until(lambda: ended(told))
    assert (end.key, end.how) == (worker.job.key, "lost")
    assert end.error == "The process that trained it ended with exit code 1."
    assert "KeyError: 'layers'" in end.trace


def listened(told: list[Told | Path], out: str, code: int = 0) -> Worker:
    """A worker whose process has printed that and ended."""
    one = Worker.__new__(Worker)
    process = SimpleNamespace(stdout=io.StringIO(out), stdin=io.StringIO(), wait=lambda: code, pid=7)
    one._process, one._errors = process, io.BytesIO(b"words")  # type: ignore[assignment]
    one._say, one._end, one._giving, one.job = told.append, None, threading.Lock(), given("key", 1)
    one._listen()
    return one


def test_files_of_the_current_folder_are_no_modules_of_a_worker(
    tmp_path: Path, told: list[Told | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("queue.py", "slotkit.py"):
        (tmp_path / name).write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    one = Worker(1, told.append)
    one.start(job(tmp_path / "a", 1))
    end = until(lambda: ended(told))
    one.ask_to_stop()
    one.join()
    assert (end.how, end.error) == ("finished", "")


def test_what_python_prints_as_it_starts_is_no_event(told: list[Told | Path]) -> None:
    """The environment of a user may say hello; a run whose end nobody hears of is waited for without end."""
    end = json.dumps(event(Ended("key", "finished")))
    listened(told, f'Welcome.\n{{}}\n{{"kind": "mine"}}\nNo end of line: {end}\n')
    assert told == [Ended("key", "finished")]


@pytest.mark.parametrize(
    ("printed", "code", "error"),
    [
        ('{"kind": "ended", "key": "key", "err', -9, "The process that trained it was ended by SIGKILL."),
        ("", -40, "The process that trained it was ended by signal 40."),
    ],
)
def test_a_process_that_dies_in_whatever_way_says_so(
    told: list[Told | Path], printed: str, code: int, error: str
) -> None:
    """In the middle of an event, or by a signal without a name: its listener died of it and said nothing."""
    listened(told, printed, code)
    (end,) = told
    assert isinstance(end, Ended)
    assert (end.key, end.how, end.trace) == ("key", "lost", "words")
    assert end.error.startswith(error)


def test_a_job_for_a_process_that_has_just_died_is_lost(
    tmp_path: Path, worker: Worker, told: list[Told | Path]
) -> None:
    """One that is idle may be killed, too; whoever gives it a job may not know that yet."""
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: not worker.alive())
    assert told == []
    worker.start(given("key", 1))
    (end,) = told
    assert isinstance(end, Ended)
    assert (end.key, end.how) == ("key", "lost")
    assert end.error.startswith("The process that trained it was ended by SIGKILL.")


def test_an_input_that_ends_before_the_job_is_taken_up_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is killed while its worker starts leaves nothing that trains on."""
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    listen(io.StringIO("a job\n"), jobs, busy := threading.Event())
    assert killed == [(os.getpid(), signal.SIGTERM)]
    assert (jobs.get(), jobs.get()) == ("a job\n", "")
    busy.clear()
    listen(io.StringIO(""), jobs, busy)
    assert len(killed) == 1, "an idle one ends by itself"


def test_a_run_that_another_process_trains_is_busy(
    tmp_path: Path, worker: Worker, told: list[Told | Path]
) -> None:
    one = job(tmp_path, 1)
    folder = RunFolder(tmp_path / "seed-3")
    (folder.path / "checkpoints").mkdir(parents=True)
    with folder.locked():
        folder.write_summary({"status": "running"})
        worker.start(one)
        end = until(lambda: ended(told))
    # Without a config.toml there is nothing to go on with; what counts is what the lock says.
    assert end.how in ("busy", "failed")


class Idle:
    """In the place of a worker process."""

    def __init__(self, threads: int, say: Callable[[Told], None]) -> None:
        self.threads, self.say, self.job = threads, say, None

    def alive(self) -> bool:
        return True

    def start(self, job: Job) -> None:
        self.job = job  # type: ignore[assignment]

    def ask_to_stop(self) -> None:
        self.job = None

    def join(self) -> None:
        return


def given(name: str, size: int) -> Job:
    return Job(name, name, Path(), "id", (), None, size)


def test_runs_wait_for_memory_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotkit.sweeps.local.Worker", Idle)
    free = [10]
    monkeypatch.setattr(memory, "available", lambda: free[0])
    local = Local(Options(jobs=3))
    assert local.has_room(100), "one run can always be tried"
    local.start(given("a", 6))
    assert local.has_room(4)
    assert not local.has_room(5)  # a will still take 6 of the 10
    told: list[Told] = []
    local._told.put(Progress("a", 0, 1, 0.5, None, memory=4, peak=4))
    local.wait(told.append, 0)
    assert told == [Progress("a", 0, 1, 0.5, None, memory=4, peak=4)]
    free[0] = 6  # a has taken 4 of the 10 and will take 2 more
    assert local.has_room(4)
    assert not local.has_room(5)
    local.start(given("b", 1))
    local.start(given("c", 1))
    assert not local.has_room(0), "three jobs at the same time"
    free[0] = None  # type: ignore[call-overload]
    local._workers[2].job = None
    assert local.has_room(1 << 60), "a system that doesn't say how much memory it has"
    local.stop()


def test_the_job_of_a_worker_that_died_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotkit.sweeps.local.Worker", Idle)
    local = Local(Options(jobs=1))
    local.start(given("a", 1))
    assert not local.has_room(0)
    monkeypatch.setattr(Idle, "alive", lambda self: False)
    assert local.has_room(0)


def test_one_thread_each_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cores", lambda: 8)
    assert (Local(Options()).jobs, Local(Options()).threads) == (8, 1)
    assert Local(Options(threads=3)).jobs == 2
    assert Local(Options(threads=16)).jobs == 1
    assert Local(Options(jobs=5)).jobs == 5
    with pytest.raises(SlotkitError, match="--address says nothing to the executor local"):
        Local(Options(address="here:1"))


def test_threads_reach_the_process(tmp_path: Path) -> None:
    told: list[Told | Path] = []
    worker = Worker(3, told.append)
    worker.start(job(tmp_path, 1))
    until(lambda: ended(told))
    worker.ask_to_stop()
    worker.join()
    environment = RunFolder(tmp_path / "seed-3").tables()["environment"]
    assert environment["threads"] == 3
