"""One draw an optimizer step: what runs forward within it sees the sample that its gradient belongs to."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_networks import equal, selections
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint

from slotkit import machine as machines
from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine

FORMS: dict[str, dict[str, Any]] = {
    "dense": {"form": "dense"},
    "eager": {"engine": "eager"},
    "numba": {"engine": "numba"},
}
EACH_FORM = pytest.mark.parametrize("form", FORMS)


def machine_of(form: str, selection: str = "PS", norm: bool = True) -> SlotMachine:
    torch.manual_seed(2)
    between = nn.BatchNorm1d(9) if norm else nn.Identity()
    model = nn.Sequential(nn.Linear(6, 9), between, nn.ReLU(), nn.Linear(9, 3))
    return machines.slotify(model, 8, selection, seed=4, **FORMS[form])


def inputs(seed: int = 1) -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))


def gradients(machine: SlotMachine) -> dict[str, Tensor]:
    found = {name: value.grad for name, value in machine.model.named_parameters()}
    return {name: value.clone() for name, value in found.items() if value is not None}


def loss_of(model: Callable[[Tensor], Tensor], seed: int = 1) -> Tensor:
    return model(inputs(seed)).square().sum()


def step(machine: SlotMachine, optimizer: torch.optim.Optimizer) -> None:
    loss_of(machine.model).backward()
    optimizer.step()
    optimizer.zero_grad()


# ---------------------------------------------------------------------------------------------------
# Several forwards of one step.


@pytest.mark.parametrize("reentrant", [False, True], ids=["saved", "reentrant"])
@EACH_FORM
def test_a_recomputation_has_the_weights_of_its_forward(form: str, reentrant: bool) -> None:
    machine, plain = machine_of(form), machine_of(form)
    x = inputs().requires_grad_(True)
    checkpoint(machine.model, x, use_reentrant=reentrant).square().sum().backward()
    loss_of(plain.model).backward()
    assert machine.draws == plain.draws == 2
    for name, expected in gradients(plain).items():
        torch.testing.assert_close(gradients(machine)[name], expected)


@EACH_FORM
def test_two_inputs_and_one_loss(form: str) -> None:
    machine = machine_of(form)
    (machine.model(inputs(1)) - machine.model(inputs(2))).square().mean().backward()
    assert machine.draws == 2
    assert gradients(machine)


@EACH_FORM
def test_accumulated_gradients_belong_to_one_sample(form: str) -> None:
    machine = machine_of(form)
    optimizer = machine.optimizer(lr=0.1)
    for draws in (2, 3):
        drawn = []
        for seed in (1, 2, 3):
            loss_of(machine.model, seed).backward()
            drawn.append(selections(machine))
        assert all(equal(one, drawn[0]) for one in drawn)
        assert machine.draws == draws
        optimizer.step()


@EACH_FORM
def test_a_closure_that_runs_forward_twice(form: str) -> None:
    machine = machine_of(form)
    optimizer, seen = machine.optimizer(lr=0.1), []

    def closure() -> float:
        optimizer.zero_grad()
        for _ in range(2):
            loss = loss_of(machine.model)
            seen.append(machine.draws)
        loss.backward()
        return loss.item()

    for _ in range(2):
        optimizer.step(closure)
    assert seen == [2, 2, 3, 3]


def test_an_optimizer_that_moves_the_scores_between_the_forwards_of_a_step() -> None:
    machine = machine_of("dense")
    optimizer, seen = torch.optim.LBFGS(list(machine.parameters()), lr=0.01, max_iter=3), []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(machine.model)
        loss.backward()
        seen.append(machine.draws)
        return loss

    for _ in range(2):
        optimizer.step(closure)  # type: ignore[arg-type]
    assert set(seen) == {2, 3}
    assert seen == sorted(seen)
    assert seen.count(2) > 1


@pytest.mark.parametrize("counted", [True, False], ids=["no_grad", "data"])
def test_scores_moved_by_hand_are_a_step(counted: bool) -> None:
    machine = machine_of("dense")
    for draws in (2, 3, 4):
        loss_of(machine.model).backward()
        loss_of(machine.model).backward()
        assert machine.draws == draws
        with torch.no_grad():
            for scores in machine.parameters():
                (scores if counted else scores.data).sub_(0.1)


@EACH_FORM
def test_forwards_without_gradient_take_the_draw_of_their_step(form: str) -> None:
    """Recalibrated batch norms, before the step's own forward or after it, change no draw."""
    machine, plain = machine_of(form), machine_of(form)
    optimizers = [each.optimizer(lr=0.1) for each in (machine, plain)]
    for _ in range(3):
        with torch.no_grad():
            loss_of(machine.model, 7)
        for each, optimizer in zip((machine, plain), optimizers, strict=True):
            loss_of(each.model).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert machine.draws == plain.draws == 4
    assert equal(selections(machine), selections(plain))


