"""Dead layers are found, and paired options keep them alive."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slotkit import dead_layers, slotify


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 3))


def test_a_network_that_works_has_no_dead_layers() -> None:
    model = network()
    slotify(model, k=4)
    assert dead_layers(model, torch.rand(8, 40)) == []


def test_an_all_negative_layer_is_found_with_everything_behind_it() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight.fill_(-1.0)
        model[0].bias.zero_()
        model[2].bias.zero_()
        model[4].bias.zero_()
    assert dead_layers(model, torch.rand(8, 40)) == ["1", "2", "3", "4"]


@pytest.mark.parametrize("seed", range(5))
def test_pairs_of_shared_options_keep_every_layer_alive(seed: int) -> None:
    model = network()
    slotify(model, k=8, sharing="layer", symmetric=True, seed=seed)
    assert dead_layers(model, torch.rand(64, 40)) == []


def test_the_mode_of_the_model_and_its_hooks_are_left_as_they_were() -> None:
    model = network()
    model.train()
    dead_layers(model, torch.rand(2, 40))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
