"""Training steps: what moves, what never changes, and that a run can be repeated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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
from torch import nn

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=0.9, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.1),
}


@given(
    st.sampled_from(sorted(OPTIMIZERS)),
    st.sampled_from(["greedy", "probabilistic"]),
    st.sampled_from(["all", "selected"]),
    st.sampled_from(["none", "layer", "channel"]),
    st.sampled_from([2, 3, 8]),
    st.integers(0, 100),
)
def test_options_never_change_and_every_weight_is_one_of_them(
    name: str, selection: str, update: str, sharing: str, k: int, seed: int
) -> None:
    machine = slotify(network(), k, selection, sharing, seed=seed, update=update)
    options = {reel: machine.options(reel).clone() for reel in machine.reels}
    scores = {reel: machine.scores(reel).clone() for reel in machine.reels}
    optimizer = OPTIMIZERS[name](machine.parameters())
    for _ in range(4):
        train(machine, 1, optimizer)
        assert each_is_an_option(machine)
        assert equal({reel: machine.options(reel) for reel in machine.reels}, options)
    assert all(not torch.equal(machine.scores(reel), scores[reel]) for reel in scores), "nothing was trained"
    assert equal(options, {reel: machine.reels[reel].options() for reel in machine.reels})


def test_training_selects_other_options_and_lowers_the_loss() -> None:
    """The suite's other properties hold for a machine that never moves; this one does not."""
    machine = slotify(nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3)), k=8)
    before = selections(machine)
    x, target = batch(), torch.linspace(-1, 1, 12).reshape(4, 3)
    optimizer = machine.optimizer(lr=0.2, momentum=0.9)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (machine.model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert all(not torch.equal(machine.selected(name), before[name]) for name in before)


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_one_option_works_and_never_changes(selection: str) -> None:
    machine = slotify(network(), k=1, selection=selection)
    seen = train(machine, 4, machine.optimizer(lr=10.0, momentum=0.9))
    assert all(torch.equal(one, seen[0]) for one in seen)
    assert torch.equal(machine.options("fc1.weight")[..., 0], weights(machine)["fc1.weight"])


def test_optimizer_trains_the_scores_with_its_settings() -> None:
    machine = slotify(network(), others="trained")
    optimizer = machine.optimizer(0.3, 0.9, 0.01, nesterov=True)
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (
        0.3,
        0.9,
        0.01,
        True,
    )
    assert [id(value) for value in group["params"]] == [id(value) for value in machine.parameters()]
    assert {id(value) for value in group["params"]} == {id(value) for value in machine.model.parameters()}


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_same_seed_same_run(selection: str) -> None:
    runs = [train(slotify(network(), 4, selection, seed=seed), 4) for seed in (1, 1, 2)]
    assert all(torch.equal(one, two) for one, two in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0][0], runs[2][0])


def test_the_global_generator_has_no_say() -> None:
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(train(slotify(network(), 4, "PS", seed=5), 3))
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))
