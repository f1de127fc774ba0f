"""Optimizer states of slot machines (dtypes, round trips, what is shown), hooks and refusals, SlotAdam."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from latent.trajectories import first_weight
from test_optim import LATENTS, equal, everything, latents, loss_of, machine_of, run, same_state
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.optim import SlotAdam, SlotSGD

KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "sgd": (SlotSGD, {"lr": 0.25, "momentum": 0.9, "weight_decay": 1e-3}),
    "adam": (SlotAdam, {"lr": 0.05, "weight_decay": 1e-3}),
}

EACH_KIND = pytest.mark.parametrize(("kind", "settings"), KINDS.values(), ids=KINDS)


def optimizer_of(kind: type[Any], machine: SlotMachine, settings: dict[str, Any]) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = kind(machine, **settings)
    return optimizer


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    """Through a file, without pickled classes."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@EACH_KIND
def test_state_shows_the_latents(kind: type[Any], settings: dict[str, Any]) -> None:
    machine = machine_of()
    optimizer = optimizer_of(kind, machine, settings)
    for steps in (0, 3):
        run(machine, optimizer, steps)
        for name, weight in latents(machine).items():
            shown = optimizer.state[machine.model.get_parameter(name)]
            assert all(torch.equal(shown[key], getattr(weight, key)) for key in LATENTS)
            assert all(shown[key].dtype == torch.float32 for key in LATENTS)
            assert (shown["c"], shown["e"], shown["steps"]) == (weight.line.c, weight.line.e, steps)
            assert type(shown["c"]) is type(shown["e"]) is float
    assert weight.line.c != 1.0 or kind is SlotAdam


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@EACH_KIND
def test_a_round_trip_continues_with_the_same_bits(
    kind: type[Any], settings: dict[str, Any], dtype: torch.dtype
) -> None:
    """Into a fresh machine and optimizer, through a file; state keeps its dtype beside any weight."""
    machine = machine_of(dtype=dtype)
    optimizer = optimizer_of(kind, machine, settings)
    run(machine, optimizer, 3)
    state = saved_and_loaded(optimizer.state_dict())
    model_state = copy.deepcopy(machine.model.state_dict())

    resumed = machine_of(dtype=dtype)
    again = optimizer_of(kind, resumed, settings | {"lr": 7.0})
    resumed.model.load_state_dict(model_state)
    again.load_state_dict(state)
    assert same_state(again.state_dict(), optimizer.state_dict())
    assert again.param_groups[0]["lr"] == settings["lr"]
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    for weight in latents(resumed).values():
        shown = again.state[weight.parameter]
        assert all(shown[key].dtype == getattr(weight, key).dtype == expected for key in LATENTS)
        assert type(shown["c"]) is float
    run(machine, optimizer, 4, 3)
    run(resumed, again, 4, 3)
    assert equal(everything(machine), everything(resumed))
    assert same_state(again.state_dict(), optimizer.state_dict())


@EACH_KIND
def test_loading_brings_the_weights_along(kind: type[Any], settings: dict[str, Any]) -> None:
    """The optimizer's state alone is enough: it says which option every connection uses."""
    machine = machine_of(others="frozen")
    optimizer = optimizer_of(kind, machine, settings)
    run(machine, optimizer, 3)
    resumed = machine_of(others="frozen")
    again = optimizer_of(kind, resumed, settings)
    assert not equal(everything(machine), everything(resumed))
    again.load_state_dict(optimizer.state_dict())
    assert equal(everything(machine), everything(resumed))


@pytest.mark.parametrize("steps", [0, 2])
@EACH_KIND
def test_an_earlier_state_undoes_everything(kind: type[Any], settings: dict[str, Any], steps: int) -> None:
    """Loaded into the optimizer that it came from, even from before its first step."""
    machine, twin = machine_of(others="frozen"), machine_of(others="frozen")
    optimizer, other = optimizer_of(kind, machine, settings), optimizer_of(kind, twin, settings)
    run(machine, optimizer, steps)
    run(twin, other, steps)
    state = copy.deepcopy(optimizer.state_dict())
    run(machine, optimizer, 3)
    optimizer.load_state_dict(state)
    run(machine, optimizer, 4, steps)
    run(twin, other, 4, steps)
    assert equal(everything(machine), everything(twin))


