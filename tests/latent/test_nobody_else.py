"""Nobody else moves the weights: what reads the state of a machine says so if somebody has."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from latent.trajectories import bits, few, mlp, normal, train
from small_networks import equal, weights

from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.optim import SlotAdam
from slotkit.selection import take

X = normal(4, 12, seed=1, dtype=torch.float32)

ORDINARY: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda values: torch.optim.SGD(values, 0.1),
    "sgd-foreach": lambda values: torch.optim.SGD(values, 0.1, foreach=True),
    "sgd-fused": lambda values: torch.optim.SGD(values, 0.1, fused=True),
    "adam": lambda values: torch.optim.AdamW(values, 0.1),
}

READING: dict[str, Callable[[SlotMachine, torch.optim.Optimizer], Any]] = {
    "selected": lambda machine, optimizer: machine.selected("0.weight"),
    "scores": lambda machine, optimizer: machine.scores("0.weight"),
    "state": lambda machine, optimizer: machine.state_dict(),
    "using": lambda machine, optimizer: machine.using("greedy").__enter__(),
    "using-a-sample": lambda machine, optimizer: machine.using("PS").__enter__(),
    "copy-scores": lambda machine, optimizer: slotify(mlp(), 4, form="dense").copy_scores(machine),
    "optimizers-state": lambda machine, optimizer: optimizer.state_dict(),
    "step": lambda machine, optimizer: optimizer.step(),
}

MESSAGE = re.escape(
    "0.weight was changed by something else than slotkit: an ordinary optimizer stepping on it, or "
    "load_state_dict on the model. Train it with machine.optimizer() alone;"
)


Reading = Callable[[SlotMachine, torch.optim.Optimizer], Any]
READINGS = pytest.mark.parametrize("read", READING.values(), ids=READING)


@READINGS
@pytest.mark.parametrize("ordinary", ORDINARY.values(), ids=ORDINARY)
def test_every_reading_looks_first(ordinary: Callable[[Any], torch.optim.Optimizer], read: Reading) -> None:
    assert_looks_first(ordinary, read, "auto")


@READINGS
def test_every_reading_looks_first_whatever_the_engine(read: Reading, engine: str) -> None:
    assert_looks_first(ORDINARY["sgd"], read, engine)


def assert_looks_first(ordinary: Callable[[Any], torch.optim.Optimizer], read: Reading, engine: str) -> None:
    machine = slotify(mlp(), 4, engine=engine)
    optimizer, other = train(machine, few(3, 1)), ordinary(machine.model.parameters())
    good = bits(machine)
    machine.model(X).square().sum().backward()
    other.step()
    found = bits(machine)
    assert not equal(found, good)
    with pytest.raises(SlotkitError, match=MESSAGE):
        read(machine, optimizer)
    assert equal(bits(machine), found)
    machine.spin()
    assert equal(bits(machine), good)
    read(machine, optimizer)


@pytest.mark.filterwarnings("ignore:This probabilistic machine made a step without a draw")
def test_a_draw_looks_first(engine: str) -> None:
    machine = slotify(mlp(), 4, "PS", engine=engine)
    train(machine)
    torch.optim.SGD(machine.model.parameters(), 0.1).step()
    before = weights(machine)
    with pytest.raises(SlotkitError, match=MESSAGE):
        machine.model(X)
    assert equal(weights(machine), before)
    machine.spin()
    machine.model(X)


def test_a_write_that_pytorch_does_not_count() -> None:
    machine = slotify(mlp(), 4)
    with torch.no_grad():
        machine.model.get_parameter("0.weight").data.add_(1e-3)
    with pytest.raises(SlotkitError, match=MESSAGE):
        machine.selected("0.weight")


def test_loading_a_state_puts_the_weights_right() -> None:
    machine, other = slotify(mlp(), 4), slotify(mlp(), 4)
    train(other)
    torch.optim.SGD(machine.model.parameters(), 0.1).step()
    with torch.no_grad():
        machine.model.get_parameter("0.weight").add_(1)
    machine.load_state_dict(other.state_dict())
    assert equal(bits(machine), bits(other))
    machine.state_dict()


@pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_weight_that_was_cast_is_not_taken_for_changed(selection: str, wide: torch.dtype) -> None:
    machine = slotify(mlp(), 4, selection)
    machine.model.half()
    before = {name: machine.selected(name) for name in machine.reels}
    machine.model.to(wide)
    assert equal({name: machine.selected(name) for name in machine.reels}, before)
    machine.state_dict()
    for _ in range(2):
        machine.model(X.to(wide))


@pytest.mark.parametrize("dtypes", [("half", "bfloat16"), ("bfloat16", "half")], ids="-".join)
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_neither_is_a_cast_from_one_half_precision_to_the_other(
    selection: str, dtypes: tuple[str, str]
) -> None:
    """Rounded twice, options are other numbers than rounded once, and neither type is the narrower one."""
    # The seed is one where no two options of a drawn connection have the same rounding.
    machine = slotify(mlp(), 8, selection, seed=2)
    getattr(machine.model, dtypes[0])()
    before = {name: machine.selected(name) for name in machine.reels}
    getattr(machine.model, dtypes[1])()
    twice = weights(machine)
    for name, selected in before.items():
        assert torch.equal(machine.selected(name), selected)
        value = take(machine.reels[name].options(), selected).to(twice[name].dtype)
        assert torch.equal(machine.model.get_parameter(name), value)
    assert not equal(weights(machine), twice)
    getattr(machine.model, dtypes[0])()
    with torch.no_grad():
        machine.model.get_parameter("0.weight").add_(1)
    with pytest.raises(SlotkitError, match=MESSAGE):
        machine.state_dict()


def test_a_copied_machine_that_was_changed_stays_so() -> None:
    machine = slotify(mlp(), 4)
    with torch.no_grad():
        machine.model.get_parameter("0.weight").add_(1)
    with pytest.raises(SlotkitError, match=MESSAGE):
        copy.deepcopy(machine).state_dict()


def test_an_optimizer_of_both_sees_no_change_of_its_own() -> None:
    """SlotAdam and SlotSGD are who may step."""
    machine = slotify(mlp(), 4, others="trained")
    run_of: list[torch.optim.Optimizer] = [machine.optimizer(0.5), SlotAdam(machine)]
    for optimizer in run_of:
        train(machine, 2, optimizer)
        machine.state_dict()
        optimizer.state_dict()


def test_weights_of_other_memory_are_noticed() -> None:
    machine = slotify(mlp(), 4)
    machine.model.get_parameter("0.weight").data = torch.ones_like(machine.model.get_parameter("0.weight"))
    with pytest.raises(SlotkitError, match=MESSAGE):
        machine.state_dict()


def test_the_weights_of_another_machine_are_no_ordinary_parameters() -> None:
    machine, other = slotify(mlp(), 4), slotify(mlp(), 4)
    optimizer = machine.optimizer(0.1)
    text = "Among the ordinary parameters is one that belongs to a slot machine. Give that machine to the"
    with pytest.raises(SlotkitError, match=text):
        optimizer.add_param_group({"params": other.parameters()})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16], ids=str)
def test_a_cast_there_and_back_leaves_the_options(narrow: torch.dtype, selection: str) -> None:
    # The seed is one where no two options of a drawn connection have the same rounding.
    machine = slotify(mlp(), 4, selection, seed=1)
    train(machine)
    before = weights(machine)
    machine.model.to(narrow).float()
    assert not equal(weights(machine), before)
    machine.state_dict()
    assert equal(weights(machine), before)
