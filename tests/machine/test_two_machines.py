"""Two machines in one model: a second slotify neither takes nor freezes what the first one has."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from typing import Any

import pytest
import torch
from small_networks import (
    batch,
    equal,
    network,
    same_snapshot,
    snapshot,
    train,
    weights,
)
from torch import Tensor, nn

from slotkit import making
from slotkit.errors import SlotkitError
from slotkit.layers import SlotLinear
from slotkit.machine import SlotMachine
from slotkit.making import randomize
from slotkit.optim import SlotSGD
from slotkit.picking import Where

FORMS: dict[str, dict[str, Any]] = {
    "dense": {"form": "dense"},
    "latent": {"form": "latent", "engine": "eager"},
}


def slotify(model: nn.Module, form: str, **settings: Any) -> SlotMachine:
    return making.slotify(model, **(FORMS[form] | settings))


def with_a_slot_layer(**settings: Any) -> nn.Sequential:
    """An ordinary layer, and one that is a slot machine of its own."""
    return nn.Sequential(
        OrderedDict(fc1=nn.Linear(6, 5), relu=nn.ReLU(), fc2=SlotLinear(5, 3, k=4, seed=1, **settings))
    )


def scores_of(machine: SlotMachine) -> dict[str, Tensor]:
    return {name: machine.scores(name).clone() for name in machine.reels}


def ids(machine: SlotMachine) -> set[int]:
    return {id(value) for value in machine.parameters()}


@pytest.mark.parametrize("others", ["frozen", "trained", "kept"])
@pytest.mark.parametrize("second_form", FORMS)
@pytest.mark.parametrize("first_form", FORMS)
def test_a_second_machine_takes_what_is_left(first_form: str, second_form: str, others: str) -> None:
    model = network()
    first = slotify(model, first_form, k=4, where="fc1.weight")
    before = weights(first)
    second = slotify(model, second_form, k=6, seed=3, others=others)
    assert list(first.reels) == ["fc1.weight"]
    assert list(second.reels) == ["fc2.weight"]
    assert equal(weights(first), before)
    assert all(value.requires_grad for machine in (first, second) for value in machine.parameters())
    assert not ids(first) & ids(second), "two optimizers would step on one parameter"


@pytest.mark.parametrize("second_form", FORMS)
@pytest.mark.parametrize("first_form", FORMS)
def test_what_one_machine_trains_no_other_does(first_form: str, second_form: str) -> None:
    """And what the first one trains becomes the second one's, if that takes it."""
    model = network()
    first = slotify(model, first_form, k=4, where="fc1.weight", others="trained")
    assert "fc2.weight" in first.trained
    second = slotify(model, second_form, k=4, where="fc2.weight", others="trained")
    assert list(first.trained) == ["fc1.bias", "norm.weight", "norm.bias", "fc2.bias"]
    assert not second.trained
    assert not ids(first) & ids(second), "two optimizers would step on one parameter"
    for machine in (first, second):
        machine.optimizer(lr=0.1)
    if first_form == second_form == "latent":
        before = model.get_parameter("fc2.bias").detach().clone()
        optimizer = SlotSGD([first, second], lr=0.1)
        model(batch()).square().sum().backward()
        optimizer.step()
        gradient = model.get_parameter("fc2.bias").grad
        assert gradient is not None
        torch.testing.assert_close(model.get_parameter("fc2.bias"), before - 0.1 * gradient)
    second.to_learned()
    assert "fc2.weight" in first.trained
    first.to_learned()
    assert not any("slot_machine" in key for module in model.modules() for key in vars(module))
    third = slotify(model, second_form, k=4, others="trained")
    assert list(third.trained) == ["fc1.bias", "norm.weight", "norm.bias", "fc2.bias"]


@pytest.mark.parametrize("others", ["frozen", "kept", "trained"])
@pytest.mark.parametrize("form", FORMS)
def test_the_bias_of_a_slot_layer_is_left_alone(form: str, others: str) -> None:
    model = with_a_slot_layer(bias=True)
    bias = model.get_parameter("fc2.bias")
    before = bias.detach().clone()
    machine = slotify(model, form, k=4, others=others)
    assert bias.requires_grad
    assert torch.equal(bias, before)
    assert "fc2.bias" not in machine.trained


@pytest.mark.parametrize("way", ["a deep copy", "assigned"])
@pytest.mark.parametrize("form", FORMS)
def test_a_second_machine_trains_in_a_copy_too(form: str, way: str) -> None:
    """Other Parameters, without the attributes of those that the first machine froze."""
    first = slotify(network(), "latent", k=4, where="fc1.weight")
    if way == "a deep copy":
        first = copy.deepcopy(first)
    else:
        others = {name: value for name, value in first.model.state_dict().items() if name != "fc1.weight"}
        first.model.load_state_dict(copy.deepcopy(others), strict=False, assign=True)
    second = slotify(first.model, form, k=4, where="fc2.weight")
    before = scores_of(second)
    train(second, 3)
    assert not equal(scores_of(second), before)
    for machine in (second, first):
        machine.to_learned()
    assert all(value.requires_grad for value in first.model.parameters())
    assert not any("slot_machine" in key for module in first.model.modules() for key in vars(module))


@pytest.mark.parametrize("form", FORMS)
def test_what_the_user_freezes_later_stays_frozen(form: str) -> None:
    model = network()
    slotify(model, "latent", k=4, where="fc1.weight")
    slotify(model, form, k=4, where="fc2.weight").to_learned()
    model.get_parameter("fc2.weight").requires_grad_(False)
    last = slotify(model, form, k=4, where="fc2.weight")
    assert [value.requires_grad for value in last.parameters()] == [False]


