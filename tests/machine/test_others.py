"""What becomes of the parameters that are not reels."""

from __future__ import annotations

import torch
from small_networks import (
    equal,
    network,
    slotify,
)
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from slotkit.machine import SlotMachine


class Norms(nn.Module):
    """One norm of each kind, with values that are not their start values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.batch = nn.BatchNorm2d(4)
        self.group = nn.GroupNorm(2, 4)
        self.timm = LayerNorm2d(4)
        self.layer = nn.LayerNorm(4)
        self.scale = nn.Parameter(torch.ones(4))
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.randn(parameter.shape) + number)

    def forward(self, x: Tensor) -> Tensor:
        x = self.timm(self.group(self.batch(self.conv(x))))
        y: Tensor = self.layer(x.mean(dim=(2, 3))) * self.scale
        return y


NORMS = ("batch", "group", "timm", "layer")


def others_of(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.detach().clone()
        for name, value in model.named_parameters()
        if "parametrizations" not in name
    }


def step(machine: SlotMachine, model: nn.Module) -> None:
    optimizer = machine.optimizer(lr=0.1)
    model(torch.randn(3, 2, 2, 2)).square().sum().backward()
    optimizer.step()


def test_frozen_others_are_neutral_and_stay_so() -> None:
    model = Norms()
    scale = model.scale.detach().clone()
    machine = slotify(model, where="conv.weight")
    step(machine, model)
    found = others_of(model)
    for norm in NORMS:
        assert torch.equal(found[f"{norm}.weight"], torch.ones(4))
        assert torch.equal(found[f"{norm}.bias"], torch.zeros(4))
    assert torch.equal(found["conv.bias"], torch.zeros(4))
    assert torch.equal(found["scale"], scale), "what is neither bias nor norm keeps its value"
    assert [name for name, value in model.named_parameters() if value.requires_grad] == [
        "conv.parametrizations.weight.original"
    ]
    assert len(list(machine.parameters())) == 1


def test_kept_others_keep_their_values() -> None:
    model = Norms()
    before = others_of(model)
    before.pop("conv.weight")
    machine = slotify(model, others="kept")
    step(machine, model)
    assert equal(others_of(model), before)
    assert len(list(machine.parameters())) == 1


def test_trained_others_are_trained_unless_they_were_frozen_before() -> None:
    model = Norms()
    model.scale.requires_grad_(False)
    before = others_of(model)
    before.pop("conv.weight")
    machine = slotify(model, others="trained")
    assert equal(others_of(model), before)
    step(machine, model)
    moved = {name for name, value in others_of(model).items() if not torch.equal(value, before[name])}
    # A norm follows, so these two have no gradient but rounding: their movement is not asked for.
    silent = {"conv.bias", "batch.bias"}
    assert moved | silent == before.keys() - {"scale"}
    assert len(list(machine.parameters())) == len(before)


def test_running_statistics_are_left_alone() -> None:
    model = network()
    model.norm.running_mean.fill_(2.0)  # type: ignore[operator, union-attr]
    slotify(model)
    assert model.norm.running_mean.eq(2.0).all()  # type: ignore[operator, union-attr]
