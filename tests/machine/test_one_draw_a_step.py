"""One draw an optimizer step: what runs forward within it sees the sample that its gradient belongs to."""

from __future__ import annotations

import copy
import re
import threading
import warnings
from typing import Any

import pytest
import torch
from machine.drawing import EACH_FORM, gradients, inputs, loss_of, machine_of, step
from small_networks import equal, selections
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from slotkit.errors import SlotkitError

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


def test_optimizers_of_the_parts_of_one_machine_share_a_draw() -> None:
    """Each step moves scores that no step has moved since the draw; a second one of a part does not."""
    machine = machine_of("dense")
    parts = [torch.optim.SGD([scores], 0.1) for scores in machine.form.parameters()]
    assert len(parts) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draws in (2, 3, 4):
            loss_of(machine.model).backward()
            assert machine.draws == draws
            for optimizer in parts:
                optimizer.step()
    with pytest.warns(UserWarning, match="made a step without a draw of its own"):
        parts[1].step()


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
