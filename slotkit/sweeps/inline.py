"""The executor inline: runs are trained in this process, one after the other, with all its threads."""

from __future__ import annotations

import time
from collections import deque

from slotkit.sweeps.contract import Job, Options, Tell
from slotkit.sweeps.training import train
from slotkit.training.signals import StoppedError


class Inline:
    """The plainest executor: nothing is lost with a process, because there is only one."""

    def __init__(self, options: Options) -> None:
        options.refuse("inline", "jobs", "threads", "memory", "address", "gpus")
        self._jobs: deque[Job] = deque()

    def has_room(self, memory: int) -> bool:
        del memory
        return not self._jobs

    def start(self, job: Job) -> None:
        self._jobs.append(job)

    def wait(self, tell: Tell, seconds: float) -> None:
        """Train the run to its end. KeyboardInterrupt and StoppedError pass through."""
        if not self._jobs:
            time.sleep(seconds)
        while self._jobs:
            ended = train(self._jobs.popleft(), tell)
            if ended.how == "stopped":
                raise StoppedError(ended.error)
            tell(ended)

    def stop(self) -> None:
        self._jobs.clear()
