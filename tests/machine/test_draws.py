"""Probabilistic sampling: when it draws and which draw; borrowing the weights for an evaluation."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from small_networks import (
    batch,
    each_is_an_option,
    equal,
    network,
    selections,
    slotify,
    train,
    weights,
)
from torch import Tensor

from slotkit import making
from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine
from slotkit.reel import EVALUATION_DRAWS, TRAINING_DRAWS
from slotkit.selection import greedy, sample


def draw_of(machine: SlotMachine, name: str, stream: int, number: int) -> Tensor:
    scores = machine.scores(name)
    return sample(scores, machine.reels[name].draw(stream, number, scores.device))


def test_the_first_training_forward_after_a_step_is_the_next_draw(device: torch.device) -> None:
    machine = slotify(network().to(device), 8, "PS")
    optimizer = machine.optimizer(lr=0.1)
    assert machine.draws == 1
    for number in (1, 2, 3):
        before = selections(machine)
        machine.model(batch(device)).sum().backward()
        drawn = selections(machine)
        machine.model(batch(device)).sum().backward()
        assert equal(selections(machine), drawn)
        assert machine.draws == number + 1
        for name in machine.reels:
            assert torch.equal(machine.selected(name), draw_of(machine, name, TRAINING_DRAWS, number))
        assert not equal(selections(machine), before)
        assert each_is_an_option(machine)
        optimizer.step()


def test_evaluation_keeps_the_last_draw() -> None:
    machine = slotify(network(), 8, "PS")
    train(machine, 2)
    before = selections(machine)
    machine.model.eval()
    outputs = [machine.model(batch()) for _ in range(3)]
    assert machine.draws == 3
    assert equal(selections(machine), before)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[1], outputs[2])


def test_greedy_machines_never_draw() -> None:
    machine = slotify(network(), 8)
    train(machine, 2)
    assert machine.draws == 0
    for name in machine.reels:
        assert torch.equal(machine.selected(name), greedy(machine.scores(name)))


def test_sampled_weights_outlive_a_change_of_scores() -> None:
    """The gradient belongs to the option that was in use; the scores may move before the next draw."""
    machine = slotify(network(), 8, "PS")
    before = selections(machine)
    with torch.no_grad():
        for scores in machine.parameters():
            scores.neg_()
    assert equal(selections(machine), before)


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_spin(selection: str) -> None:
    machine = slotify(network(), 8, selection)
    drawn = machine.draws
    machine.spin("PS")
    assert machine.draws == drawn + 1
    assert all(
        torch.equal(machine.selected(name), draw_of(machine, name, TRAINING_DRAWS, drawn))
        for name in machine.reels
    )
    machine.spin("GS")
    assert machine.draws == drawn + 1
    assert all(torch.equal(machine.selected(name), greedy(machine.scores(name))) for name in machine.reels)
    machine.spin()
    assert machine.draws == drawn + (2 if selection == "probabilistic" else 1)
    assert each_is_an_option(machine)


def test_greedy_spin_lasts_only_in_a_probabilistic_machine() -> None:
    """A greedy machine follows its scores at once; a probabilistic one waits for the next spin."""
    for selection in ("greedy", "probabilistic"):
        machine = slotify(network(), 8, selection)
        machine.spin("GS")
        before = selections(machine)
        with torch.no_grad():
            for scores in machine.parameters():
                scores.neg_()
        assert equal(selections(machine), before) == (selection == "probabilistic")


def test_unknown_selection() -> None:
    machine = slotify(network())
    for call in (machine.spin, lambda name: machine.using(name).__enter__()):
        with pytest.raises(SlotkitError, match="There is no selection 'best'"):
            call("best")


# ---------------------------------------------------------------------------------------------------
# using: borrow the weights for an evaluation.


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_using_chooses_and_puts_back(selection: str, mode: str) -> None:
    machine = slotify(network(), 8, selection)
    train(machine, 2)
    machine.model.train(mode == "train")
    before, draws = selections(machine), machine.draws
    with machine.using("GS") as model:
        assert model is machine.model
        model(batch())
        assert all(torch.equal(machine.selected(name), greedy(machine.scores(name))) for name in before)
    assert equal(selections(machine), before)
    for number in (0, 7):
        with machine.using("PS", draw=number) as model:
            model(batch())
            for name in before:
                assert torch.equal(machine.selected(name), draw_of(machine, name, EVALUATION_DRAWS, number))
            assert each_is_an_option(machine)
        assert equal(selections(machine), before)
    assert machine.draws == draws


@pytest.mark.parametrize("number", [-1, 2**32, 1.5, "0"], ids=repr)
@pytest.mark.parametrize("settings", [{"engine": "numba"}, {"engine": "eager"}, {"form": "dense"}], ids=str)
def test_what_is_no_number_of_a_draw(settings: dict[str, Any], number: Any) -> None:
    """The counter has 32 bits: an engine would take 2**32 for draw 0, and 1.5 for draw 1."""
    machine = making.slotify(network(), 4, "PS", **settings)
    before = weights(machine)
    text = f"The draw number is {number!r}. Give an integer from 0 to 2**32 - 1."
    with pytest.raises(SlotkitError, match=re.escape(text)), machine.using("PS", number):
        pass
    assert equal(weights(machine), before)


def test_using_inside_using() -> None:
    machine = slotify(network(), 8, "PS")
    machine.model.train()
    before = selections(machine)
    with machine.using("PS", draw=1):
        outer = selections(machine)
        with machine.using("PS", draw=2):
            assert not equal(selections(machine), outer)
        machine.model(batch())
        assert equal(selections(machine), outer), "a forward in the outer block must not draw"
    assert equal(selections(machine), before)


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_using_puts_back_on_an_exception(selection: str) -> None:
    machine = slotify(network(), 8, selection)
    before, draws = selections(machine), machine.draws
    with pytest.raises(KeyboardInterrupt), machine.using("PS"):
        raise KeyboardInterrupt
    assert equal(selections(machine), before)
    assert machine.draws == draws
    machine.model.train()(batch())
    assert machine.draws == draws + (selection == "probabilistic"), "training must draw again after the block"


def test_evaluation_does_not_disturb_the_draws_of_training() -> None:
    plain, evaluated = (slotify(network(), 8, "PS") for _ in range(2))
    expected = train(plain, 4)
    seen = train(evaluated, 2)
    evaluated.model.eval()
    with evaluated.using("PS", draw=3) as model, torch.no_grad():
        model(batch())
    seen += train(evaluated, 2)
    assert all(torch.equal(one, two) for one, two in zip(seen, expected, strict=True))


# ---------------------------------------------------------------------------------------------------
# Scores that are not finite have no softmax.


def poison(machine: SlotMachine, name: str, value: float) -> None:
    scores = dict(zip(machine.reels, machine.parameters(), strict=True))[name]
    with torch.no_grad():
        scores[0, 1, 2] = value


SPOILED = re.escape(" are not finite, so no option can be drawn. Lower the learning rate.")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_no_draw_from_scores_that_are_not_finite(value: float, device: torch.device) -> None:
    machine = slotify(network().to(device), 4, "PS")
    poison(machine, "fc1.weight", value)
    before, draws = selections(machine), machine.draws
    with pytest.raises(SlotkitError, match=r"Some scores of fc1\.weight" + SPOILED):
        machine.spin()
    with pytest.raises(SlotkitError, match=r"Some scores of fc1\.weight" + SPOILED):
        machine.model.train()(batch(device))
    with pytest.raises(SlotkitError, match=r"Some scores of fc1\.weight" + SPOILED), machine.using("PS"):
        pytest.fail("the block must not run")
    assert equal(selections(machine), before)
    assert machine.draws == draws


def test_no_tensor_is_drawn_if_one_can_not_be() -> None:
    machine = slotify(network(), 4, "PS")
    poison(machine, "fc2.weight", math.nan)
    before = selections(machine)
    with pytest.raises(SlotkitError, match=r"Some scores of fc2\.weight" + SPOILED):
        machine.spin()
    assert equal(selections(machine), before)


def test_a_greedy_machine_goes_on_after_a_refused_draw() -> None:
    machine = slotify(network(), 4)
    poison(machine, "fc2.weight", -math.inf)
    before = selections(machine)
    with pytest.raises(SlotkitError, match=r"Some scores of fc2\.weight" + SPOILED), machine.using("PS"):
        pytest.fail("the block must not run")
    assert equal(selections(machine), before)
    with torch.no_grad():
        for scores in machine.parameters():
            scores.neg_()
    assert not equal(selections(machine), before), "it must follow its scores again"