@EACH_KIND
def test_a_loaded_state_is_not_shared(kind: type[Any], settings: dict[str, Any]) -> None:
    machine, resumed = machine_of(), machine_of()
    optimizer, again = optimizer_of(kind, machine, settings), optimizer_of(kind, resumed, settings)
    run(machine, optimizer, 2)
    resumed.model.load_state_dict(machine.model.state_dict())
    again.load_state_dict(optimizer.state_dict())
    before, state = everything(machine), copy.deepcopy(optimizer.state_dict())
    run(resumed, again, 2)
    assert equal(everything(machine), before)
    assert same_state(optimizer.state_dict(), state)


def test_a_state_of_another_network_is_refused() -> None:
    machine = slotify(nn.Linear(3, 2), 4)
    state = machine.optimizer(1.0).state_dict()
    other = slotify(nn.Linear(3, 4), 4)
    optimizer = other.optimizer(1.0)
    before = everything(other)
    with pytest.raises(SlotkitError) as caught:
        optimizer.load_state_dict(state)
    assert str(caught.value) == (
        "The state of weight has 6 connections, and the weight has 12. Build the network that the state was "
        "saved with."
    )
    assert equal(everything(other), before)


def test_a_new_optimizer_goes_on_where_the_machine_is() -> None:
    """Latents and velocity are the machine's: an optimizer of the same settings changes nothing."""
    machine, twin = machine_of(others="frozen"), machine_of(others="frozen")
    run(machine, machine.optimizer(0.5, 0.9), 6)
    run(twin, twin.optimizer(0.5, 0.9), 3)
    run(twin, twin.optimizer(0.5, 0.9), 3, 3)
    assert equal(everything(machine), everything(twin))


# ---------------------------------------------------------------------------------------------------
# Hooks and refusals.


def test_step_hooks_are_called_once() -> None:
    machine = machine_of()
    optimizer = machine.optimizer(0.5)
    calls: list[str] = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: calls.append("before")),
        optimizer.register_step_post_hook(lambda *_: calls.append("after")),
        register_optimizer_step_pre_hook(lambda *_: calls.append("before any")),
        register_optimizer_step_post_hook(lambda *_: calls.append("after any")),
    ]
    try:
        run(machine, optimizer, 1)
    finally:
        for handle in handles:
            handle.remove()
    assert sorted(calls) == ["after", "after any", "before", "before any"]


@pytest.mark.parametrize("kind", [SlotSGD, SlotAdam])
def test_a_machine_in_dense_form_is_refused(kind: type[Any]) -> None:
    with pytest.raises(SlotkitError) as caught:
        kind(machine_of(form="dense"))
    assert str(caught.value) == (
        "This optimizer trains slot machines in the latent form, and this one is in the dense form. Use any "
        "torch optimizer over machine.parameters(), or slotify with form='latent'."
    )


