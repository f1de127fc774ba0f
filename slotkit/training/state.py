"""Everything that a training step changes, so that training can be saved and go on with the same bits."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from slotkit.config import TrainingSettings
from slotkit.training.schedules import schedule
from slotkit.training.trainee import Trainee


class TrainingState:
    """A trainee in training.

    Attributes:
        step: steps done so far.
        validated: epochs done so far, each with its validation.
        last_lr: the learning rate of the last step.
        loss: sum of the losses of the steps of the epoch that is going on, float32 scalar.
        best_accuracy, best_epoch: of the validations so far.
    """

    def __init__(self, trainee: Trainee, settings: TrainingSettings, steps_per_epoch: int) -> None:
        self.trainee = trainee
        self.steps_per_epoch = steps_per_epoch
        self.optimizer = trainee.optimizer(settings)
        self.scheduler = schedule(self.optimizer, settings, steps_per_epoch)
        self.step = 0
        self.validated = 0
        self.loss: Tensor = torch.zeros((), device=trainee.device)
        self.last_lr = self.lr
        self.best_accuracy = -1.0
        self.best_epoch = 0

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def as_dict(self) -> dict[str, Any]:
        """The trainee's state and, under "training", what else the next step depends on."""
        own = {
            "step": self.step,
            "validated": self.validated,
            "loss": self.loss,
            "best_accuracy": self.best_accuracy,
            "best_epoch": self.best_epoch,
            "last_lr": self.last_lr,
            "lr": self.lr,
            "optimizer": self.optimizer.state_dict()["state"],
        }
        return self.trainee.state() | {"training": own}

    def load(self, state: dict[str, Any]) -> float:
        """Take over an `as_dict` of the same settings; the number of epochs may differ.

        Returns the learning rate that the next step would have had there; it differs from that of the
        next step here if the schedule depends on the number of epochs.
        """
        own = state["training"]
        self.trainee.load(state)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": own["optimizer"], "param_groups": groups})
        self.step, self.validated = own["step"], own["validated"]
        self.loss = own["loss"].to(self.trainee.device)
        self.last_lr = own["last_lr"]
        self.best_accuracy, self.best_epoch = own["best_accuracy"], own["best_epoch"]
        # The learning rate depends on the number of steps; a scheduler computes each rate from the last.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for _ in range(self.step):
                self.scheduler.step()
        there: float = own["lr"]
        return there
