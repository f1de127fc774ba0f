"""SlotSGD: the whole contract of a torch optimizer, for latents and ordinary parameters alike."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slotkit.errors import DivergedError, SlotkitError
from slotkit.latent.form import LatentForm
from slotkit.latent.weight import LatentWeight
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.optim import SlotAdam, SlotSGD

LATENTS = ("latent", "velocity", "lower", "upper")


pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Sequential:
    """Slotified weights, and biases and a norm that are trained as usual."""
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3))


def machine_of(
    seed: int = 0, others: str = "trained", dtype: torch.dtype = torch.float32, **settings: Any
) -> SlotMachine:
    torch.manual_seed(seed)
    return slotify(network().to(dtype), 4, seed=seed, others=others, **settings)


def batch(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)


def loss_of(machine: SlotMachine, seed: int = 1) -> Tensor:
    x = batch(seed, next(machine.model.parameters()).dtype)
    loss: Tensor = (machine.model(x) - 1).square().mean()
    return loss


def run(machine: SlotMachine, optimizer: torch.optim.Optimizer, steps: int = 4, first: int = 0) -> None:
    """Steps on a batch that is another one in each."""
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss_of(machine, step).backward()
        optimizer.step()


def latents(machine: SlotMachine) -> dict[str, LatentWeight]:
    assert isinstance(machine.form, LatentForm)
    return dict(machine.form.weights)


def everything(machine: SlotMachine) -> dict[str, Tensor]:
    """All parameters, latents, and what the lines of the latents are."""
    found = {name: value.detach().clone() for name, value in machine.model.named_parameters()}
    for name, weight in latents(machine).items():
        found |= {f"{name}/{key}": getattr(weight, key).detach().clone() for key in LATENTS}
        line = (weight.line.c, weight.line.e, weight.line.steps, weight.line.has_velocity)
        found[f"{name}/line"] = torch.tensor(line, dtype=torch.float64)
    return found


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def assert_close(one: Tensor, two: Tensor) -> None:
    """Equal up to the order of float64 sums."""
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.5},
    "momentum-l2": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2},
    "nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "dampening": {"lr": 0.1, "momentum": 0.9, "dampening": 0.5},
    "maximize": {"lr": 0.01, "momentum": 0.9, "maximize": True},
}


# ---------------------------------------------------------------------------------------------------
# Ordinary parameters, groups and schedulers.


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_ordinary_parameters_are_those_of_torch(settings: dict[str, Any]) -> None:
    """Bit-equal to torch.optim.SGD over the others and SlotSGD over the weights alone, apart."""
    together, apart = machine_of(), machine_of()
    one = together.optimizer(**settings)
    assert isinstance(one, SlotSGD)
    assert {p for group in one.param_groups for p in group["params"]} == set(together.model.parameters())
    two = SlotSGD(apart.form, **settings)
    assert {p for group in two.param_groups for p in group["params"]} == set(apart.form.parameters())
    three = torch.optim.SGD(list(apart.trained.values()), **settings)
    start = everything(apart)
    for step in range(6):
        run(together, one, 1, step)
        for optimizer in (two, three):
            optimizer.zero_grad()
        loss_of(apart, step).backward()
        two.step()
        three.step()
    assert equal(everything(together), everything(apart))
    assert all(not torch.equal(start[name], everything(apart)[name]) for name in apart.trained)


def test_several_machines_equal_separate_optimizers() -> None:
    def pair() -> tuple[SlotMachine, SlotMachine]:
        return machine_of(1, "frozen"), machine_of(2, "trained")

    one, two = pair()
    optimizer = SlotSGD((machine for machine in (one, two)), lr=0.5, momentum=0.9)
    assert [set(group["params"]) for group in optimizer.param_groups] == [
        set(one.form.parameters()),
        set(two.form.parameters()),
        set(two.trained.values()),
    ]
    optimizer.param_groups[1].update(lr=0.125, momentum=0.0)
    optimizer.param_groups[2]["lr"] = 0.01
    for step in range(4):
        optimizer.zero_grad()
        (loss_of(one, step) + loss_of(two, step)).backward()
        optimizer.step()

    first, second = pair()
    run(first, SlotSGD(first, lr=0.5, momentum=0.9))
    separate = [
        SlotSGD(second.form, lr=0.125),
        torch.optim.SGD(list(second.trained.values()), 0.01, 0.9),
    ]
    for step in range(4):
        for each in separate:
            each.zero_grad()
        loss_of(second, step).backward()
        for each in separate:
            each.step()
    assert equal(everything(one), everything(first))
    assert equal(everything(two), everything(second))


def test_groups_read_their_settings_at_every_step() -> None:
    """Each hyper-parameter changed between two steps: as torch.optim.SGD on the dense scores."""
    changes: list[dict[str, Any]] = [
        {"lr": 2.0},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"dampening": 0.25},
        {"dampening": 0.0, "nesterov": True},
        {"maximize": True},
        {"momentum": 0.0, "nesterov": False},
    ]
    machines = [machine_of(others="frozen", dtype=torch.float64, form=form) for form in ("latent", "dense")]
    optimizers = [machine.optimizer(lr=1.0) for machine in machines]
    for step, change in enumerate([{}, *changes, {}]):
        for machine, optimizer in zip(machines, optimizers, strict=True):
            optimizer.param_groups[0].update(change)
            run(machine, optimizer, 2, 2 * step)
        for name in machines[0].reels:
            assert_close(machines[0].scores(name), machines[1].scores(name))
            assert torch.equal(machines[0].selected(name), machines[1].selected(name))


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5),
    "one-cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, 6),
    "step": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers(make: Callable[[torch.optim.Optimizer], Any]) -> None:
    """OneCycleLR changes the momentum too."""
    machines = [machine_of(dtype=torch.float64, form=form) for form in ("latent", "dense")]
    seen: list[list[float]] = [[], []]
    for machine, rates in zip(machines, seen, strict=True):
        optimizer = machine.optimizer(lr=0.5, momentum=0.9)
        scheduler = make(optimizer)
        for step in range(6):
            run(machine, optimizer, 1, step)
            scheduler.step() if step < 5 else None
            rates.append(optimizer.param_groups[-1]["lr"])
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 2
    for name in machines[0].reels:
        assert_close(machines[0].scores(name), machines[1].scores(name))


def test_add_param_group() -> None:
    machine, other = machine_of(others="frozen"), nn.Linear(3, 2)
    twin = copy.deepcopy(other)
    optimizer = SlotSGD(machine, lr=0.5, momentum=0.9)
    optimizer.add_param_group({"params": list(other.parameters()), "lr": 0.1})
    plain = torch.optim.SGD(twin.parameters(), 0.1, 0.9)
    x = torch.randn(4, 3)
    for _ in range(3):
        for model in (other, twin):
            model.zero_grad()
            model(x).square().sum().backward()
        optimizer.step()
        plain.step()
    assert all(torch.equal(one, two) for one, two in zip(other.parameters(), twin.parameters(), strict=True))
    assert "momentum_buffer" in optimizer.state[other.weight]


def test_parameters_may_be_tensors_and_groups() -> None:
    machine, one, two = machine_of(others="frozen"), nn.Linear(2, 2), nn.Linear(2, 2)
    group: dict[str, Any] = {"params": [two.weight], "lr": 0.25}
    optimizer = SlotSGD(machine, lr=0.5, parameters=[*one.parameters(), group, two.bias])
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert [rates[id(p)] for p in (one.weight, one.bias, two.weight, two.bias)] == [0.5, 0.5, 0.25, 0.5]
    assert group == {"params": [two.weight], "lr": 0.25}


def test_weights_of_another_machine_are_not_ordinary_parameters() -> None:
    machine, other = machine_of(1), machine_of(2)
    with pytest.raises(SlotkitError, match="slot machine"):
        SlotSGD(machine, parameters=list(other.model.parameters()))


# ---------------------------------------------------------------------------------------------------
# Gradients: absent, accumulated, clipped, scaled, not finite.


@pytest.mark.parametrize("make", [SlotSGD, SlotAdam])
def test_a_closure_is_called_once_with_gradients(make: type[Any]) -> None:
    machine, twin = machine_of(), machine_of()
    optimizer, calls = make(machine, 0.5), []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(machine)
        loss.backward()
        calls.append(loss.item())
        return loss

    loss: Any = optimizer.step(closure)
    assert [loss.item()] == calls
    other = make(twin, 0.5)
    loss_of(twin).backward()
    assert other.step() is None
    assert equal(everything(machine), everything(twin))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool) -> None:
    """None: the parameter is skipped. Zero: momentum goes on."""
    machine = machine_of()
    optimizer = machine.optimizer(0.5, 0.9)
    run(machine, optimizer)
    before = everything(machine)
    optimizer.zero_grad(set_to_none=set_to_none)
    optimizer.step()
    after = everything(machine)
    assert equal(before, after) == set_to_none
    assert torch.equal(before["0.weight/latent"], after["0.weight/latent"]) == set_to_none
    assert torch.equal(before["0.bias"], after["0.bias"]) == set_to_none


def test_one_weight_without_a_gradient_is_skipped() -> None:
    machine = machine_of()
    optimizer = machine.optimizer(0.5, 0.9, 1e-2)
    run(machine, optimizer)
    before = everything(machine)
    loss_of(machine).backward()
    machine.model.get_parameter("0.weight").grad = None
    optimizer.step()
    after = everything(machine)
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("0.weight")} <= kept
    assert not {"3.weight/latent", "3.weight/line", "0.bias", "3.bias"} & kept
    assert machine.model.get_parameter("3.weight").grad is not None


def test_accumulated_and_clipped_gradients() -> None:
    machine, twin = machine_of(dtype=torch.float64), machine_of(dtype=torch.float64)
    optimizer, other = machine.optimizer(0.5, 0.9), twin.optimizer(0.5, 0.9)
    for first in (0, 2):
        optimizer.zero_grad()
        for seed in (first, first + 1):
            loss_of(machine, seed).backward()
        norm = nn.utils.clip_grad_norm_([p for p in machine.model.parameters() if p.grad is not None], 0.5)
        assert norm > 0.5
        other.zero_grad()
        (loss_of(twin, first) + loss_of(twin, first + 1)).backward()
        for parameter in twin.model.parameters():
            if parameter.grad is not None:
                parameter.grad *= 0.5 / (norm + 1e-6)
        optimizer.step()
        other.step()
    for name, value in everything(machine).items():
        torch.testing.assert_close(value, everything(twin)[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [SlotSGD, SlotAdam])
def test_grad_scaler(make: type[Any]) -> None:
    """Scaled by a power of two: the same bits. An overflow skips the step."""
    machine, twin = machine_of(), machine_of()
    optimizer, other = make(machine, 0.5), make(twin, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100)
    for step in range(4):
        optimizer.zero_grad()
        scaler.scale(loss_of(machine, step)).backward()
        if step % 2:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        run(twin, other, 1, step)
    assert equal(everything(machine), everything(twin))
    optimizer.zero_grad()
    scaler.scale(loss_of(machine) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert equal(everything(machine), everything(twin))


@contextmanager
def changing_nothing(machine: SlotMachine, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Whatever happens inside, machine and optimizer are the same afterwards."""
    before, state = everything(machine), copy.deepcopy(optimizer.state_dict())
    yield
    assert equal(everything(machine), before)
    assert same_state(optimizer.state_dict(), state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("kind", [SlotSGD, SlotAdam])
def test_a_gradient_that_is_not_finite_changes_nothing(kind: type[Any], bad: float) -> None:
    """The last tensor has it; neither the first nor the ordinary parameters move."""
    machine = machine_of()
    optimizer = kind(machine, lr=0.5)
    run(machine, optimizer, 2)
    before = everything(machine)
    loss_of(machine).backward()
    gradient = machine.model.get_parameter("3.weight").grad
    assert gradient is not None
    gradient[1, 2] = bad
    with changing_nothing(machine, optimizer), pytest.raises(SlotkitError) as caught:
        optimizer.step()
    assert str(caught.value) == (
        "The gradient of 3.weight is not finite in step 3 of this optimizer. Nothing was changed. Lower the "
        "learning rate, clip gradients, or use a GradScaler with half precision."
    )
    run(machine, optimizer, 1)
    assert not equal(everything(machine), before)


def test_a_weight_decay_that_overshoots_is_told_before_numbers_are_lost() -> None:
    """Greedy weights are options whatever the scores are, so no loss would show it."""
    machine = machine_of(others="frozen")
    optimizer = SlotSGD(machine, lr=50.0, momentum=0.0, weight_decay=0.1)
    with pytest.raises(DivergedError) as caught:
        run(machine, optimizer, 500)
    name = next(iter(machine.reels))
    assert str(caught.value).startswith(f"The scores of {name} have grown out of bounds in step ")
    assert str(caught.value).endswith(
        "of this optimizer: a learning rate of 50 with a weight decay of 0.1 and momentum 0 overshoots. "
        "Nothing was changed. Lower the learning rate or the weight decay."
    )
    assert all(machine.scores(name).isfinite().all() for name in machine.reels)
    machine.load_state_dict(copy.deepcopy(machine.state_dict()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("kind", [SlotSGD, SlotAdam])
def test_a_learning_rate_that_is_not_finite_changes_nothing(kind: type[Any], bad: float) -> None:
    machine = machine_of()
    optimizer = kind(machine, lr=0.5)
    run(machine, optimizer, 2)
    with changing_nothing(machine, optimizer):
        optimizer.param_groups[0]["lr"] = bad
        with pytest.raises(DivergedError, match=r"^The learning rate of 0\.weight is not finite in step 3 "):
            run(machine, optimizer, 1)
        optimizer.param_groups[0]["lr"] = 0.5


def same_state(one: Any, two: Any) -> bool:
    """Equal values, types and dtypes, all the way down."""
    if isinstance(one, Tensor):
        return isinstance(two, Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same_state(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(itertools.starmap(same_state, zip(one, two, strict=True)))
    return bool(one == two and type(one) is type(two))
