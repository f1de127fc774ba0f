"""Learning rates over time, all from torch.optim.lr_scheduler, stepped once a training step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, MultiStepLR, SequentialLR

from slotkit.errors import SlotkitError
from slotkit.settings import TrainingSettings
from slotkit.uncompiled import SGD


def schedule(optimizer: Optimizer, settings: TrainingSettings, steps_per_epoch: int) -> LRScheduler:
    """The scheduler that `settings` ask for.

    "restarts" is SGDR (Loshchilov & Hutter, ICLR 2017) with restarts at chosen epochs: a cosine from
    lr to min_lr between each two, the last one ending with training.

    Raises SlotkitError for a schedule without the epochs that it needs.
    """
    total = settings.epochs * steps_per_epoch
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=total, eta_min=settings.min_lr)
    if settings.schedule == "multistep":
        if not settings.milestones:
            raise SlotkitError(
                "training.schedule is multistep, but training.milestones is empty. Give e.g. [60, 80], or "
                "choose constant."
            )
        milestones = [epoch * steps_per_epoch for epoch in settings.milestones]
        return MultiStepLR(optimizer, milestones=milestones, gamma=settings.gamma)
    if settings.schedule == "restarts":
        return _restarts(optimizer, settings, steps_per_epoch)
    return ConstantLR(optimizer, factor=1.0)


def check_rates(settings: TrainingSettings) -> None:
    """Raise SlotkitError if a cosine would rise. (A run from before that has one still goes on with it.)"""
    if settings.schedule in ("cosine", "restarts") and settings.min_lr > settings.lr:
        raise SlotkitError(
            f"training.min_lr is {settings.min_lr:g}, above training.lr, {settings.lr:g}: with "
            f"training.schedule {settings.schedule} the learning rate falls from lr to min_lr. Give a min_lr "
            "of at most lr."
        )


class Held:
    """Keeps the learning rate where it is for `steps` steps; from then on it is that of a schedule, which has
    run on meanwhile.
    """

    def __init__(self, optimizer: Optimizer, make: Callable[[Optimizer], LRScheduler], steps: int) -> None:
        """`make` gives the schedule for an optimizer: a scheduler computes each rate from the last one."""
        self._optimizer, self._steps, self._done = optimizer, steps, 0
        self._shadow = SGD([torch.zeros(1)], optimizer.param_groups[0]["lr"], 0.0, 0.0, 0.0, False)
        self._scheduler = make(self._shadow)

    def step(self) -> None:
        """After each step of the optimizer."""
        self._shadow.step()
        self._scheduler.step()
        self._done += 1
        if self._done >= self._steps:
            for group in self._optimizer.param_groups:
                group["lr"] = self._shadow.param_groups[0]["lr"]


def _restarts(optimizer: Optimizer, settings: TrainingSettings, steps_per_epoch: int) -> LRScheduler:
    if not settings.restart_epochs:
        raise SlotkitError(
            "training.schedule is restarts, but training.restart_epochs is empty. Give e.g. [25, 75]."
        )
    # A restart after the end of training never happens: the last cosine then ends with training.
    inner = [epoch for epoch in settings.restart_epochs if epoch < settings.epochs]
    edges = [0, *inner, settings.epochs]
    cosines: list[LRScheduler] = [
        CosineAnnealingLR(optimizer, T_max=(end - start) * steps_per_epoch, eta_min=settings.min_lr)
        for start, end in pairwise(edges)
    ]
    return SequentialLR(optimizer, cosines, milestones=[epoch * steps_per_epoch for epoch in inner])
