"""What may happen to a weight behind the optimizer's back: followed, or refused, never corrupted."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from latent.trajectories import bits, conv, few, first_weight, mlp, normal, train
from small_networks import each_is_an_option, equal, weights
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.latent.weight import are_finite
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.selection import take


def changed(machine: SlotMachine) -> str:
    """The refusal's text."""
    name = next(iter(machine.reels))
    return (
        f"{name} was changed by something else than slotkit: an ordinary optimizer stepping on it, or "
        f"load_state_dict on the model. Train it with machine.optimizer() alone; to bring a trained machine "
        f"back use machine.load_state_dict(); machine.spin() restores its weights."
    )


# ---------------------------------------------------------------------------------------------------
# The model stays an ordinary network.


def test_modules_and_state_dict_are_those_of_an_ordinary_network(engine: str, device: torch.device) -> None:
    model, plain = conv().to(device), conv()
    classes, parameters = [type(module) for module in model], list(model.parameters())
    machine = slotify(model, engine=engine)
    train(machine)
    assert [type(module) for module in model] == classes
    assert all(one is two for one, two in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict())
    x = normal(3, 2, 5, 5, seed=1, dtype=torch.float32)
    torch.testing.assert_close(plain(x), model(x.to(device)).cpu())


# ---------------------------------------------------------------------------------------------------
# Memory layouts: a reel belongs to a connection by its index.


