"""A process that trains the runs that it is given, one after the other: `python -m slotkit.sweeps.worker`.

It reads a job a line from its standard input and writes events to its standard output, as JSON. When its
input ends, it ends: at once if it is idle, else as after SIGTERM, which saves the run at its next step. So
nothing trains on when whoever started it was killed.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from slotkit.files import write_bytes
from slotkit.memory_policy import keep_freed_memory
from slotkit.runs.folder import RunFolder
from slotkit.sweeps.contract import Ended, Job, Progress, Told
from slotkit.sweeps.parcel import pack
from slotkit.sweeps.training import train

# Where a copy of a run lies that its starter is told of.
COPY = ".copy.tar"

# How the line of an event begins.
EVENT = '{"kind":'


def main(threads: int, copy_seconds: float | None) -> None:
    """Train until the input ends.

    Args:
        threads: of PyTorch, for each run.
        copy_seconds: between two copies of the run's folder, for a starter on another disk; None for none.
    """
    # What libraries print must not come between the events.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import torch

    keep_freed_memory(os.environ)
    torch.set_num_threads(threads)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(sys.stdin, jobs, busy), daemon=True).start()
    while line := jobs.get():
        job = Job.from_json(line)
        sys.argv = [job.command]  # what the run says that it was made by
        copies = _Copies(channel, copy_seconds)
        ended = train(job, lambda told: _say(channel, event(told)), copies)
        copies(RunFolder(job.place / job.name), last=True)
        busy.clear()
        _say(channel, event(ended))


class _Copies:
    """Packs the folder of a run now and then, and says so."""

    def __init__(self, channel: TextIO, seconds: float | None) -> None:
        self.channel, self.seconds = channel, seconds
        self.before = time.monotonic()

    def __call__(self, folder: RunFolder, last: bool = False) -> None:
        if self.seconds is None or not (folder.path / "checkpoints").is_dir():
            return
        if last or time.monotonic() - self.before >= self.seconds:
            write_bytes(path := folder.path.with_name(folder.name + COPY), pack(folder.path))
            self.before = time.monotonic()
            _say(self.channel, {"kind": "copy", "path": str(path)})


def event(told: Told) -> dict[str, Any]:
    """An event as JSON has it."""
    return {"kind": type(told).__name__.lower(), **asdict(told)}


def from_event(told: Mapping[str, Any]) -> Told | Path:
    """The reverse; of a copy, where it lies."""
    values = {name: value for name, value in told.items() if name != "kind"}
    if told["kind"] == "copy":
        return Path(values["path"])
    return Progress(**values) if told["kind"] == "progress" else Ended(**values)


def _listen(jobs_in: TextIO, jobs: queue.SimpleQueue[str], busy: threading.Event) -> None:
    for line in jobs_in:
        busy.set()  # here: the input may end before the job is taken up
        jobs.put(line)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
    jobs.put("")


def _say(channel: TextIO, told: Mapping[str, Any]) -> None:
    try:
        channel.write(json.dumps(told) + "\n")
    except BrokenPipeError:
        return  # whoever started this is gone, and the end of the input says so as well


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else None)
