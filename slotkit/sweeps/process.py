"""A worker process from the side of whoever starts it."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from slotkit.sweeps.contract import Ended, Job, Told
from slotkit.sweeps.worker import EVENT, from_event

# Read by the libraries that split a step among threads, when they are imported.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

# Of what a process that died had to say, its last letters.
LAST_WORDS = 2000

# How long a run that is asked to stop may take for the step that it is in and for saving.
PATIENCE = 60.0


class Worker:
    """One worker process. `say` is called, from a thread of its own, with each event and copy of its runs.

    A process that dies while it trains says that its run is lost.
    """

    def __init__(
        self,
        threads: int,
        say: Callable[[Told | Path], None],
        copy_seconds: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._say = say
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        # -P: like the command `slotkit` it imports nothing that happens to lie in the current folder.
        command = [sys.executable, "-P", "-m", "slotkit.sweeps.worker", str(threads)]
        self._process = subprocess.Popen(
            command + ([] if copy_seconds is None else [str(copy_seconds)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            errors="replace",  # whatever else may be printed there, the listener goes on
            env={**os.environ, **dict.fromkeys(THREADS, str(threads)), **(env or {})},
            # Ctrl-C is for whoever started it, who then asks it to stop.
            start_new_session=True,
        )
        self.job: Job | None = None
        # How it ended, and its last words. Of `start` and the listener the second one tells of a lost job.
        self._end: tuple[int, str] | None = None
        self._giving = threading.Lock()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._listener.is_alive()

    def start(self, job: Job) -> None:
        """Give it a job; it has none. If it has died meanwhile, that job is lost."""
        assert self.job is None
        with self._giving:
            self.job = job
            has_ended = self._end is not None
        if has_ended:
            self._tell_lost()
            return
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(job.to_json() + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # the latter if its listener has closed the pipe
            return  # it has died, and its listener says so

    def ask_to_stop(self) -> None:
        """The end of its input: it saves its run and ends."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            return

    def join(self, seconds: float = PATIENCE) -> None:
        """Wait until it has ended; it is killed if that takes longer."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = _event_of(line)
            if told is None:
                continue
            if isinstance(told, Ended):
                self.job = None
            self._say(told)
        code, words = self._process.wait(), self._last_words()
        with self._giving:
            self._end = code, words
            is_lost = self.job is not None
        if is_lost:
            self._tell_lost()
        self._process.stdout.close()
        self._errors.close()
        self.ask_to_stop()

    def _tell_lost(self) -> None:
        assert self.job is not None
        assert self._end is not None
        code, words = self._end
        self._say(Ended(self.job.key, "lost", _died(code), self._where(), words))

    def _where(self) -> str:
        return f"{platform.node()}, process {self.pid}"

    def _last_words(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - LAST_WORDS))
        return self._errors.read().decode("utf-8", "replace")


def _event_of(line: str) -> Told | Path | None:
    """The event of a line of the output. None for what was printed as Python started, before the worker had
    this channel for itself, and for an event that was cut off as the process was killed.
    """
    _, begin, rest = line.partition(EVENT)
    try:
        return from_event(json.loads(begin + rest)) if begin else None
    except (ValueError, TypeError, KeyError):
        return None


def _died(code: int) -> str:
    """Why a process is gone, in a sentence."""
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-code, f"signal {-code}")  # signals in real time have no names
        why = " The system does that when memory runs out: try fewer --jobs." if name == "SIGKILL" else ""
        return f"The process that trained it was ended by {name}.{why}"
    return f"The process that trained it ended with exit code {code}."
