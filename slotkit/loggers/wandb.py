"""Weights & Biases: a run of the project that WANDB_PROJECT names, "slotkit" by default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from uuid import uuid4

import wandb

from slotkit.loggers.contract import Training
from slotkit.loggers.known_run import known_run


class WeightsAndBiases:
    def __init__(self, training: Training) -> None:
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "slotkit"),
            name=training.name,
            id=known_run(training.folder, "wandb", lambda: uuid4().hex),
            resume="allow",
            dir=str(training.folder),
            config=dict(training.settings),
        )
        # W&B refuses steps below its last one. It has them already, with the same values.
        self.last = int(self.run.step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self.last:
            self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()

    def fail(self) -> None:
        self.run.finish(exit_code=1)  # with which W&B shows it as failed


make = WeightsAndBiases