@EACH_FORM
def test_a_draw_in_inference_mode_can_be_trained_with(form: str) -> None:
    machine = machine_of(form)
    with torch.inference_mode():
        loss_of(machine.model)
    step(machine, machine.optimizer(lr=0.1))
    assert machine.draws == 2


@EACH_FORM
def test_the_parts_of_a_model_draw_too(form: str) -> None:
    machine, whole = machine_of(form), machine_of(form)
    optimizers = [each.optimizer(lr=0.1) for each in (machine, whole)]
    first, norm, relu, last = machine.model.children()
    for draws in (2, 3):
        last(relu(norm(first(inputs())))).square().sum().backward()
        loss_of(whole.model).backward()
        assert machine.draws == draws
        assert equal(selections(machine), selections(whole))
        for optimizer in optimizers:
            optimizer.step()


@EACH_FORM
def test_no_part_draws_in_evaluation(form: str) -> None:
    machine = machine_of(form)
    machine.model.eval()
    machine.model(inputs())
    next(machine.model.children()).train()(inputs())
    assert machine.draws == 1
    machine.model.train()
    next(machine.model.children()).eval()(inputs())
    assert machine.draws == 1


@EACH_FORM
def test_threads_share_the_draw(form: str) -> None:
    machine = machine_of(form)
    seen: list[Tensor] = []
    last = machine.model.get_submodule("3")
    threads = [threading.Thread(target=lambda: seen.append(last(torch.ones(9)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.draws == 2
    assert all(torch.equal(one, seen[0]) for one in seen)


@EACH_FORM
def test_a_step_of_one_machine_is_none_of_another(form: str) -> None:
    one, two = machine_of(form), machine_of(form)
    optimizer = one.optimizer(lr=0.1)
    for machine in (one, two):
        loss_of(machine.model).backward()
    optimizer.step()
    for machine in (one, two):
        machine.model(inputs())
    assert (one.draws, two.draws) == (3, 2)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@EACH_FORM
def test_a_step_that_a_scaler_skips_is_none(form: str, fused: bool) -> None:
    machine = machine_of(form)
    optimizer = machine.optimizer(lr=0.1, **({"fused": True} if fused and form == "dense" else {}))
    scaler, seen = torch.amp.GradScaler("cpu", init_scale=2.0), []
    for factor in (1.0, float("inf"), 1.0):
        scaler.scale(loss_of(machine.model) * factor).backward()
        seen.append(machine.draws)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert seen == [2, 3, 3]


@EACH_FORM
def test_a_spin_by_hand_is_the_draw_of_its_step(form: str) -> None:
    machine = machine_of(form)
    machine.spin()
    before = selections(machine)
    step(machine, machine.optimizer(lr=0.1))
    assert machine.draws == 2
    machine.spin("GS")
    machine.model(inputs())
    assert machine.draws == 3, "a greedy choice is no draw to train with"
    assert not equal(selections(machine), before)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@EACH_FORM
def test_a_compiled_model_draws(form: str) -> None:
    machine = machine_of(form)
    optimizer = machine.optimizer(lr=0.1)
    compiled = torch.compile(machine.model, backend="eager")
    for draws in (2, 3):
        loss_of(compiled).backward()
        loss_of(compiled).backward()
        assert machine.draws == draws
        optimizer.step()


def test_a_replica_of_data_parallel_is_refused() -> None:
    machine = machine_of("numba")
    replica: Any = machine.model._replicate_for_data_parallel()
    text = (
        "nn.DataParallel copies the weights before the forward that would draw them, so this draw would "
        "reach no copy. Call machine.spin() after each optimizer.step(), or use DistributedDataParallel."
    )
    with pytest.raises(SlotkitError, match=re.escape(text)):
        machine.drawing.before_forward(replica)
    machine.spin()
    machine.drawing.before_forward(replica)
    assert machine.draws == 2


# ---------------------------------------------------------------------------------------------------
# The draw that is due is part of the state.


@pytest.mark.parametrize("forwards", [0, 1])
@EACH_FORM
def test_a_state_from_the_middle_of_a_step(form: str, forwards: int) -> None:
    machine, resumed = machine_of(form), machine_of(form)
    optimizer = machine.optimizer(lr=0.1)
    step(machine, optimizer)
    for _ in range(forwards):
        machine.model(inputs())
    resumed.load_state_dict(copy.deepcopy(machine.state_dict()))
    for each in (machine, resumed):
        step(each, each.optimizer(lr=0.1))
        each.model(inputs())
    assert machine.draws == resumed.draws == 4
    assert equal(selections(machine), selections(resumed))


@EACH_FORM
def test_a_state_of_before_says_nothing_of_the_draw(form: str) -> None:
    machine, resumed = machine_of(form), machine_of(form)
    step(machine, machine.optimizer(lr=0.1))
    state = copy.deepcopy(machine.state_dict())
    del state["waiting"]
    resumed.load_state_dict(state)
    resumed.model(inputs())
    assert resumed.draws == 3


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
    machine = machines.slotify(model, 8, selection, **FORMS[form])
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
