"""One job: a run is trained, or trained on from its last checkpoint, in this process."""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Callable

from slotkit.config import Overrides, resolve
from slotkit.data.identity import Identity
from slotkit.data.sources import find
from slotkit.errors import DivergedError, SlotkitError
from slotkit.files import remove
from slotkit.runs.fingerprint import FREE
from slotkit.runs.folder import RunFolder
from slotkit.runs.lock import LockedError
from slotkit.sweeps import memory
from slotkit.sweeps.contract import Ended, Job, Progress, Tell
from slotkit.training.experiment import resume, run
from slotkit.training.loop import Epoch, Event, Step
from slotkit.training.signals import StoppedError

# Seconds between two events of progress within an epoch.
EVERY = 0.5


def train(job: Job, tell: Tell, after: Callable[[RunFolder], None] = lambda folder: None) -> Ended:
    """Train the run of a job; how that ended is returned and not raised. KeyboardInterrupt passes through.

    Args:
        tell: called with `Progress`.
        after: called with the run's folder when nothing is being written into it, between two steps.
    """
    folder = RunFolder(job.place / job.name)
    try:
        _train(job, folder, _Teller(job, folder, tell, after))
    except DivergedError as fault:
        return _ended(job, "diverged", str(fault))
    except LockedError as fault:
        return _ended(job, "busy", str(fault))
    except StoppedError as fault:
        return _ended(job, "stopped", str(fault))
    except SlotkitError as fault:
        return _ended(job, "failed", str(fault))
    except Exception as fault:
        trace = "".join(traceback.format_exception(fault))
        return _ended(job, "failed", f"{type(fault).__name__}: {fault}", trace)
    return _ended(job, "finished")


def here() -> str:
    """This machine and process, for sentences."""
    return f"{platform.node()}, process {os.getpid()}"


def _ended(job: Job, how: str, error: str = "", trace: str = "") -> Ended:
    return Ended(job.key, how, error, here(), trace)


def _train(job: Job, folder: RunFolder, report: Callable[[Event], None]) -> None:
    memory.begin_peak()
    if (folder.path / "checkpoints").is_dir():
        resume(folder, _free(job), report)
        return
    if folder.path.exists():  # no run, or what an older slotkit left that was killed while it made one
        remove(folder.path)
    data = None if job.data is None else Identity.model_validate(job.data)
    run(resolve(job.layers), job.place, job.name, report, data=data)


class _Teller:
    """Turns events of training into progress, not too often."""

    def __init__(self, job: Job, folder: RunFolder, tell: Tell, after: Callable[[RunFolder], None]) -> None:
        self.job, self.folder, self.tell, self.after = job, folder, tell, after
        self.told = 0.0
        self.epoch, self.epochs = 0, resolve(job.layers).config.training.epochs
        self.best: float | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Epoch):
            self.epoch = event.epoch
            if event.best:
                self.best = event.validation.accuracy
            self._tell(event.epoch / event.epochs)
        elif isinstance(event, Step):
            self.after(self.folder)
            if time.monotonic() - self.told >= EVERY:
                self.epoch = event.epoch - 1
                self._tell(event.step / event.total)

    def _tell(self, share: float) -> None:
        self.told = time.monotonic()
        now, peak = memory.own()
        self.tell(Progress(self.job.key, self.epoch, self.epochs, share, self.best, now, peak))


def _free(job: Job) -> list[Overrides]:
    """Those of its settings that may change when it goes on, such as where the data lies now."""
    dataset = resolve(job.layers).config.data.dataset
    own_folder = find(dataset).is_there  # which `data.dir` of a new run doesn't move
    free = [path for path in FREE if not (own_folder and path == "data.dir")]
    return [
        Overrides(layer.origin, {path: value for path, value in layer.values.items() if path in free})
        for layer in job.layers
    ]
