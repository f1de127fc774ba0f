"""Weights that several layers hold."""

from __future__ import annotations

import pytest
import torch
from small_networks import (
    each_is_an_option,
    equal,
    selections,
    slotify,
    weights,
)
from torch import Tensor, nn


class Tied(nn.Module):
    """Encoder and decoder with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.decoder(self.encoder(x).relu())
        return y


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_tied_weights_stay_tied(selection: str) -> None:
    model = Tied()
    machine = slotify(model, 4, selection)
    assert list(machine.reels) == ["encoder.weight"]
    assert len(list(machine.parameters())) == 1
    optimizer = machine.optimizer(lr=1.0)
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        assert torch.equal(model.encoder.weight, model.decoder.weight)
        assert each_is_an_option(machine)
        optimizer.step()


def test_a_tied_weight_gets_both_gradients() -> None:
    model = Tied()
    machine = slotify(model, 4)
    weight = weights(machine)["encoder.weight"].requires_grad_(True)
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    model(x).square().sum().backward()
    ((x @ weight.T).relu() @ weight.T).square().sum().backward()  # type: ignore[no-untyped-call]
    (scores,) = machine.parameters()
    assert weight.grad is not None
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, weight.grad.unsqueeze(-1) * machine.options("encoder.weight"))


def test_state_of_tied_weights() -> None:
    machine, fresh = (slotify(Tied(), 4, "PS") for _ in range(2))
    machine.model(torch.ones(1, 4))
    fresh.load_state_dict(machine.state_dict())
    assert equal(selections(fresh), selections(machine))
    assert fresh.draws == 2
    assert machine.state_dict()["others"] == {}


def test_a_layer_used_twice() -> None:
    layer = nn.Linear(3, 3, bias=False)
    machine = slotify(nn.Sequential(layer, nn.ReLU(), layer), 4)
    assert list(machine.reels) == ["0.weight"]
    machine.load_state_dict(machine.state_dict())
    assert machine.state_dict()["others"] == {}
