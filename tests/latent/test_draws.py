"""Probabilistic sampling in every engine: draws that come again, and the trajectories of the dense form."""

from __future__ import annotations

import copy
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest
import torch
from latent.drawing import (
    CHANCE,
    divergence,
    drawn,
    layer,
    spread_latents,
    train,
)
from latent.trajectories import few, first_weight, latent_form, mlp, normal
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.latent.engines.cpu_proposals import power
from slotkit.machine import SlotMachine
from slotkit.making import slotify


def test_the_same_draw_is_the_same_sample(engine: str, device: torch.device) -> None:
    one, two = layer(engine, 8, device), layer(engine, 8, device, tables="recomputed")
    for factor in (4.0, 0.0, 1e3)[: few(3, 1)]:
        for machine in (one, two):
            spread_latents(machine, factor)
        for draw in (2**32 - 1, 0, 1, 2**31)[: few(4)]:
            assert torch.equal(drawn(one, draw), drawn(two, draw))
        one.spin()
        two.spin()
        assert torch.equal(one.selected("weight"), two.selected("weight"))


def test_draws_are_independent(engine: str, device: torch.device) -> None:
    """Two draws, two seeds, the two streams and neighbouring connections agree as often as by chance."""
    k, shape = 8, (64, few(128, 16))
    machine, other = layer(engine, k, device, shape), layer(engine, k, device, shape, seed=4)
    for each in (machine, other):
        first_weight(each).latent.zero_()
        first_weight(each).line.c = 0.0
    machine.draws = other.draws = 0

    def index(from_machine: SlotMachine, draw: int | None) -> Tensor:
        if draw is None:
            from_machine.spin()
            return from_machine.selected("weight")
        with from_machine.using("probabilistic", draw):
            return from_machine.selected("weight")

    first = index(machine, 0)
    others = {
        "next": index(machine, 1),
        "far": index(machine, 1 << 16),
        "seed": index(other, 0),
        "stream": index(machine, None),
        "neighbour": first.reshape(-1).roll(1).reshape(first.shape),
        "row": first.roll(1, 0),
    }
    for name, second in others.items():
        agreement = (first == second).double().mean()
        surprise = first.numel() * divergence(agreement, torch.tensor(1 / k, dtype=torch.float64))
        assert surprise < math.log(2 * len(others) / CHANCE), f"{name}: they agree in {agreement:.3f}"


@pytest.mark.parametrize("factor", [0.0, 4.0, 1e3])
def test_threads_change_no_draw_and_no_step(factor: float) -> None:
    if numba.config.NUMBA_NUM_THREADS < 2:  # type: ignore[attr-defined]
        pytest.skip("numba has one thread here")
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        try:
            machine = layer("numba", 8, shape=(128, 160))  # large enough for two threads
            spread_latents(machine, factor)
            samples = [drawn(machine, draw) for draw in range(3)]
            train(machine, 3, 1.0)
            results.append([*samples, machine.model.get_parameter("weight"), first_weight(machine).latent])
        finally:
            numba.set_num_threads(1)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_machines_that_draw_at_the_same_time_draw_as_they_do_alone() -> None:
    """Two threads of Python: compiled loops let both go on at once, and have memory to work in in common."""
    machines = [layer("numba", 64, shape=(200, 300), tables="recomputed", seed=seed) for seed in (1, 2)]
    for machine in machines:
        spread_latents(machine, 4.0)

    def draws(machine: SlotMachine) -> list[Tensor]:
        return [drawn(machine, draw).clone() for draw in range(30)]

    alone = [draws(machine) for machine in machines]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(draws, machines))
    for one, two in zip(itertools.chain(*alone), itertools.chain(*together), strict=True):
        assert torch.equal(one, two)


# ---------------------------------------------------------------------------------------------------
# Trajectories: with equal draws the scores are those of the dense form.


