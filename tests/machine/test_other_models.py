"""Other people's models."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from small_networks import (
    each_is_an_option,
    slotify,
)
from torch import nn

from slotkit.errors import SlotkitError


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_efficientnet"])
def test_timm_models_train_a_step(name: str, selection: str) -> None:
    size: dict[str, Any] = {"img_size": 32} if "vit" in name else {}
    model = timm.create_model(name, num_classes=4, **size)
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    machine = slotify(model, 2, selection, others="trained")
    assert len(machine.reels) == len(layers)
    before = [machine.scores(name).clone() for name in machine.reels]
    optimizer = machine.optimizer(lr=0.1)
    losses = []
    x, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 3])
    for _ in range(2):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss)
    assert all(loss.isfinite() for loss in losses)
    moved = [
        not torch.equal(machine.scores(name), old) for name, old in zip(machine.reels, before, strict=True)
    ]
    assert all(moved)
    assert each_is_an_option(machine)


def test_attention_in_torch() -> None:
    """Its fast path in evaluation reads the weights without calling the layers."""
    model = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    slotify(model, 4)
    x = torch.randn(2, 3, 4)
    trained = model(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), trained)


class Counting(nn.Linear):
    """Its state_dict has something that is no tensor."""

    calls = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


@pytest.mark.parametrize("form", ["latent", "dense"])
def test_a_module_with_an_extra_state(form: str) -> None:
    layers = Counting(3, 2), Counting(3, 2)
    machine, other = (slotify(nn.Sequential(layer), 4, form=form) for layer in layers)
    layers[0].calls = 5
    state = machine.state_dict()
    other.load_state_dict(state)
    assert layers[1].calls == 5
    del state["others"]["0._extra_state"]
    with pytest.raises(SlotkitError, match="This state belongs to a model with other parameters"):
        other.load_state_dict(state)


def test_a_state_without_an_init_is_refused() -> None:
    machine = slotify(nn.Linear(3, 2), 4)
    state = machine.state_dict()
    del state["settings"]["init"]
    with pytest.raises(SlotkitError, match="init is None there and 'glorot-uniform' here"):
        machine.load_state_dict(state)
