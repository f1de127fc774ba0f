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