BAD = {
    "lr": (SlotSGD, {"lr": -1.0}, "Invalid learning rate: -1.0"),
    "momentum": (SlotSGD, {"momentum": -0.1}, "Invalid momentum value: -0.1"),
    "weight-decay": (SlotSGD, {"weight_decay": -1.0}, "Invalid weight_decay value: -1.0"),
    "nesterov": (SlotSGD, {"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
    "adam-lr": (SlotAdam, {"lr": -1.0}, "Invalid learning rate: -1.0"),
    "adam-betas": (SlotAdam, {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
    "adam-eps": (SlotAdam, {"eps": -1.0}, "Invalid epsilon value: -1.0"),
}


@pytest.mark.parametrize(("kind", "settings", "text"), BAD.values(), ids=BAD)
def test_bad_hyperparameters_get_the_error_of_torch(
    kind: type[Any], settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        kind(machine_of(), **settings)
    assert str(caught.value) == text


def test_a_machine_twice_is_refused() -> None:
    machine = machine_of()
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        SlotSGD([machine, machine])


# ---------------------------------------------------------------------------------------------------
# SlotAdam.


ADAMS: dict[str, dict[str, Any]] = {
    "default": {},
    "decay": {"lr": 0.1, "weight_decay": 0.1},
    "betas": {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3},
}


@pytest.mark.parametrize("settings", ADAMS.values(), ids=ADAMS)
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_adam_is_torch_adamw_on_the_latents(selection: str, settings: dict[str, Any]) -> None:
    """Plain tensors of latents, fed with the same gradients; c stays 1."""
    machine = machine_of(dtype=torch.float64, selection=selection)
    optimizer = SlotAdam(machine, **settings)
    twins = {
        name: nn.Parameter(torch.zeros(reel.shape, dtype=torch.float64))
        for name, reel in machine.reels.items()
    }
    twins |= {name: nn.Parameter(value.detach().clone()) for name, value in machine.trained.items()}
    plain = torch.optim.AdamW(twins.values(), **({"lr": 0.01, "weight_decay": 0.0} | settings))
    scheduler, other = (torch.optim.lr_scheduler.StepLR(each, 3, 0.5) for each in (optimizer, plain))
    for step in range(12):
        optimizer.zero_grad()
        loss_of(machine, step).backward()
        for name, twin in twins.items():
            gradient = machine.model.get_parameter(name).grad
            assert gradient is not None
            twin.grad = gradient.clone()
        for each in (optimizer, plain, scheduler, other):
            each.step()
        for name, twin in twins.items():
            weight = latents(machine).get(name)
            value = machine.model.get_parameter(name) if weight is None else weight.latent.reshape(twin.shape)
            torch.testing.assert_close(value, twin, rtol=1e-12, atol=1e-14)
    for name, weight in latents(machine).items():
        assert weight.line.c == 1.0
        scores = machine.options(name) * twins[name].detach().unsqueeze(-1) + machine.reels[name].scores()
        torch.testing.assert_close(machine.scores(name), scores, rtol=1e-12, atol=1e-14)
        if selection == "greedy":
            assert torch.equal(machine.selected(name), scores.argmax(dim=-1))


def test_adam_skips_what_has_no_gradient() -> None:
    machine = machine_of()
    optimizer = optimizer_of(SlotAdam, machine, {})
    run(machine, optimizer, 2)
    before, state = everything(machine), copy.deepcopy(optimizer.state_dict())
    optimizer.zero_grad()
    optimizer.step()
    assert equal(everything(machine), before)
    assert same_state(optimizer.state_dict(), state)


def test_adam_keeps_its_moments_when_the_model_is_cast() -> None:
    machine, twin = machine_of(others="frozen"), machine_of(others="frozen")
    optimizers = [SlotAdam(each, 0.05) for each in (machine, twin)]
    for each, optimizer in zip((machine, twin), optimizers, strict=True):
        run(each, optimizer, 4)
    machine.model.double()
    gradients: dict[str, Tensor] = {name: torch.randn(reel.shape) for name, reel in machine.reels.items()}
    for each, optimizer in zip((machine, twin), optimizers, strict=True):
        for name, gradient in gradients.items():
            parameter = each.model.get_parameter(name)
            parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()
    for name, weight in latents(machine).items():
        torch.testing.assert_close(weight.latent.float(), latents(twin)[name].latent)
        assert weight.latent.dtype == torch.float64


ODD = {"amsgrad": {"amsgrad": True}, "coupled": {"decoupled_weight_decay": False}}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_what_adam_has_for_ordinary_parameters_only(change: dict[str, bool]) -> None:
    machine = machine_of()
    optimizer = optimizer_of(SlotAdam, machine, {})
    optimizer.param_groups[1].update(change)
    run(machine, optimizer, 2)
    optimizer.param_groups[0].update(change)
    before = everything(machine)
    with pytest.raises(SlotkitError) as caught:
        run(machine, optimizer, 1)
    assert str(caught.value) == (
        "The param group of 0.weight asks for amsgrad or coupled weight decay, which SlotAdam has for "
        "ordinary parameters only. Nothing was changed. Leave them to AdamW's defaults there."
    )
    assert equal(everything(machine), before)


def test_adam_goes_on_where_sgd_has_left_the_scores() -> None:
    """It moves A alone: c and e, which decay has changed, stay."""
    machine = machine_of(others="frozen", dtype=torch.float64)
    run(machine, machine.optimizer(0.5, 0.9, 0.1), 5)
    before = {name: replace(weight.line) for name, weight in latents(machine).items()}
    latent, options = machine.scores("0.weight"), machine.options("0.weight")
    run(machine, SlotAdam(machine, 0.05), 6)
    for name, weight in latents(machine).items():
        assert before[name].c < 1
        assert weight.line == replace(before[name], steps=11)
        assert torch.equal(machine.selected(name), machine.scores(name).argmax(dim=-1))
    moved = (machine.scores("0.weight") - latent) / options
    torch.testing.assert_close(moved, moved[..., :1].expand_as(moved), rtol=1e-6, atol=1e-9)
    assert moved.abs().max() > 0.1


def test_states_that_were_saved_before_adam_was_compiled() -> None:
    """The names, their order and their types; moments of float32 go on beside latents of float64."""
    machine, wide = machine_of(), machine_of(dtype=torch.float64)
    optimizer, again = SlotAdam(machine, 0.05), SlotAdam(wide, 0.05)
    run(machine, optimizer, 3)
    state = saved_and_loaded(optimizer.state_dict())
    line = ["latent", "velocity", "lower", "upper", "c", "e", "steps", "moving"]
    assert list(state["state"][0]) == [*line, "step", "exp_avg", "exp_avg_sq"]
    assert state["state"][0]["step"].dtype == torch.float32
    assert state["state"][0]["exp_avg"].shape == state["state"][0]["latent"].shape
    again.load_state_dict(state)
    for each, one in ((machine, optimizer), (wide, again)):
        for name in each.reels:
            parameter = each.model.get_parameter(name)
            parameter.grad = (
                torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape).to(parameter.dtype)
            )
        one.step()
    for name, weight in latents(wide).items():
        assert again.state[weight.parameter]["exp_avg"].dtype == torch.float64
        torch.testing.assert_close(weight.latent.float(), latents(machine)[name].latent)


def test_moments_that_lack_one_are_refused() -> None:
    machine = machine_of()
    optimizer = optimizer_of(SlotAdam, machine, {})
    run(machine, optimizer, 1)
    state = optimizer.state_dict()
    state["state"][0] = {name: value for name, value in state["state"][0].items() if name != "exp_avg_sq"}
    before = everything(machine)
    with pytest.raises(SlotkitError) as caught:
        optimizer.load_state_dict(state)
    assert str(caught.value) == (
        "The state of 0.weight lacks exp_avg_sq. It is damaged, or was put together by hand."
    )
    assert equal(everything(machine), before)


def test_adam_leaves_no_gradient_behind() -> None:
    machine = machine_of()
    optimizer = optimizer_of(SlotAdam, machine, {})
    run(machine, optimizer, 1)
    assert all(weight.latent.grad is None for weight in latents(machine).values())
    assert all(parameter.grad is not None for parameter in machine.parameters())


def test_a_state_that_was_cleared_is_shown_again() -> None:
    machine = slotify(nn.Linear(4, 4), 4)
    optimizer = machine.optimizer(lr=1.0)
    optimizer.state.clear()
    (parameter,) = machine.parameters()
    parameter.grad = torch.ones(4, 4)
    optimizer.step()
    assert optimizer.state[parameter]["steps"] == 1
    assert optimizer.state[parameter]["latent"] is first_weight(machine).latent
