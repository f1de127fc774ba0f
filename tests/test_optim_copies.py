"""Copies and pickles of slot machines' optimizers, and states that they refuse."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from test_optim import equal, everything, machine_of, run, same_state
from test_optim_states import EACH_KIND, optimizer_of
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.making import slotify
from slotkit.optim import SlotAdam, SlotSGD

# ---------------------------------------------------------------------------------------------------
# Copies and pickles of an optimizer.


def through_a_file(things: Any) -> Any:
    file = io.BytesIO()
    torch.save(things, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Any] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda things: pickle.loads(pickle.dumps(things)),
    "torch-save": through_a_file,
}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@EACH_KIND
def test_a_copied_optimizer_goes_on_with_the_same_bits(
    kind: type[Any], settings: dict[str, Any], copied: Any, selection: str, order: tuple[int, ...]
) -> None:
    machine = slotify(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), 4, selection, others="trained"
    )
    optimizer = optimizer_of(kind, machine, settings)

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.linspace(-1, 1, 24).reshape(4, 6)).square().sum().backward()
            optimizer.step()
        return {name: value.detach().clone() for name, value in model.named_parameters()}

    steps(machine.model, optimizer)
    before = {name: value.detach().clone() for name, value in machine.model.named_parameters()}
    things = (machine.model, machine, optimizer)
    twins: Any = copied(tuple(things[i] for i in order))
    model, twin, other = (twins[order.index(i)] for i in range(3))
    assert twin.model is model
    after = steps(model, other)
    assert equal({name: value.detach() for name, value in machine.model.named_parameters()}, before)
    assert equal(steps(machine.model, optimizer), after)
    assert same_state(other.state_dict(), optimizer.state_dict())
    assert not equal(after, before)


# ---------------------------------------------------------------------------------------------------
# A refused state changes nothing.


def lacking(state: dict[str, Any]) -> None:
    del state["state"][0]["lower"]


def empty(state: dict[str, Any]) -> None:
    state["state"].pop(0)


def smaller(state: dict[str, Any]) -> None:
    state["state"][1]["velocity"] = torch.zeros(2)


def of_another_kind(state: dict[str, Any]) -> None:
    del state["param_groups"][0]["lr"]


def misshapen(state: dict[str, Any]) -> None:
    last = max(key for key in state["state"])
    name = "momentum_buffer" if "momentum_buffer" in state["state"][last] else "exp_avg"
    state["state"][last][name] = torch.zeros(7)


def not_finite(state: dict[str, Any]) -> None:
    state["state"][1]["velocity"][2] = float("nan")


def stepless(state: dict[str, Any]) -> None:
    state["state"][0] |= {"step": "x", "exp_avg": torch.zeros(1), "exp_avg_sq": torch.zeros(1)}


REFUSED: dict[str, tuple[Any, str]] = {
    "lacking": (lacking, r"The state of \S+ lacks lower\. It is damaged, or that of another kind"),
    "empty": (empty, r"The state of \S+ lacks latent, velocity, lower, upper, c, e, steps, moving\."),
    "smaller": (smaller, r"The state of \S+ has 2 connections, and the weight has"),
    "of-another-kind": (of_another_kind, r"Group 0 of this state has no lr: it is that of another kind"),
    "not-finite": (
        not_finite,
        r"The state of \S+ has a velocity with numbers that are not finite\. It is dam",
    ),
    "stepless": (stepless, r"The state of \S+ has step 'x', which is no number\. It is damaged, or was put"),
    "misshapen": (misshapen, r"The state has \w+ of shape \(7,\) for a parameter of shape"),
}


@pytest.mark.parametrize(("damage", "text"), REFUSED.values(), ids=REFUSED)
@EACH_KIND
def test_a_refused_state_changes_nothing(
    kind: type[Any], settings: dict[str, Any], damage: Any, text: str
) -> None:
    machine, other = machine_of(others="trained"), machine_of(others="trained")
    optimizer = optimizer_of(kind, machine, settings)
    another = optimizer_of(kind, other, settings | {"lr": 3.0})
    run(machine, optimizer, 2)
    run(other, another, 4)
    state = copy.deepcopy(another.state_dict())
    damage(state)
    before, kept = everything(machine), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(SlotkitError, match=text):
        optimizer.load_state_dict(state)
    assert equal(everything(machine), before)
    assert same_state(optimizer.state_dict(), kept)
    assert optimizer.param_groups[0]["lr"] == settings["lr"]


def test_the_state_of_sgd_is_refused_by_adam_and_the_other_way() -> None:
    machine = machine_of(others="frozen")
    sgd, adam = SlotSGD(machine, 0.1), SlotAdam(machine)
    with pytest.raises(SlotkitError, match=r"Group 0 of this state has no betas, eps: .* that SlotAdam has"):
        adam.load_state_dict(sgd.state_dict())
    with pytest.raises(
        SlotkitError, match=r"Group 0 of this state has no momentum, dampening, nesterov: .* that SlotSGD has"
    ):
        sgd.load_state_dict(adam.state_dict())
