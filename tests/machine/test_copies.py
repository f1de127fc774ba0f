"""Deep copies, and other number types."""

from __future__ import annotations

import copy

import pytest
import torch
from small_networks import (
    batch,
    each_is_an_option,
    equal,
    network,
    selections,
    slotify,
    train,
    weights,
)
from torch import nn


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_deep_copy_is_another_machine(selection: str) -> None:
    machine = slotify(network(), 4, selection)
    train(machine, 1)
    twin = copy.deepcopy(machine)
    before, draws = weights(machine), machine.draws
    expected = train(twin, 3)
    assert equal(weights(machine), before)
    assert machine.draws == draws
    assert not equal(weights(twin), before)
    assert all(torch.equal(one, two) for one, two in zip(train(machine, 3), expected, strict=True))


def test_a_deep_copy_of_the_model_alone() -> None:
    machine = slotify(network(), 4, "PS")
    model = copy.deepcopy(machine.model)
    machine.model.eval(), model.eval()
    assert torch.equal(model(batch()), machine.model(batch()))
    before = weights(machine)
    model.train()(batch())
    assert equal(weights(machine), before)
    assert machine.draws == 1


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_double_precision_has_the_same_options(selection: str, device: torch.device) -> None:
    machine = slotify(network().to(device), 4, selection)
    before = weights(machine)
    machine.model.to(torch.float64)
    assert {weight.dtype for weight in weights(machine).values()} == {torch.float64}
    assert equal(weights(machine), {name: weight.double() for name, weight in before.items()})
    machine.model(batch(device, torch.float64)).sum().backward()
    assert all(value.grad is not None and value.grad.dtype == torch.float64 for value in machine.parameters())


def test_a_model_in_double_precision_gets_the_same_options() -> None:
    single, double = slotify(network(), 4), slotify(network().double(), 4)
    assert equal(weights(double), {name: weight.double() for name, weight in weights(single).items()})
    assert equal(selections(double), selections(single))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_half_precision_trains(selection: str, dtype: torch.dtype, device: torch.device) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).to(device)
    machine = slotify(model, 4, selection)
    model.to(dtype)
    optimizer = machine.optimizer(lr=0.1)
    loss = model(batch(device, dtype)).square().sum()
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert loss.dtype == dtype
    assert all(machine.scores(name).isfinite().all() for name in machine.reels)
    assert each_is_an_option(machine)
