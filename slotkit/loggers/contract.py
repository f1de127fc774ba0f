"""What a logger is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class Logger(Protocol):
    """Takes numbers by name while a network trains: "train/loss", "validation/accuracy", ..."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The values after so many steps. Steps never fall; several calls may be of one step."""

    def close(self) -> None:
        """Nothing more comes from this process.

        A logger that also has a method `fail()` gets that call instead where the training has not come to its
        end: it failed, diverged or was stopped. It may go on later, in another process.
        """


@dataclass(frozen=True)
class Training:
    """What a logger is told of the training when it is made.

    Attributes:
        folder: of the run; a logger that writes files writes them there.
        name: of the run.
        settings: by path.
        step: steps that are done: 0, or those of the checkpoint from which the run goes on. What a logger has
            of later steps, and of this one, is told once more, with the same values.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
