"""What a sweep and its executors say to each other. An executor is where runs are trained.

A driver (`slotkit.sweeps.run`) starts jobs and is told events. Only the driver writes the sweep's manifest;
only whoever trains a run writes into the run's folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from slotkit.config import Overrides
from slotkit.errors import SlotkitError


@dataclass(frozen=True)
class Job:
    """One run to be trained, or trained on.

    Attributes:
        key: of the run in the manifest.
        name: of its folder in `place`.
        place: the folder of the sweep, as a whole path.
        sweep: the manifest's id, by which another machine knows whether it sees the same folder.
        layers: the settings, later ones over earlier ones.
        data: the identity of the data that it has to have, as JSON; None if no run has said it yet.
        memory: bytes that it is expected to need.
        command: that made the sweep, for the run's own record of where it was made.
    """

    key: str
    name: str
    place: Path
    sweep: str
    layers: tuple[Overrides, ...]
    data: Mapping[str, Any] | None = None
    memory: int = 0
    command: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self) | {"place": str(self.place)})

    @classmethod
    def from_json(cls, line: str) -> Job:
        """The job of a line that `to_json` wrote."""
        told = json.loads(line)
        layers = tuple(Overrides(**layer) for layer in told.pop("layers"))
        return cls(**{**told, "place": Path(told["place"]), "layers": layers})


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        epoch, epochs: validated epochs, and all.
        share: of all its steps.
        best: the highest validation accuracy so far, a fraction.
        memory, peak: bytes that its process has now, and had at most since the run began.
    """

    key: str
    epoch: int
    epochs: int
    share: float
    best: float | None
    memory: int = 0
    peak: int = 0


# How a job ends. lost: whoever trained it is gone; busy: another process trains the run.
ENDS = ("finished", "diverged", "stopped", "failed", "lost", "busy")


@dataclass(frozen=True)
class Ended:
    """A job is over.

    Attributes:
        how: one of ENDS.
        error: why, unless it finished.
        where: the machine and process that trained it.
        trace: the traceback of a fault that is no SlotkitError.
    """

    key: str
    how: str
    error: str = ""
    where: str = ""
    trace: str = ""


Told = Progress | Ended
Tell = Callable[[Told], None]


@dataclass(frozen=True)
class Options:
    """What a user says of an executor; None where nothing was said. Raises SlotkitError for what none can do.

    Attributes:
        jobs: runs at the same time.
        threads: of each run.
        memory: bytes of each run.
        address: of a cluster.
        gpus: of each run, also a part of one.
    """

    jobs: int | None = None
    threads: int | None = None
    memory: int | None = None
    address: str | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        least = {"jobs": 1, "threads": 1, "memory": 0, "gpus": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value < math.inf:
                raise SlotkitError(f"--{name} is {value}. Give {lowest} or more.")

    def refuse(self, executor: str, *names: str) -> None:
        """Raise SlotkitError if one of these was said, which that executor has no use for."""
        given = [name for name in names if getattr(self, name) is not None]
        if given:
            raise SlotkitError(
                f"--{given[0]} says nothing to the executor {executor}. Leave it out, or choose another "
                "--executor."
            )


class Executor(Protocol):
    """Where runs are trained."""

    def has_room(self, memory: int) -> bool:
        """Whether a job that needs so many bytes can be started now."""

    def start(self, job: Job) -> None:
        """Begin to train a run, and return at once."""

    def wait(self, tell: Tell, seconds: float) -> None:
        """Tell what has happened since the last call; if nothing has, wait for it, at most so long."""

    def stop(self) -> None:
        """Let every job save what it has and end, and give everything back. May be called twice."""
