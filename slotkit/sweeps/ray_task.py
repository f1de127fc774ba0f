"""What the executor ray runs on a node of the cluster: a worker process, watched by a Ray task."""

from __future__ import annotations

import json
import os
import queue
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from slotkit.errors import SlotkitError
from slotkit.sweeps import manifest
from slotkit.sweeps.contract import Ended, Job, Told
from slotkit.sweeps.parcel import deliver
from slotkit.sweeps.process import Worker
from slotkit.sweeps.worker import event

# What the task sends back: an event as JSON, or a run folder as `slotkit.sweeps.parcel` packs it.
EVENT, PARCEL = "event", "parcel"


@dataclass(frozen=True)
class OnNode:
    """How a node is to train.

    Attributes:
        threads: of each run.
        data: where datasets lie, unless the node's own SLOTKIT_DATA says it.
        copy_seconds: between two parcels from a node that doesn't see the folder of the sweep.
        share: whether to look for that folder at all.
    """

    threads: int
    data: str
    copy_seconds: float
    share: bool


# A worker stays for the next task of this Ray process: importing PyTorch takes seconds.
_kept: dict[tuple[object, ...], tuple[Worker, queue.SimpleQueue[Told | Path]]] = {}


def train_on_node(line: str, parcel: bytes | None, how: OnNode) -> Iterator[tuple[str, bytes]]:
    """Train a job, on the sweep's own folder if this node sees it, else on a copy that is sent back.

    Args:
        line: the job as JSON.
        parcel: the run as it is now; None for a new one.
    """
    job = Job.from_json(line)
    shared = how.share and _sees(job)
    place = job.place if shared else Path(tempfile.mkdtemp(prefix="slotkit-"))
    worker, told = _worker(how, None if shared else how.copy_seconds)
    try:
        if parcel is not None and not shared:
            deliver(parcel, place / job.name)
        worker.start(replace(job, place=place))
        ended = False
        while not ended:
            one = told.get()
            yield (
                (PARCEL, one.read_bytes())
                if isinstance(one, Path)
                else (EVENT, json.dumps(event(one)).encode())
            )
            ended = isinstance(one, Ended)
    finally:
        if worker.job is not None:  # the task is cancelled
            worker.ask_to_stop()
            worker.join()
        if not shared:
            shutil.rmtree(place, ignore_errors=True)


def _sees(job: Job) -> bool:
    """Whether the folder of the sweep is this one, and not another of the same name."""
    try:
        return manifest.read(job.place).id == job.sweep
    except SlotkitError:
        return False


def _worker(how: OnNode, copy_seconds: float | None) -> tuple[Worker, queue.SimpleQueue[Told | Path]]:
    """A worker that waits for a job. Ray gives each task GPUs of its own: one process sees one set."""
    kind = (how.threads, copy_seconds, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if kind in _kept and _kept[kind][0].alive():
        return _kept[kind]
    told: queue.SimpleQueue[Told | Path] = queue.SimpleQueue()
    env = {} if "SLOTKIT_DATA" in os.environ else {"SLOTKIT_DATA": how.data}
    _kept[kind] = Worker(how.threads, told.put, copy_seconds, env), told
    return _kept[kind]