def images() -> nn.Sequential:
    """Weights whose channels_last layout differs from the default one."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.Linear(48, 2)
    )


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("when", ["before", "after", "while-training"])
def test_channels_last_changes_no_selection(
    when: str, selection: str, engine: str, device: torch.device
) -> None:
    def prepared(layout: bool) -> SlotMachine:
        model = images().double().to(device)
        if layout and when == "before":
            model.to(memory_format=torch.channels_last)
        machine = slotify(model, 4, selection, engine=engine, seed=1, tables="stored")
        if layout and when == "after":
            model.to(memory_format=torch.channels_last)
        optimizer = train(machine, few(5), prepare=channels_last if layout else lambda x: x)
        if layout and when == "while-training":
            model.to(memory_format=torch.channels_last)
        train(machine, few(5), optimizer)
        return machine

    plain, permuted = prepared(False), prepared(True)
    assert not permuted.model.get_parameter("0.weight").is_contiguous()
    assert permuted.model.get_parameter("0.weight").is_contiguous(memory_format=torch.channels_last)
    assert equal(weights(plain), weights(permuted))
    assert each_is_an_option(permuted)


def test_a_transposed_weight_and_a_permuted_gradient(engine: str, device: torch.device) -> None:
    parameter = nn.Parameter(torch.zeros(6, 5, device=device).t())
    model, plain = nn.Linear(6, 5, bias=False), nn.Linear(6, 5, bias=False)
    model.weight = parameter
    machines = [slotify(each.to(device), 8, engine=engine, seed=2) for each in (model, plain)]
    gradient = normal(6, 5, seed=3, device=device, dtype=torch.float32).t()
    for machine in machines:
        optimizer = machine.optimizer(5.0)
        for factor in (1.0, -2.0, 0.5):
            machine.model.get_parameter("weight").grad = gradient * factor
            optimizer.step()
    assert model.weight is parameter
    assert parameter.stride() == (1, 5)
    assert torch.equal(model.weight, plain.weight)
    assert torch.equal(machines[0].selected("weight"), machines[1].selected("weight"))


# ---------------------------------------------------------------------------------------------------
# Tied weights.


def test_tied_weights_are_one_tensor(engine: str, device: torch.device) -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5)).to(device)
    model[2].weight = model[0].weight
    machine = slotify(model, 4, engine=engine)
    assert list(machine.reels) == ["0.weight"]
    optimizer = machine.optimizer(2.0)
    before = weights(machine)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.ones(2, 5, device=device)).square().sum().backward()
        optimizer.step()
    assert model[2].weight is model[0].weight
    assert not equal(weights(machine), before)
    assert each_is_an_option(machine)


def test_a_tie_that_was_cut_is_noticed(engine: str, device: torch.device) -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5)).to(device)
    model[2].weight = model[0].weight
    optimizer = slotify(model, 4, engine=engine).optimizer(1.0)
    model[2].weight = nn.Parameter(torch.ones(5, 5, device=device))
    model(torch.ones(2, 5, device=device)).sum().backward()
    with pytest.raises(SlotkitError, match=r"0\.weight has been replaced by another parameter since slotify"):
        optimizer.step()


# ---------------------------------------------------------------------------------------------------
# Other dtypes.

DTYPES = {"double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("tables", ["stored", "recomputed"])
@pytest.mark.parametrize("cast", DTYPES)
def test_a_cast_after_slotify_is_followed(cast: str, tables: str, device: torch.device) -> None:
    """Under "auto" the engine changes with the dtype, if it must."""
    machine = slotify(mlp().to(device), 4, tables=tables)
    optimizer = train(machine)
    before = {name: machine.selected(name) for name in machine.reels}
    getattr(machine.model, cast)()
    assert each_is_an_option(machine)
    assert all(torch.equal(machine.selected(name), before[name]) for name in before)
    train(machine, 5, optimizer)
    weight = first_weight(machine)
    assert weight.parameter.dtype == DTYPES[cast]
    assert weight.latent.dtype == (torch.float64 if cast == "double" else torch.float32)
    assert weight.line.steps == 8
    assert each_is_an_option(machine)
    assert any(not torch.equal(machine.selected(name), before[name]) for name in before)
    machine.spin()
    machine.model.float()
    train(machine, 2, optimizer)
    assert each_is_an_option(machine)


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_a_cast_that_the_named_engine_cannot_follow_is_refused_each_time(cast: str) -> None:
    machine = slotify(mlp(), 4, engine="numba")
    optimizer = train(machine)
    getattr(machine.model, cast)()
    for _ in range(2):
        with pytest.raises(SlotkitError) as caught:
            train(machine, 1, optimizer)
        assert str(caught.value) == (
            f"The engine numba can't run for 0.weight: it works on float32 and float64 and the weight is "
            f"{DTYPES[cast]}. engine='auto' chooses another."
        )
    machine.model.float()
    before = weights(machine)
    train(machine, 1, optimizer)
    assert not equal(before, weights(machine))


def test_a_cast_weight_loaded_again_is_fine(engine: str, device: torch.device) -> None:
    """The intervals were rounded to float32 once; that is no change of the weight."""
    machine = slotify(mlp().to(device), 4, engine=engine)
    optimizer = train(machine)
    machine.model.double()
    machine.model.load_state_dict(copy.deepcopy(machine.model.state_dict()))
    train(machine, 1, optimizer)
    assert each_is_an_option(machine)


def test_autocast_forward(engine: str, device: torch.device) -> None:
    machine = slotify(mlp().to(device), 4, engine=engine)
    optimizer = machine.optimizer(1.0)
    before = weights(machine)
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            output = machine.model(torch.ones(2, 12, device=device))
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
        optimizer.step()
    assert first_weight(machine).parameter.dtype == torch.float32
    assert not equal(before, weights(machine))
    assert each_is_an_option(machine)


# ---------------------------------------------------------------------------------------------------
# Something else changes the weight.


def ordinary_step(machine: SlotMachine) -> None:
    first = first_weight(machine).parameter
    first.grad = torch.ones_like(first)
    torch.optim.SGD([first], 0.1).step()


def other_weights(machine: SlotMachine) -> None:
    state = machine.model.state_dict()
    machine.model.load_state_dict({name: value + 1 for name, value in state.items()})


def other_options(machine: SlotMachine) -> None:
    """A weight that is an option, but not the one in use."""
    weight = first_weight(machine)
    unused = (weight.selected() + 1) % weight.reel.k
    with torch.no_grad():
        weight.parameter.copy_(take(weight.options(), unused))


TAMPERING = {
    "ordinary-optimizer": ordinary_step,
    "load-state-dict": other_weights,
    "other-options": other_options,
}


@pytest.mark.parametrize("tamper", TAMPERING.values(), ids=TAMPERING)
def test_tampering_is_noticed_before_anything_changes(
    tamper: Callable[[SlotMachine], None], engine: str, device: torch.device
) -> None:
    machine = slotify(mlp().to(device), 4, engine=engine)
    optimizer = train(machine)
    good = bits(machine)
    tamper(machine)
    tampered = bits(machine)
    for _ in range(2):
        with pytest.raises(SlotkitError) as caught:
            train(machine, 1, optimizer)
        assert str(caught.value) == changed(machine)
        assert equal(bits(machine), tampered)
    machine.spin()
    assert equal(bits(machine), good)
    train(machine, 1, optimizer)


@pytest.mark.filterwarnings("ignore:This probabilistic machine made a step without a draw")
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_loading_the_same_weights_is_fine(selection: str, engine: str, device: torch.device) -> None:
    """The next step equals that of a machine whose weights were not loaded."""
    machines = [slotify(mlp().to(device), 4, selection, engine=engine) for _ in range(2)]
    optimizers = [train(machine) for machine in machines]
    model = machines[0].model
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    for machine, optimizer in zip(machines, optimizers, strict=True):
        for parameter in machine.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert equal(bits(machines[0]), bits(machines[1]))


@pytest.mark.filterwarnings("ignore:This probabilistic machine made a step without a draw")
def test_sampled_weights_that_are_no_options_are_noticed(engine: str, device: torch.device) -> None:
    machine = slotify(mlp().to(device), 4, "probabilistic", engine=engine)
    optimizer = train(machine)
    ordinary_step(machine)
    with pytest.raises(SlotkitError) as caught:
        optimizer.step()
    assert str(caught.value) == changed(machine)


def test_a_replaced_parameter_is_refused(engine: str, device: torch.device) -> None:
    machine = slotify(mlp().to(device), 4, engine=engine)
    optimizer = train(machine)
    machine.model.load_state_dict(copy.deepcopy(machine.model.state_dict()), assign=True)
    for parameter in list(machine.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    with pytest.raises(SlotkitError) as caught:
        optimizer.step()
    assert str(caught.value) == (
        "0.weight has been replaced by another parameter since slotify (load_state_dict with assign=True "
        "does that). Load with assign=False, or slotify again."
    )
    with pytest.raises(SlotkitError, match="has been replaced by another parameter"):
        machine.spin()


def test_memory_that_moved_and_came_back_is_not_mistaken_for_the_old() -> None:
    """float32 -> float64 -> float32: new tensors may lie where old ones lay, but not all of them need to."""
    machine, other = (slotify(mlp(), 4, engine="numba") for _ in range(2))
    optimizers = [train(each, 3) for each in (machine, other)]
    for _ in range(5):
        machine.model.double()
        machine.spin()
        kept = [torch.randn(120) for _ in range(7)]
        machine.model.float()
        machine.spin()
        del kept
    for each, optimizer in zip((machine, other), optimizers, strict=True):
        train(each, 5, optimizer)
    assert equal(weights(machine), weights(other))


def test_a_machine_made_in_inference_mode_trains() -> None:
    """Where nothing that PyTorch makes has a version, which tells who changed it."""
    model = nn.Linear(4, 4)
    with torch.inference_mode():
        machine = slotify(model, 4)
    optimizer = machine.optimizer(lr=1.0)
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    assert first_weight(machine).line.steps == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_number_among_many_tensors_is_found(bad: float) -> None:
    """What devices are asked, once a step: sums of these numbers overflow, and each number is finite."""
    largest = {kind: torch.finfo(kind).max for kind in (torch.float32, torch.float64, torch.bfloat16)}
    tensors = [torch.full((3, 2), number, dtype=kind) for kind, number in largest.items()]
    assert are_finite(tensors)
    for tensor in tensors:
        kept = tensor[2, 1].clone()
        tensor[2, 1] = bad
        assert not are_finite(tensors)
        tensor[2, 1] = kept
