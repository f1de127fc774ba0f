"""The executor ray: a task a run on a Ray cluster, on this machine or by address.

A node that sees the folder of the sweep trains there. One that doesn't sends the run folder back as bytes: a
copy now and then, from which another node goes on if it dies, and the finished run.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from slotkit.data.sources import resolve_data_dir
from slotkit.errors import SlotkitError
from slotkit.runs.lock import is_locked
from slotkit.sweeps.contract import Ended, Job, Options, Tell
from slotkit.sweeps.parcel import deliver, pack
from slotkit.sweeps.process import PATIENCE
from slotkit.sweeps.ray_task import PARCEL, OnNode, train_on_node
from slotkit.sweeps.worker import from_event

# Between two copies of a run from a node that doesn't share the disk: what is trained again if the node dies.
COPY_SECONDS = 120.0


class RayCluster:
    """Every run is given to Ray at once, unless `jobs` says how many: Ray knows what its nodes have.

    Args:
        share: False to send bytes even where the disk is shared.
    """

    def __init__(self, options: Options, copy_seconds: float = COPY_SECONDS, share: bool = True) -> None:
        self._ray = _import()
        self.threads, self.jobs = options.threads or 1, options.jobs
        self._connected = _connect(self._ray, options, self.threads)
        self._how = OnNode(self.threads, str(resolve_data_dir(None)), copy_seconds, share)
        self._task = self._ray.remote(train_on_node)
        self._gpus = options.gpus or 0
        self._jobs: dict[Any, Job] = {}
        self._busy: list[Job] = []

    def has_room(self, memory: int) -> bool:
        del memory
        return self.jobs is None or len(self._jobs) < self.jobs

    def start(self, job: Job) -> None:
        folder = job.place / job.name
        if is_locked(folder):
            # A node that doesn't see the folder would train it anew, and its copy take the place of this one.
            self._busy.append(job)
            return
        parcel = self._ray.put(pack(folder)) if (folder / "config.toml").is_file() else None
        task = self._task.options(
            num_cpus=self.threads,
            num_gpus=self._gpus,
            memory=min(job.memory, self._largest_node()),
            num_returns="streaming",
            # A run that is lost is given back to the driver, which knows how often that has happened.
            max_retries=0,
        )
        self._jobs[task.remote(job.to_json(), parcel, self._how)] = job

    def wait(self, tell: Tell, seconds: float) -> None:
        while self._busy:
            job = self._busy.pop()
            tell(Ended(job.key, "busy", f"The run {job.name} is being trained by another process.", "Ray"))
        until = time.monotonic() + seconds
        ready = self._ready(seconds)
        while ready:
            for stream in ready:
                self._take(stream, tell)
            ready = self._ready(0) if time.monotonic() < until else []

    def stop(self) -> None:
        for stream in self._jobs:
            self._ray.cancel(stream)
        until = time.monotonic() + PATIENCE
        while self._jobs and time.monotonic() < until:
            self.wait(lambda told: None, 0.2)
        self._jobs.clear()
        if self._connected:
            self._ray.shutdown()
            self._connected = False

    def _ready(self, seconds: float) -> list[Any]:
        if not self._jobs:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(self._jobs), timeout=seconds, num_returns=1)
        return list(ready)

    def _take(self, stream: Any, tell: Tell) -> None:
        """What one task has to say next. A task that ends without saying how is lost."""
        job = self._jobs[stream]
        try:
            kind, data = self._ray.get(next(stream))
        except StopIteration:
            ended = Ended(job.key, "lost", "The task of Ray ended and did not say how.", "Ray")
        except self._ray.exceptions.RayTaskError as fault:
            ended = Ended(job.key, "failed", _in_short(fault.cause or fault), "Ray", str(fault))
        except self._ray.exceptions.RayError as fault:
            ended = Ended(job.key, "lost", f"Ray lost it: {_in_short(fault)}", "Ray", str(fault))
        else:
            if kind == PARCEL:
                deliver(data, job.place / job.name)
                return
            told = from_event(json.loads(data))
            if not isinstance(told, Ended):
                tell(told)  # type: ignore[arg-type]
                return
            ended = told
        del self._jobs[stream]
        tell(ended)

    def _largest_node(self) -> int:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return int(max((node.get("memory", 0) for node in nodes), default=0))


def _import() -> Any:
    try:
        import ray
    except ImportError as fault:
        raise SlotkitError(
            f"The executor ray needs Ray, which can't be imported here ({fault}). Install it with "
            "`pip install 'slotkit[sweep]'`, or choose --executor local."
        ) from fault
    return ray


def _connect(ray: Any, options: Options, threads: int) -> bool:
    """Connect to the cluster, or start one on this machine. Returns whether that was done here."""
    if ray.is_initialized():
        return False
    address = options.address or os.environ.get("RAY_ADDRESS")
    if address is not None and address.startswith("ray://"):
        raise SlotkitError(
            f"--address {address} is that of a Ray client. Give HOST:PORT of the cluster, and start the "
            "sweep on a machine that is one of its nodes."
        )
    here = {"num_cpus": options.jobs * threads} if options.jobs else {}
    settings = {"address": address} if address else {"address": "local", "include_dashboard": False, **here}
    try:
        ray.init(**settings, log_to_driver=False, logging_level="WARNING")
    except Exception as fault:  # ConnectionError, ValueError, RuntimeError: Ray has many
        where = f"at {address}" if address else "on this machine"
        raise SlotkitError(
            f"There is no Ray cluster {where}: {_in_short(fault)}. Start one with `ray start --head` and "
            "give its --address, or leave --address out for one on this machine."
        ) from fault
    if not address:
        _check_room(ray, options, threads)
    return True


def _check_room(ray: Any, options: Options, threads: int) -> None:
    """Raise SlotkitError if this machine alone can never give a run what it is to have: Ray would wait."""
    (here,) = (node["Resources"] for node in ray.nodes())
    for flag, wanted, what in (("threads", threads, "CPU"), ("gpus", options.gpus or 0, "GPU")):
        there = here.get(what, 0)
        if wanted > there:
            ray.shutdown()
            raise SlotkitError(
                f"--{flag} {wanted:g} is more than the {there:g} {what}s that Ray has on this machine, so no "
                f"run could begin. Give fewer --{flag}, or the --address of a cluster that has them."
            )


def _in_short(fault: BaseException) -> str:
    """The first sentence of an error: Ray's go on for pages."""
    lines = str(fault).strip().splitlines()
    return lines[0].partition(". ")[0].rstrip(".") if lines else type(fault).__name__