@pytest.mark.parametrize("second_form", FORMS)
@pytest.mark.parametrize("first_form", FORMS)
def test_both_machines_train(first_form: str, second_form: str) -> None:
    model = network()
    both = [
        slotify(model, first_form, k=4, where="fc1.weight"),
        slotify(model, second_form, k=4, seed=3),
    ]
    before = [scores_of(machine) for machine in both]
    optimizers = [machine.optimizer(lr=0.5) for machine in both]
    model(batch()).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    for machine, old in zip(both, before, strict=True):
        assert all(not torch.equal(machine.scores(name), old[name]) for name in old)


@pytest.mark.parametrize("others", ["frozen", "trained", "kept"])
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("form", FORMS)
def test_a_slot_layer_in_a_slotified_network_is_left_alone(form: str, selection: str, others: str) -> None:
    model = with_a_slot_layer(selection=selection)
    layer = model.get_submodule("fc2")
    assert isinstance(layer, SlotLinear)
    before, weight, draws = scores_of(layer.machine), weights(layer.machine), layer.machine.draws
    machine = slotify(model, form, k=4, others=others)
    assert list(machine.reels) == ["fc1.weight"]
    assert equal(scores_of(layer.machine), before)
    assert equal(weights(layer.machine), weight)
    assert layer.machine.draws == draws
    assert all(value.requires_grad for value in layer.machine.parameters())
    assert not ids(machine) & ids(layer.machine)
    train(machine, 3, layer.machine.optimizer(lr=1.0))
    assert not equal(scores_of(layer.machine), before), "its own optimizer trains it"
    assert layer.machine.draws == (draws + 3 if selection == "probabilistic" else 0)


BY_NAME: dict[str, Where] = {
    "name": "fc1.weight",
    "glob": "fc*.weight",
    "predicate": lambda name, value: value.dim() == 2,
}


@pytest.mark.parametrize("where", BY_NAME.values(), ids=BY_NAME)
def test_asking_for_a_weight_of_a_latent_machine_is_refused(where: Where) -> None:
    """It is an ordinary parameter of its layer: only the claim tells it apart."""
    model = network()
    slotify(model, "latent", k=4, where="fc1.weight")
    before = snapshot(model)
    text = re.escape("fc1.weight belongs to a slot machine already. Leave it out of `where`.")
    with pytest.raises(SlotkitError, match=text):
        slotify(model, "latent", where=where)
    with pytest.raises(SlotkitError, match=text):
        slotify(model, "dense", where=where)
    with pytest.raises(SlotkitError, match=text):
        randomize(model, 4, where=where)
    assert same_snapshot(snapshot(model), before)


@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_is_one_machine_has_nothing_left(form: str) -> None:
    model = network()
    slotify(model, form)
    before = snapshot(model)
    with pytest.raises(SlotkitError, match="Sequential is already a slot machine"):
        slotify(model, form)
    with pytest.raises(SlotkitError, match="Sequential is already a slot machine"):
        randomize(model)
    assert same_snapshot(snapshot(model), before)


def test_a_tied_weight_of_another_model_is_taken_already() -> None:
    """The claim lies with the tensor, not with the model that it was made in."""
    layer = nn.Linear(5, 5, bias=False)
    slotify(nn.Sequential(layer), "latent")
    machine = slotify(nn.Sequential(layer, nn.Linear(5, 2)), "dense")
    assert list(machine.reels) == ["1.weight"]


# ---------------------------------------------------------------------------------------------------
# What has become of the claim in a copy, and in a state.


@pytest.mark.parametrize("form", FORMS)
def test_a_deep_copy_is_claimed_too(form: str) -> None:
    twin = copy.deepcopy(slotify(network(), form, k=4, where="fc1.weight"))
    second = slotify(twin.model, "dense", k=4)
    assert list(second.reels) == ["fc2.weight"]
    assert all(value.requires_grad for value in twin.parameters())


def test_assigned_scores_are_claimed_too() -> None:
    model = with_a_slot_layer()
    model.load_state_dict(with_a_slot_layer().state_dict(), assign=True)
    slotify(model, "dense", k=4)
    layer = model.get_submodule("fc2")
    assert all(value.requires_grad for value in layer.parameters())


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_state_has_the_scores_of_slot_layers_inside(selection: str) -> None:
    models = [with_a_slot_layer(selection=selection) for _ in range(2)]
    machine, fresh = (slotify(model, "dense", k=4) for model in models)
    layer = models[0].get_submodule("fc2")
    assert isinstance(layer, SlotLinear)
    train(machine, 3, layer.machine.optimizer(lr=1.0))
    fresh.load_state_dict(machine.state_dict())
    loaded = models[1].get_submodule("fc2")
    assert isinstance(loaded, SlotLinear)
    assert equal(scores_of(loaded.machine), scores_of(layer.machine))
    assert equal(weights(loaded.machine), weights(layer.machine))


def test_a_latent_state_has_the_scores_of_slot_layers_inside() -> None:
    models = [with_a_slot_layer(selection="PS") for _ in range(2)]
    machine, fresh = (slotify(model, "latent", k=4) for model in models)
    layer = models[0].get_submodule("fc2")
    assert isinstance(layer, SlotLinear)
    train(machine, 3, layer.machine.optimizer(lr=1.0))
    fresh.load_state_dict(machine.state_dict())
    loaded = models[1].get_submodule("fc2")
    assert isinstance(loaded, SlotLinear)
    assert equal(scores_of(loaded.machine), scores_of(layer.machine))
    assert equal(weights(loaded.machine), weights(layer.machine))
    assert loaded.machine.draws == layer.machine.draws == 4