@pytest.mark.filterwarnings("ignore:This probabilistic machine made a step without a draw")
def test_equal_draws_give_equal_scores(engine: str, device: torch.device) -> None:
    """100 steps of PS in float64, each form with its own forward and backward."""
    machines = [
        slotify(mlp().to(device, torch.float64), 8, "PS", seed=5, form=form, engine=name)
        for form, name in (("latent", engine), ("dense", "auto"))
    ]
    latent, dense = machines
    x, target = normal(6, 12, seed=1, device=device), normal(6, 4, seed=2, device=device)
    lr = 2.0 * few(1, 8)
    optimizers = [machine.optimizer(lr, 0.9, 1e-4, nesterov=True) for machine in machines]
    for machine in machines:
        machine.model.eval()  # forward doesn't spin: both use the sample that is set here
    changed = 0
    for step in range(few(100, 4)):
        before = {name: latent.selected(name) for name in latent.reels} if step % 20 == 0 else {}
        latent.spin()
        picked = {name: latent.selected(name) for name in latent.reels}
        changed += sum(int((picked[name] != before[name]).sum()) for name in before)
        dense.form.restore(picked)
        for machine, optimizer in zip(machines, optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr / (1 + step % 7)
            optimizer.zero_grad()
            (machine.model(x) - target).square().mean().backward()
            optimizer.step()
        for name in latent.reels:
            expected = dense.scores(name)
            assert (latent.scores(name) - expected).abs().max() <= 1e-9 * expected.abs().max()
    assert changed > 20, "draws that stay the same test little"
    assert all(weight.latent.abs().max() > 1 for weight in latent_form(latent).weights.values())


def test_forward_in_training_draws_anew_and_in_evaluation_does_not(engine: str, device: torch.device) -> None:
    machine = layer(engine, 8, device)
    x = torch.ones(1, 16, device=device)
    parameter = machine.model.get_parameter("weight")
    optimizer = machine.optimizer(lr=0.1)
    seen = []
    for _ in range(2):
        machine.model(x).sum().backward()
        seen.append(parameter.detach().clone())
        optimizer.step()
    machine.model.eval()
    machine.model(x)
    assert not torch.equal(*seen)
    assert torch.equal(parameter, seen[1])
    assert machine.draws == 3


@pytest.mark.parametrize("bad", [float("inf"), float("nan")], ids=str)
def test_scores_that_are_not_finite_are_refused(bad: float, engine: str, device: torch.device) -> None:
    machine = layer(engine, 8, device)
    before = machine.model.get_parameter("weight").detach().clone()
    first_weight(machine).latent[3] = bad
    with pytest.raises(SlotkitError) as caught:
        machine.spin()
    assert str(caught.value) == (
        "Some scores of weight are not finite, so no option can be drawn. Lower the learning rate."
    )
    assert torch.equal(machine.model.get_parameter("weight"), before)


@pytest.mark.parametrize("factor", [0.0, 3.0, 1e3, 1e8])
@pytest.mark.parametrize(
    ("k", "symmetric"),
    [(1, False), (2, False), (2, True), (6, True), (8, False), (40, False), (300, False), (1024, True)],
)
def test_a_proposal_is_no_rarer_than_its_options(k: int, symmetric: bool, factor: float) -> None:
    """Draws are exact because no part is longer than its group's share of the table, and fast because shares
    are not much longer than they have to be.
    """
    machine = layer("numba", k, shape=(12, 8), symmetric=symmetric, tables="recomputed")
    spread_latents(machine, factor)
    machine.spin()
    weight = first_weight(machine)
    ends, _, top, unit = (np.asarray(part, np.float64) for part in weight._kept["proposals"])
    options = machine.options("weight").reshape(-1, k).double().numpy()
    lengths = np.exp(weight.latent.double().numpy()[:, None] * (options - top[:, None]))
    number = np.arange(k)
    part = 2 * (number // 8) + number % 2 if symmetric else number // 4
    shares = np.diff(ends, axis=0, prepend=0)
    tries = np.zeros(len(top))
    slots = -(-(part.max() + 1) // len(ends))
    for p in np.unique(part):
        length = lengths[:, part == p].sum(axis=1)
        assert (length <= shares[p % len(ends)] * unit * (1 + 1e-5)).all()
        tries += length
    tries = 256 * unit * slots / tries
    assert ends.max() <= 255
    assert tries.mean() < (1.3 if slots == 1 else 1.5 * slots)


@pytest.mark.parametrize("k", [3, 8, 160])
def test_kept_proposals_change_no_draw(k: int) -> None:
    """A machine that has trained draws as a copy of it, which keeps nothing, does."""
    machine = layer("numba", k, shape=(12, 8), tables="recomputed")
    optimizer = machine.optimizer(20.0, 0.9)
    for _ in range(5):
        train(machine, 4, 20.0, optimizer)
        fresh = copy.deepcopy(machine)
        assert not first_weight(fresh)._kept
        for draw in range(3):
            assert torch.equal(drawn(machine, draw), drawn(fresh, draw))


def test_proposals_stay_where_the_weight_is_not_contiguous() -> None:
    model = nn.Conv2d(4, 4, 3, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    machine = slotify(model, 8, "probabilistic", seed=3, engine="numba")
    weight = first_weight(machine)
    assert not model.weight.is_contiguous()
    kept = weight._kept["proposals"]
    machine.spin()
    assert weight._kept["proposals"] is kept
    assert machine.form.state_bytes() == (16 + 14) * model.weight.numel()


def test_compiled_powers_are_powers() -> None:
    """To a few units in the last place of float32, down to where they vanish beside 1."""
    steps = -np.logspace(-12, np.log10(125.9), 4000)
    x = np.concatenate([[0.0, -0.0, -0.5, -1.0, -1.5], steps]).astype(np.float32)
    out = np.array([power(value) for value in x])
    assert (np.abs(out / np.exp2(x.astype(np.float64)) - 1) < 3e-7).all()
    assert (out <= 1).all()
    far = {power(np.float32(value)) for value in (-127.0, -1e9, -np.inf)}
    assert far == {2.0**-126}


@pytest.mark.parametrize("kind", [{"k": 2}, {"k": 3}, {"k": 5}, {"k": 6, "symmetric": True}], ids=str)
@pytest.mark.parametrize("size", [50.0, 1500.0, 1e6])
def test_decided_reels_hold_one_of_their_own_options(kind: dict[str, Any], size: float) -> None:
    """K that leaves gaps in the blocks of four numbers: what lies in a gap may be above every option."""
    machine = slotify(nn.Linear(60, 40, bias=False), selection="probabilistic", **kind)
    weight = machine.form.latents["weight"]
    sign = torch.where(torch.arange(2400) % 2 == 0, 1.0, -1.0)
    weight.latent.copy_(size * sign)
    options = machine.options("weight")
    for number in range(3):
        with machine.using("probabilistic", number):
            drawn = machine.model.weight.detach().unsqueeze(-1)
            assert (drawn == options).any(dim=-1).all()
