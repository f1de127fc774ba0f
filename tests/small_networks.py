"""A small network, a slot machine of it, and what tests ask of one."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from slotkit import making
from slotkit.machine import SlotMachine
from slotkit.selection import take

# The literal form: these tests are about what it stores and hands out.
slotify = functools.partial(making.slotify, form="dense")

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    """Two dense layers with a batch norm between them."""
    return nn.Sequential(
        OrderedDict(fc1=nn.Linear(6, 5), norm=nn.BatchNorm1d(5), relu=nn.ReLU(), fc2=nn.Linear(5, 3))
    )


def batch(device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).to(device, dtype)


def train(machine: SlotMachine, steps: int, optimizer: torch.optim.Optimizer | None = None) -> list[Tensor]:
    """Some steps of squared error; the weights in use at each."""
    optimizer = optimizer or machine.optimizer(lr=1.0)
    x, target = batch(), torch.linspace(-1, 1, 12).reshape(4, 3)
    seen = []
    machine.model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (machine.model(x) - target).square().sum().backward()
        seen.append(torch.cat([weight.flatten() for weight in weights(machine).values()]))
        optimizer.step()
    return seen


def weights(machine: SlotMachine) -> dict[str, Tensor]:
    """Tensor name -> the weight that the model uses now."""
    found = {}
    for name in machine.reels:
        value: Any = machine.model
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = value.detach().clone()
    return found


def selections(machine: SlotMachine) -> dict[str, Tensor]:
    return {name: machine.selected(name).clone() for name in machine.reels}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def each_is_an_option(machine: SlotMachine) -> bool:
    """Every weight in use is the selected one of its K options."""
    return all(
        torch.equal(weight, take(machine.options(name), machine.selected(name)))
        for name, weight in weights(machine).items()
    )


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything a refused call must leave alone."""
    return {
        "state": copy.deepcopy(model.state_dict()),
        "training": [(name, parameter.requires_grad) for name, parameter in model.named_parameters()],
        "classes": [type(module) for module in model.modules()],
    }


def same_snapshot(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return equal(one["state"], two["state"]) and all(one[key] == two[key] for key in ("training", "classes"))
