"""The executor local: worker processes on this machine, one thread each unless told."""

from __future__ import annotations

import queue
from pathlib import Path

from slotkit.sweeps import memory
from slotkit.sweeps.contract import Job, Options, Progress, Tell, Told
from slotkit.sweeps.process import Worker


def jobs_of(options: Options) -> int:
    """Runs at the same time: as many as cores have threads to run, unless that was said."""
    return options.jobs or max(1, memory.cores() // (options.threads or 1))


class Local:
    """As many workers as cores. A run waits for the memory that its kind has taken before."""

    def __init__(self, options: Options) -> None:
        options.refuse("local", "address", "gpus")
        self.threads, self.jobs = options.threads or 1, jobs_of(options)
        self._workers: list[Worker] = []
        self._told: queue.SimpleQueue[Told | Path] = queue.SimpleQueue()
        self._taken: dict[str, int] = {}

    def has_room(self, memory: int) -> bool:
        # A worker that died keeps the job that it has lost.
        busy = [worker.job for worker in self._workers if worker.job is not None and worker.alive()]
        if not busy:
            return True  # one run can always be tried
        return len(busy) < self.jobs and self._fits(memory, busy)

    def start(self, job: Job) -> None:
        self._workers = [worker for worker in self._workers if worker.alive()]
        free = next((worker for worker in self._workers if worker.job is None), None)
        if free is None:
            self._workers.append(free := Worker(self.threads, self._told.put))
        self._taken.pop(job.key, None)
        free.start(job)

    def wait(self, tell: Tell, seconds: float) -> None:
        try:
            told = self._told.get(timeout=seconds)
            while True:
                assert not isinstance(told, Path)  # no copies are made on one disk
                if isinstance(told, Progress):
                    self._taken[told.key] = told.memory
                tell(told)
                told = self._told.get_nowait()
        except queue.Empty:
            return

    def stop(self) -> None:
        for worker in self._workers:
            worker.ask_to_stop()
        for worker in self._workers:
            worker.join()
        self._workers = []

    def _fits(self, wanted: int, busy: list[Job]) -> bool:
        """Whether so many bytes are left when every run that is being trained has all that it will need."""
        free = memory.available()
        growing = sum(max(0, job.memory - self._taken.get(job.key, 0)) for job in busy)
        return free is None or growing + wanted <= free
