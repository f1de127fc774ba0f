"""Everything that a training step changes, so that training can be saved and go on with the same bits."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from slotkit.errors import SlotkitError
from slotkit.masks.topology import Change
from slotkit.runs.residuals import optimizer_state, with_reels
from slotkit.settings import TrainingSettings
from slotkit.training.schedules import Held, schedule
from slotkit.training.trainee import Trainee, check_like


class TrainingState:
    """A trainee in training.

    Attributes:
        step: steps done so far.
        validated: epochs done so far, each with its validation.
        last_lr: the learning rate of the last step.
        loss: sum of the losses of the steps of the epoch that is going on, a scalar of the trainee's dtype.
        best_accuracy, best_epoch: of the validations so far.
        total: steps of the whole training.
    """

    def __init__(self, trainee: Trainee, settings: TrainingSettings, steps_per_epoch: int) -> None:
        self.trainee = trainee
        self.steps_per_epoch = steps_per_epoch
        self.optimizer = trainee.optimizer(settings)
        self.total = settings.epochs * steps_per_epoch
        self.scheduler = self._schedule(settings)
        self.step = 0
        self.validated = 0
        self.loss: Tensor = torch.zeros((), dtype=trainee.dtype, device=trainee.device)
        self.last_lr = self.lr
        self.best_accuracy = -1.0
        self.best_epoch = 0

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def take_step(self) -> Change | None:
        """Step on the gradients that are there. Returns what became of the mask, if it was its turn."""
        trainee, change = self.trainee, None
        self.step += 1
        if trainee.topology:
            change = trainee.topology.step(self.optimizer, self.step, self.total)
        else:
            if trainee.masked:
                trainee.masked.mask_gradients()
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        return change

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
        if self.trainee.topology:
            own["sparse"] = self.trainee.topology.state()
        return self.trainee.state() | {"training": own}

    def to_save(self) -> dict[str, Any]:
        """`as_dict` for `slotkit.runs.checkpoint.save`, which remakes what comes from the seed."""
        state = with_reels(self.as_dict(), self.trainee.machine)
        moments = optimizer_state(self.optimizer, self.trainee.machine)["state"]
        return state | {"training": state["training"] | {"optimizer": moments}}

    def load(self, state: dict[str, Any]) -> float:
        """Take over an `as_dict` of the same settings; the number of epochs may differ.

        Returns the learning rate that the next step would have had there; it differs from that of the
        next step here if the schedule depends on the number of epochs.

        Raises SlotkitError, before anything is changed, if it has not the shape of a state, or its numbers
        contradict each other.
        """
        own = state["training"]
        self._check(own)
        topology = self.trainee.topology
        if topology:
            check_like(state.get("masks"), topology.masks_state(), "the masks")
            explored = topology.explored_in(own["sparse"], topology.masks_in(state["masks"]))
        self.trainee.load(state)
        if topology:
            topology.set_explored(explored)
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

    def _schedule(self, settings: TrainingSettings) -> LRScheduler | Held:
        topology = self.trainee.topology
        if topology and topology.settings.hold_lr:
            held = topology.ends_at(self.total)
            return Held(self.optimizer, lambda shadow: schedule(shadow, settings, self.steps_per_epoch), held)
        return schedule(self.optimizer, settings, self.steps_per_epoch)

    def _check(self, own: Any) -> None:
        mine = self.as_dict()["training"]
        check_like(own, {name: value for name, value in mine.items() if name != "optimizer"}, "the training")
        epochs, per_epoch = own["validated"], self.steps_per_epoch
        if not (0 <= own["step"] - epochs * per_epoch <= per_epoch and own["best_epoch"] <= epochs):
            raise SlotkitError(
                f"it tells of {own['step']} steps, {epochs} epochs and the best {own['best_epoch']}, where "
                f"an epoch has {per_epoch} steps"
            )
        fresh = self.optimizer.state_dict()["state"]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for number, values in own["optimizer"].items():
            if type(number) is not int or not 0 <= number < len(parameters):
                raise SlotkitError(f"the optimizer has a parameter {number!r:.60}")
            place = f"the optimizer, parameter {number}"
            check_like(values, fresh.get(number, {}), place)
            _check_moments(values, parameters[number], place)


def _check_moments(values: dict[str, Any], parameter: Tensor, place: str) -> None:
    """Check what SGD and Adam remember of a parameter. Raises SlotkitError, the part of a sentence."""
    adam = values.keys() & {"step", "exp_avg", "exp_avg_sq"}
    if len(adam) not in (0, 3):
        raise SlotkitError(f"{place}, has of Adam's only {', '.join(sorted(adam))}")
    for name in values.keys() & {"momentum_buffer", "exp_avg", "exp_avg_sq"}:
        value, shapes = values[name], (parameter.shape, (parameter.numel(),))
        fits = isinstance(value, Tensor) and value.is_floating_point() and value.shape in shapes
        if not fits and not (name == "momentum_buffer" and value is None):
            raise SlotkitError(f"{place}, {name} is not floats of shape {tuple(parameter.shape)}")
    step = values.get("step", 0.0)
    if not isinstance(step, int | float) and not (isinstance(step, Tensor) and step.dtype == torch.float32):
        raise SlotkitError(f"{place}, step is no number")
    if not 0 <= float(step) < 2**53:
        raise SlotkitError(f"{place}, has {float(step)} steps")
