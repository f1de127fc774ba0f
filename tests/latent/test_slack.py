"""Slack: who left an interval is found without looking at most intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from latent.trajectories import CPU, Run, first_weight, latent_form
from numpy.typing import NDArray

from slotkit.errors import DivergedError
from slotkit.latent.cpu_plan import BLOCK, GROUP, GROUPS, KINDS
from slotkit.latent.cpu_slack import MOVED, WAITING, WAYS_WORDS, find_all, find_moved
from slotkit.machine import SlotMachine
from slotkit.optim import SlotSGD

Array = NDArray[Any]


class Block:
    """Latents of a block, intervals around them, and what is kept of them from step to step."""

    def __init__(self, seed: int, count: int, dtype: torch.dtype, width: float) -> None:
        self.random = np.random.default_rng(seed)
        self.zero, self.infinity = KINDS[dtype]
        kind = self.zero.dtype
        self.position = self.random.normal(size=count).astype(kind)
        below, above = self.random.exponential(width, (2, count))
        self.lower, self.upper = (self.position - below).astype(kind), (self.position + above).astype(kind)
        self.lower[::7], self.upper[::5] = -np.inf, np.inf
        self.slack = np.full(GROUPS, -1, kind)
        self.memory = np.zeros(WAYS_WORDS, np.int64)
        self.scale = kind.type(1)

    def advance(self, to: Array, scale: float, share: float = 1.0) -> None:
        """The latents go somewhere, and are told to have gone a share of the way."""
        kind = self.position.dtype
        with np.errstate(all="ignore"):
            before = self.position * self.scale
            self.position, self.scale = to.astype(kind), kind.type(scale)
            moved = np.abs(self.position * self.scale - before)
        self.memory[MOVED:].view(kind)[: len(to)] = moved * kind.type(share)

    def found(self) -> tuple[list[int], list[int]]:
        """Who is outside: by slack, and looking at all; those outside get an interval around them."""
        waiting = self.memory[WAITING:].view(np.uint32)
        arguments = self.position, self.lower, self.upper, self.scale
        n = find_moved(*arguments, self.slack, self.infinity, GROUP, self.memory.ctypes.data)
        by_slack = waiting[:n].tolist()
        looking = np.zeros(BLOCK + 1, np.uint32)
        outside = looking[: find_all(*arguments, looking)].tolist()
        with np.errstate(all="ignore"):
            u = (self.position * self.scale)[outside]
        self.lower[outside] = u - np.abs(self.random.normal(size=len(u))).astype(u.dtype)
        self.upper[outside] = u + np.abs(self.random.normal(size=len(u))).astype(u.dtype)
        return by_slack, outside


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([1, 15, 16, 17, 100, 1000, BLOCK]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    width=st.sampled_from([1e-3, 0.1, 10.0]),
    pace=st.sampled_from([0.0, 1e-45, 1e-9, 1e-4, 0.01, 1.0]),
    decay=st.sampled_from([1.0, 0.999, 1.3]),
)
def test_those_outside_are_found(
    seed: int, count: int, dtype: torch.dtype, width: float, pace: float, decay: float
) -> None:
    block = Block(seed, count, dtype, width)
    for step in range(25):
        way = block.random.normal(size=count) * pace
        if step % 6 == 5:
            # Straight on to an end of the interval, where all that counts is the last bit.
            way = np.nan_to_num(block.upper / block.scale - block.position, posinf=0, neginf=0)
            way[::2] = np.nextafter(way[::2], np.inf)
        block.advance(block.position + way, decay**step)
        by_slack, outside = block.found()
        assert by_slack == outside


def test_slack_saves_looking() -> None:
    """While nothing has come far, no interval is read: here they hold what would be found."""
    block = Block(0, BLOCK, torch.float32, 10.0)
    block.lower[:], block.upper[:] = -9, 9
    block.advance(block.position, 1.0)
    assert block.found() == ([], [])
    assert (block.slack > 4).all()
    block.lower[:], block.upper[:] = 1, -1
    for _ in range(4):
        block.advance(block.position + 1, 1.0)
        waiting = block.memory[WAITING:].view(np.uint32)
        arguments = block.position, block.lower, block.upper, block.scale, block.slack, block.infinity
        assert find_moved(*arguments, GROUP, block.memory.ctypes.data) == 0, waiting


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_looked_at(bad: float) -> None:
    block = Block(1, BLOCK, torch.float32, 10.0)
    block.advance(block.position, 1.0)
    block.found()
    for value in (bad, 0.0, bad, bad):
        to = block.position.copy()
        to[[3, 700]] = value
        block.advance(to, 1.0)
        by_slack, outside = block.found()
        assert by_slack == outside
        assert {3, 700} <= set(outside) or not np.isnan(value)


def test_nothing_below_nothing_is_not_outside() -> None:
    block = Block(3, 32, torch.float32, 1.0)
    block.lower[:], block.upper[:] = 0.0, 1.0
    block.advance(np.full(32, -0.0), 1.0)
    assert block.found() == ([], [])


def test_less_movement_than_there_was_would_be_noticed() -> None:
    """Wrong on purpose: half the way is told."""
    block, missed = Block(2, BLOCK, torch.float32, 0.1), 0
    for _ in range(25):
        block.advance(block.position + 0.003, 1.0, share=0.5)
        by_slack, outside = block.found()
        missed += len(set(outside) - set(by_slack))
    assert missed > 0


# ---------------------------------------------------------------------------------------------------
# What is kept is forgotten when anybody else had his hands on the state.


def nudge(machine: SlotMachine) -> None:
    with torch.no_grad():
        first_weight(machine).latent.mul_(-3)


def reload(machine: SlotMachine) -> None:
    machine.load_state_dict(machine.state_dict())


def elsewhere(machine: SlotMachine) -> None:
    """Another optimizer steps once, with some of the weights."""
    other = SlotSGD([machine], lr=5.0)
    for parameter in list(machine.parameters())[1:]:
        parameter.grad = None
    other.step()


def spun(machine: SlotMachine) -> None:
    machine.spin("probabilistic")
    machine.spin("greedy")


def double(machine: SlotMachine) -> None:
    machine.model.float().double()


def redirect(machine: SlotMachine) -> None:
    """Other intervals of the same latents, as far as they go."""
    first_weight(machine).empty_intervals()


def fail(machine: SlotMachine) -> None:
    """A step that is refused, with a weight decay that would have moved every u."""
    optimizer = SlotSGD([machine], lr=5.0, weight_decay=0.1)
    first_weight(machine).parameter.grad[0] = math.nan  # type: ignore[index]
    with pytest.raises(DivergedError):
        optimizer.step()


HANDS = {f.__name__: f for f in (nudge, reload, elsewhere, spun, double, redirect, fail)}


@pytest.mark.parametrize("hand", HANDS.values(), ids=HANDS)
def test_hands_on_the_state(hand: Any) -> None:
    """A machine that keeps things, and one that looks at everything in every step, stay the same."""
    run = Run("mlp", 20, steps=60, lr=2.0)
    machines = [run.machine(CPU, "latent", "numba", tables) for tables in ("auto", "recomputed")]
    for step, _ in enumerate(zip(*map(run.train, machines), strict=True)):
        if step % 10 == 4:
            for machine in machines:
                hand(machine)
        for one, two in zip(*(latent_form(machine).weights.values() for machine in machines), strict=True):
            assert torch.equal(one.parameter, two.parameter)
            assert torch.equal(one.latent, two.latent)
    assert first_weight(machines[0]).prepared.kept_bytes > 0
    assert first_weight(machines[1]).prepared.kept_bytes == 0
