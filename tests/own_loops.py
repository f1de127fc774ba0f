"""A training loop of somebody's own, around a network that no registry has."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import slotkit
from slotkit.loop_recording import Recording
from slotkit.machine import SlotMachine

IMAGES = torch.randn(64, 12, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(64) % 3

KINDS: dict[str, dict[str, Any]] = {
    "GS": {},
    "PS": {"selection": "PS"},
    "trained others": {"others": "trained"},
    "dense, selected": {"form": "dense", "update": "selected"},
}


class Net(nn.Module):
    """Nobody's registry has it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(16, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(images))
        return out


def make(**kind: Any) -> tuple[SlotMachine, torch.optim.Optimizer]:
    torch.manual_seed(0)
    machine = slotkit.slotify(Net(), k=8, **kind)
    return machine, machine.optimizer(lr=1.0, momentum=0.9, weight_decay=1e-3)


class KilledError(Exception):
    """The loop ends here."""


def train(
    path: Path,
    steps: int = 30,
    stop: int | None = None,
    resume: bool = False,
    kind: dict[str, Any] | None = None,
    adam: bool = False,
    meanwhile: Callable[[Recording], None] = lambda run: None,
    **options: Any,
) -> tuple[SlotMachine, Recording]:
    """Her loop: batches from three random generators, a schedule, a checkpoint every 10 steps."""
    machine, optimizer = make(**(kind or {}))
    if adam:
        optimizer = slotkit.SlotAdam(machine)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    options = {"trace": "full", "every": 5, "also": {"scheduler": scheduler}} | options
    with slotkit.record(machine, optimizer, path, resume=resume, **options) as run:
        machine.model.train()
        while run.step < steps:
            some = torch.randperm(64)[: random.randint(8, 16)]
            noise = np.random.standard_normal()
            loss = nn.functional.cross_entropy(machine.model(IMAGES[some] + 0.01 * noise), LABELS[some])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            if run.step % 5 == 0:
                run.log(loss=loss)
            meanwhile(run)
            if run.step == stop:
                raise KilledError
            if run.step % 10 == 0:
                run.checkpoint(epoch=run.step // 10)
    return machine, run
