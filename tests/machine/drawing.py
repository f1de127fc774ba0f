"""A small machine in every form, and its steps: what the tests of draws share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slotkit import making
from slotkit.machine import SlotMachine

FORMS: dict[str, dict[str, Any]] = {
    "dense": {"form": "dense"},
    "eager": {"engine": "eager"},
    "numba": {"engine": "numba"},
}
EACH_FORM = pytest.mark.parametrize("form", FORMS)


def machine_of(form: str, selection: str = "PS", norm: bool = True) -> SlotMachine:
    torch.manual_seed(2)
    between = nn.BatchNorm1d(9) if norm else nn.Identity()
    model = nn.Sequential(nn.Linear(6, 9), between, nn.ReLU(), nn.Linear(9, 3))
    return making.slotify(model, 8, selection, seed=4, **FORMS[form])


def inputs(seed: int = 1) -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))


def gradients(machine: SlotMachine) -> dict[str, Tensor]:
    found = {name: value.grad for name, value in machine.model.named_parameters()}
    return {name: value.clone() for name, value in found.items() if value is not None}


def loss_of(model: Callable[[Tensor], Tensor], seed: int = 1) -> Tensor:
    return model(inputs(seed)).square().sum()


def step(machine: SlotMachine, optimizer: torch.optim.Optimizer) -> None:
    loss_of(machine.model).backward()
    optimizer.step()
    optimizer.zero_grad()
