"""The paper's layers, for networks built by hand."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.layers import SlotConv1d, SlotConv2d, SlotConv3d, SlotLinear
from slotkit.reel import Reel
from slotkit.selection import greedy

Layer = SlotLinear | SlotConv1d | SlotConv2d | SlotConv3d

# Slot layer, ordinary layer, sizes, shape of an input, options.
LAYERS: dict[str, tuple[Any, Any, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "linear": (SlotLinear, nn.Linear, (4, 3), (2, 4), {}),
    "conv1d": (SlotConv1d, nn.Conv1d, (4, 6, 3), (2, 4, 5), {"stride": 2, "padding": 1, "groups": 2}),
    "conv2d": (SlotConv2d, nn.Conv2d, (2, 3, 3), (2, 2, 5, 5), {"padding": "same", "dilation": 2}),
    "conv3d": (SlotConv3d, nn.Conv3d, (2, 3, 2), (2, 2, 3, 3, 3), {"padding_mode": "circular", "padding": 1}),
}


def weight_of(layer: Layer) -> Tensor:
    return layer.weight.detach().clone()


@pytest.mark.parametrize("name", LAYERS)
def test_a_slot_layer_is_its_torch_layer_with_a_selected_weight(name: str, device: torch.device) -> None:
    make, ordinary, sizes, shape, options = LAYERS[name]
    layer = make(*sizes, k=4, seed=1, device=device, **options)
    twin = ordinary(*sizes, bias=False, device=device, **options)
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
    x = torch.randn(shape, device=device)
    assert isinstance(layer, ordinary)
    assert layer.bias is None
    assert torch.equal(layer(x), twin(x))
    assert torch.equal(
        layer.machine.options("weight").cpu(), Reel("weight", tuple(twin.weight.shape), 4, 1).options()
    )


def test_settings_reach_the_machine() -> None:
    layer = SlotLinear(
        4,
        3,
        k=6,
        selection="PS",
        init="glorot-deviation",
        sharing="layer",
        symmetric=True,
        update="selected",
        seed=9,
    )
    assert layer.machine.reels["weight"] == Reel("weight", (3, 4), 6, 9, "glorot-deviation", "layer", True)
    assert layer.machine.selection == "probabilistic"
    layer(torch.ones(1, 4)).sum().backward()
    (scores,) = layer.parameters()
    assert scores.grad is not None
    assert ((scores.grad != 0).sum(dim=-1) == 1).all(), "update='selected' moves one score a connection"


def test_torch_manual_seed_decides() -> None:
    def weights(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [weight_of(SlotLinear(4, 3)) for _ in range(2)]

    first, second, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1]), "two layers of one network must differ"
    assert not torch.equal(first[0], other[0])


def test_a_given_seed_decides_alone() -> None:
    torch.manual_seed(1)
    first = weight_of(SlotLinear(4, 3, seed=5))
    torch.manual_seed(2)
    assert torch.equal(weight_of(SlotLinear(4, 3, seed=5)), first)
    assert not torch.equal(weight_of(SlotLinear(4, 3, seed=6)), first)


def test_a_bias_is_trained() -> None:
    layer = SlotLinear(4, 3, bias=True, seed=0)
    assert [name for name, _ in layer.named_parameters()] == ["bias", "parametrizations.weight.original"]
    assert all(parameter.requires_grad for parameter in layer.parameters())
    assert len(list(layer.machine.parameters())) == 2


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_network_of_slot_layers_trains(selection: str) -> None:
    layers = [SlotLinear(4, 20, selection=selection, seed=0), SlotLinear(20, 2, selection=selection, seed=1)]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    x, target = torch.randn(8, 4), torch.randn(8, 2)
    options = [layer.machine.options("weight").clone() for layer in layers]
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (net(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for layer, before in zip(layers, options, strict=True):
        assert torch.equal(layer.machine.options("weight"), before)
        assert (before == layer.weight.unsqueeze(-1)).any(dim=-1).all()
        assert layer.machine.draws == (41 if selection == "probabilistic" else 0)


def test_a_deep_copy_trains_alone() -> None:
    layer = SlotLinear(4, 3, selection="PS", seed=0)
    twin = copy.deepcopy(layer)
    before = weight_of(layer)
    assert twin.machine.model is twin
    twin(torch.ones(1, 4))
    assert torch.equal(weight_of(layer), before)
    assert (layer.machine.draws, twin.machine.draws) == (1, 2)


# ---------------------------------------------------------------------------------------------------
# A state_dict is followed whatever seed it came from, and refused if the options are of another kind.


@pytest.mark.parametrize("sharing", ["none", "layer", "channel"])
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_state_dict_brings_its_seed(selection: str, sharing: str) -> None:
    saved = SlotLinear(4, 3, selection=selection, sharing=sharing, bias=True, seed=2**62)
    with torch.no_grad():
        saved.get_parameter("parametrizations.weight.original").neg_()
    loaded = SlotLinear(4, 3, selection=selection, sharing=sharing, bias=True, seed=1)
    assert not torch.equal(weight_of(loaded), weight_of(saved))
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(weight_of(loaded), weight_of(saved))
    assert torch.equal(loaded.machine.options("weight"), saved.machine.options("weight"))
    assert torch.equal(loaded.machine.scores("weight"), saved.machine.scores("weight"))
    assert loaded.machine.reels["weight"].seed == 2**62
    x = torch.randn(2, 4)
    assert torch.equal(loaded.eval()(x), saved.eval()(x))


def test_the_state_dict_of_a_network_built_by_hand() -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(SlotConv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), SlotLinear(8, 3))

    saved, loaded = build(), build()
    x = torch.randn(2, 1, 4, 4)
    assert not torch.equal(loaded(x), saved(x))
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(loaded(x), saved(x))


def test_a_loaded_layer_trains_on_as_the_saved_one() -> None:
    saved, loaded = SlotLinear(4, 3, seed=1), SlotLinear(4, 3, seed=2)
    loaded.load_state_dict(saved.state_dict())
    x = torch.randn(2, 4)
    for layer in (saved, loaded):
        optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
        for _ in range(3):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()
    assert torch.equal(weight_of(loaded), weight_of(saved))


@pytest.mark.parametrize(
    "settings",
    [{"init": "glorot-deviation"}, {"sharing": "layer"}, {"symmetric": True}, {"k": 4}],
    ids=lambda settings: next(iter(settings)),
)
def test_a_state_dict_of_other_options_is_refused(settings: dict[str, Any]) -> None:
    saved, layer = SlotLinear(4, 3, seed=1, **settings), SlotLinear(4, 3, seed=2)
    options = layer.machine.options("weight").clone()
    with pytest.raises(
        RuntimeError,
        match=r"weight: this state_dict was saved with other options \(seed 1\) than those of Reel\(.*"
        + re.escape("Build the network with the seed, k, init, sharing and dtype of the saved one."),
    ):
        layer.load_state_dict(saved.state_dict())
    assert torch.equal(layer.machine.options("weight"), options)


@pytest.mark.parametrize(
    ("there", "here"),
    [("greedy", "probabilistic"), ("probabilistic", "greedy")],
    ids=["GS-to-PS", "PS-to-GS"],
)
def test_a_state_dict_of_the_other_selection_is_refused(there: str, here: str) -> None:
    saved, layer = SlotLinear(4, 3, seed=1, selection=there), SlotLinear(4, 3, seed=2, selection=here)
    options, drawn = layer.machine.options("weight").clone(), layer.machine.selected("weight").clone()
    text = f"weight: this state_dict is that of a machine with {there} selection, and this one selects by"
    with pytest.raises(RuntimeError, match=re.escape(text)):
        layer.load_state_dict(saved.state_dict())
    assert torch.equal(layer.machine.options("weight"), options)
    assert layer.machine.reels["weight"].seed == 2
    if here == "greedy":
        drawn = greedy(layer.machine.scores("weight"))
    assert torch.equal(layer.machine.selected("weight"), drawn), "it must not hold the sample of another"


def test_a_resumed_layer_goes_on_with_the_next_draw(tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    saved = SlotLinear(4, 3, selection="PS", seed=1)
    optimizer = torch.optim.SGD(saved.parameters(), lr=0.1)
    for _ in range(3):
        saved(x).sum().backward()
        optimizer.step()
    torch.save(saved.state_dict(), tmp_path / "layer.pt")
    loaded = SlotLinear(4, 3, selection="PS", seed=1)
    loaded.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert loaded.machine.draws == saved.machine.draws == 4
    assert torch.equal(loaded(x), saved(x))
    first = SlotLinear(4, 3, selection="PS", seed=1)
    assert not torch.equal(first(x), saved(x)), "draws that are equal anyway test nothing"


def test_layers_of_a_resumed_network_have_draws_of_their_own() -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(*(SlotLinear(3, 3, selection="PS", seed=seed) for seed in (1, 2)))

    saved, loaded = build(), build()
    first = saved[0]
    assert isinstance(first, SlotLinear)
    for _ in range(2):
        first.machine.spin()
    saved(torch.ones(1, 3))
    loaded.load_state_dict(saved.state_dict())
    assert [layer.machine.draws for layer in loaded.children() if isinstance(layer, SlotLinear)] == [3, 2]


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_an_assigned_state_dict_brings_its_seed_too(selection: str) -> None:
    saved = SlotLinear(4, 3, selection=selection, seed=1)
    with torch.no_grad():
        saved.get_parameter("parametrizations.weight.original").neg_()
    saved.machine.spin()
    loaded = SlotLinear(4, 3, selection=selection, seed=2)
    loaded.load_state_dict(copy.deepcopy(saved.state_dict()), assign=True)
    assert torch.equal(weight_of(loaded), weight_of(saved))
    assert torch.equal(loaded.machine.scores("weight"), saved.machine.scores("weight"))
    assert torch.equal(loaded.machine.options("weight"), saved.machine.options("weight"))
    (scores,) = loaded.machine.parameters()
    assert scores is loaded.get_parameter("parametrizations.weight.original")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"k": 0}, "k is 0."),
        ({"selection": "best"}, "There is no selection 'best'."),
        ({"seed": -1}, "The seed is -1."),
        ({"seed": False}, "The seed is False."),
    ],
    ids=["k", "selection", "seed", "seed-false"],
)
def test_refusals(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(SlotkitError, match=re.escape(text)):
        SlotLinear(4, 3, **settings)


def test_a_refused_state_dict_changes_neither_scores_nor_draws() -> None:
    saved = SlotLinear(4, 3, seed=1, selection="PS", init="glorot-deviation")
    layer = SlotLinear(4, 3, seed=2, selection="PS")
    saved.machine.spin()
    with torch.no_grad():
        saved.get_parameter("parametrizations.weight.original").add_(1)
    for assign in (False, True):
        before, drawn = layer.machine.scores("weight").clone(), layer.machine.selected("weight").clone()
        with pytest.raises(RuntimeError, match="was saved with other options"):
            layer.load_state_dict(saved.state_dict(), assign=assign)
        assert torch.equal(layer.machine.scores("weight"), before)
        assert torch.equal(layer.machine.selected("weight"), drawn)
        assert layer.machine.draws == 1
