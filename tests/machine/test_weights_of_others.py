"""Weights that somebody else gave, averaged or froze: no draw writes over them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from machine.drawing import EACH_FORM, FORMS, gradients, inputs, loss_of, machine_of, step
from small_networks import equal, selections
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.optim.swa_utils import AveragedModel, update_bn

from slotkit import making
from slotkit.machine import SlotMachine

# ---------------------------------------------------------------------------------------------------
# torch.func: a call with weights that are given.


@pytest.mark.parametrize("buffers", [False, True])
@EACH_FORM
def test_a_call_with_the_machines_own_weights(form: str, buffers: bool) -> None:
    machine = machine_of(form)
    optimizer = machine.optimizer(lr=0.1)
    for draws in (2, 3):
        own = dict(machine.model.named_parameters())
        own |= dict(machine.model.named_buffers()) if buffers else {}
        called = functional_call(machine.model, own, (inputs(),))
        assert torch.equal(called, machine.model(inputs()))
        assert machine.draws == draws
        called.sum().backward()
        optimizer.step()


@EACH_FORM
def test_gradients_of_torch_func_belong_to_the_draw(form: str) -> None:
    machine, plain = (machine_of(form, norm=False) for _ in range(2))  # whose statistics torch.func refuses
    optimizers = [each.optimizer(lr=0.1) for each in (machine, plain)]
    for draws in (2, 3):
        own = {name: value.detach() for name, value in machine.model.named_parameters()}
        held = {name: value.detach() for name, value in machine.model.named_buffers()}
        found = grad(lambda w, b=held: loss_of(lambda x: functional_call(machine.model, w | b, (x,))))(own)
        loss_of(plain.model).backward()
        for name, expected in gradients(plain).items():
            torch.testing.assert_close(found[name], expected)
        assert machine.draws == plain.draws == draws
        for name, parameter in machine.model.named_parameters():
            parameter.grad = found[name]
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


@EACH_FORM
def test_weights_given_from_outside_are_not_drawn_over(form: str) -> None:
    machine, x = machine_of(form, norm=False), inputs()
    before = selections(machine)
    given = {name: torch.ones_like(value) for name, value in machine.model.named_parameters()}
    functional_call(machine.model, given, (x,))
    stacked = {name: torch.stack([value, value]) for name, value in given.items()}
    assert vmap(lambda w: functional_call(machine.model, w, (x,)))(stacked).shape == (2, 5, 3)
    assert all(bool(value.eq(1).all()) for value in given.values())
    assert equal(selections(machine), before)
    assert machine.draws == 1
    machine.model(x)
    assert machine.draws == 2, "the next forward of its own weights draws"


def test_what_is_not_given_is_drawn_and_the_rest_follows_with_the_same_number() -> None:
    machine, whole = machine_of("numba"), machine_of("numba")
    given = {"0.weight": torch.ones(9, 6)}
    functional_call(machine.model, given, (inputs(),))
    whole.model(inputs())
    assert machine.draws == 2
    assert torch.equal(machine.selected("3.weight"), whole.selected("3.weight"))
    assert not torch.equal(machine.selected("0.weight"), whole.selected("0.weight"))
    machine.model(inputs())
    assert machine.draws == 2
    assert equal(selections(machine), selections(whole))


# ---------------------------------------------------------------------------------------------------
# Copies whose weights somebody else writes.


@EACH_FORM
def test_averages_are_never_drawn_over(form: str) -> None:
    machine = machine_of(form)
    optimizer = machine.optimizer(lr=0.5)
    average = AveragedModel(machine.model)
    for _ in range(3):
        step(machine, optimizer)
        average.update_parameters(machine.model)
        before = {name: value.clone() for name, value in average.module.named_parameters()}
        update_bn([inputs()], average)
        assert torch.equal(average.module.train()(inputs()), average.module(inputs()))
        assert equal(dict(average.module.named_parameters()), before)
    assert machine.draws == 4


WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "lerp": lambda mean, value: mean.lerp_(value, 0.5),
    "data": lambda mean, value: mean.data.mul_(0.5).add_(value.data, alpha=0.5),
    "data-is": lambda mean, value: setattr(mean, "data", torch.lerp(mean, value, 0.5)),
    "copy": lambda mean, value: mean.data.copy_(value.data),
}


@pytest.mark.parametrize("again", [False, True], ids=["copy", "copy-of-the-copy"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@EACH_FORM
def test_an_average_by_hand_is_never_drawn_over(
    form: str, write: Callable[[Tensor, Tensor], object], again: bool
) -> None:
    machine = machine_of(form)
    average = copy.deepcopy(machine.model)
    step(machine, machine.optimizer(lr=0.5))
    with torch.no_grad():
        for mean, value in zip(average.parameters(), machine.model.parameters(), strict=True):
            write(mean, value)
    average = copy.deepcopy(average) if again else average
    before = {name: value.clone() for name, value in average.named_parameters()}
    assert torch.equal(average.train()(inputs()), average(inputs()))
    assert equal(dict(average.named_parameters()), before)


@EACH_FORM
def test_a_copy_that_nobody_wrote_to_draws_on(form: str) -> None:
    machine = machine_of(form)
    model, twin = copy.deepcopy((machine.model, machine))
    for each in (machine, twin):
        optimizer = each.optimizer(lr=0.5)
        for _ in range(2):
            step(each, optimizer)
    assert twin.model is model
    assert machine.draws == twin.draws == 3
    assert equal(selections(machine), selections(twin))


# ---------------------------------------------------------------------------------------------------
# requires_grad_(False): neither drawn nor stepped.


def parameter_of(machine: SlotMachine, name: str) -> nn.Parameter:
    return dict(zip(machine.reels, machine.form.parameters(), strict=True))[name]


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("when", ["before-slotify", "before-optimizer", "later"])
@EACH_FORM
def test_a_frozen_weight_stays(form: str, when: str, selection: str) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    model[0].weight.requires_grad_(when != "before-slotify")
    machine = making.slotify(model, 8, selection, **FORMS[form])
    if when == "before-optimizer":
        parameter_of(machine, "0.weight").requires_grad_(False)
    optimizer = machine.optimizer(lr=5.0, momentum=0.9, weight_decay=0.1)
    if when == "later":
        for _ in range(2):
            step(machine, optimizer)
        parameter_of(machine, "0.weight").requires_grad_(False)
    before, scores, draws = selections(machine), machine.scores("0.weight").clone(), machine.draws
    for _ in range(3):
        step(machine, optimizer)
        machine.spin()
    assert torch.equal(machine.selected("0.weight"), before["0.weight"])
    assert torch.equal(machine.scores("0.weight"), scores)
    assert not torch.equal(machine.selected("2.weight"), before["2.weight"])
    assert machine.draws == (draws + 4 if selection == "probabilistic" else 0)
    parameter_of(machine, "0.weight").requires_grad_(True)
    for _ in range(2):
        step(machine, optimizer)
    assert not torch.equal(machine.selected("0.weight"), before["0.weight"])


def test_a_weight_frozen_after_the_backward_pass_takes_no_step() -> None:
    machine = machine_of("numba", "greedy")
    optimizer = machine.optimizer(lr=5.0)
    loss_of(machine.model).backward()
    parameter_of(machine, "0.weight").requires_grad_(False)
    before = machine.scores("0.weight").clone()
    optimizer.step()
    assert torch.equal(machine.scores("0.weight"), before)


@EACH_FORM
def test_a_machine_that_is_all_frozen_waits(form: str) -> None:
    """A discriminator that the generator's loss goes through draws for its own step only."""
    machine = machine_of(form)
    step(machine, machine.optimizer(lr=0.1))
    machine.model.requires_grad_(False)
    machine.model(inputs())
    assert machine.draws == 2
    machine.model.requires_grad_(True)
    machine.model(inputs())
    assert machine.draws == 3


@EACH_FORM
def test_using_chooses_frozen_weights_too(form: str) -> None:
    machine = machine_of(form)
    machine.model.requires_grad_(False)
    before = selections(machine)
    with machine.using("PS", draw=3):
        assert not equal(selections(machine), before)
    assert equal(selections(machine), before)
