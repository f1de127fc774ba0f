"""How threads wait: what the command sets, and the warning when steps become slow."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import slotkit
from slotkit.wait_policy import BOUND, COUNT, POLICIES, Pace, bound_waiting, slow_words

# What the command sees when it begins, and what a process that it starts sees.
LOOK = """
import multiprocessing, os, sys
from slotkit.cli import main

def look():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(os.getenv, ("GOMP_SPINCOUNT",))
    print(os.getenv("GOMP_SPINCOUNT"), "torch" in sys.modules or "numba" in sys.modules, there)

if __name__ == "__main__":
    main.app = look
"""
AS_COMMAND = "    main.main()\n"
AS_MODULE = "    import runpy\n    runpy.run_module('slotkit', run_name='__main__')\n"


def seen(place: Path, code: str, **environment: str) -> str:
    (place / "look.py").write_text(LOOK + code)
    own = {name: value for name, value in os.environ.items() if name not in POLICIES}
    told = subprocess.run(
        [sys.executable, "look.py"],
        cwd=place,
        env=own | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()


@pytest.mark.parametrize("code", [AS_COMMAND, AS_MODULE], ids=["slotkit", "python -m slotkit"])
def test_the_command_bounds_waiting_before_torch_and_in_its_processes(code: str, tmp_path: Path) -> None:
    assert seen(tmp_path, code) == f"{BOUND} False {BOUND}"
    assert seen(tmp_path, code, OMP_NUM_THREADS="2") == f"{BOUND} False {BOUND}"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_decision_of_the_user_is_left_alone(policy: str, tmp_path: Path) -> None:
    environment = {policy: "7"}
    bound_waiting(environment)
    assert environment == {policy: "7"}
    shown = "7" if policy == COUNT else "None"
    assert seen(tmp_path, AS_COMMAND, **{policy: "7"}) == f"{shown} False {shown}"


@pytest.mark.skipif(
    sys.platform != "linux" or "openmp" not in torch.__config__.parallel_info().lower(),
    reason="GNU OpenMP, which says what it reads",
)
def test_every_openmp_of_a_command_reads_it(tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if name not in POLICIES}
    done = subprocess.run(
        [sys.executable, "-m", "slotkit", "train", "--epochs", "1", "--set", "training.limit_batches=2"],
        cwd=tmp_path,
        env=own | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = [line.strip() for line in done.stderr.splitlines() if COUNT in line]
    assert told
    assert set(told) == {f"{COUNT} = '{BOUND}'"}


# ---------------------------------------------------------------------------------------------------
# The warning.


def test_the_pace_compares_with_the_best_window_so_far() -> None:
    pace = Pace()

    def window(seconds: float) -> tuple[float, float] | None:
        told = [pace.add(seconds) for _ in range(Pace.WINDOW)]
        assert told[:-1] == [None] * (Pace.WINDOW - 1)
        return told[-1]

    assert window(5.0) is None  # the first, whatever it is
    assert window(2.0) is None
    assert window(19.9) is None
    assert window(20.0) == (2.0, 20.0)
    assert window(19.0) is None


def test_a_few_slow_steps_are_none() -> None:
    pace = Pace()
    told = [pace.add(100.0 if i % 3 == 0 else 1.0) for i in range(4 * Pace.WINDOW)]
    assert told == [None] * len(told)


class Clock:
    """A step takes `step` seconds by it."""

    def __init__(self) -> None:
        self.now, self.step, self.in_a_step = 0.0, 0.001, False

    def __call__(self) -> float:
        self.now += self.step if self.in_a_step else 1000.0  # what is between steps is no matter
        self.in_a_step = not self.in_a_step
        return self.now


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for policy in POLICIES:
        monkeypatch.delenv(policy, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def slowed(optimizer: torch.optim.Optimizer, clock: Clock) -> list[warnings.WarningMessage]:
    """What is said while the steps of an optimizer become 40 times as long."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(4 * Pace.WINDOW):
            clock.step = 0.001 if step < 2 * Pace.WINDOW else 0.04
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
    return caught


def optimizer_with(clock: Clock, kind: type = slotkit.SlotSGD) -> torch.optim.Optimizer:
    optimizer = kind(slotkit.slotify(nn.Linear(3, 2), 4, engine="eager"))
    optimizer._pace = Pace(clock)
    return optimizer


@pytest.mark.parametrize("kind", [slotkit.SlotSGD, slotkit.SlotAdam])
def test_slow_steps_are_told_once_where_step_was_called(kind: type, two_threads: None) -> None:
    clock = Clock()
    (told,) = slowed(optimizer_with(clock, kind), clock)
    assert str(told.message) == slow_words(0.001, 0.04)
    assert "A step of this optimizer takes 40 ms, 40 times as long as before." in str(told.message)
    assert "Start Python with GOMP_SPINCOUNT=" in str(told.message)
    assert Path(told.filename) == Path(__file__)


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_told_where_the_user_has_decided(
    policy: str, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(policy, "1")
    clock = Clock()
    assert slowed(optimizer_with(clock), clock) == []


def test_nothing_is_told_with_one_thread(two_threads: None) -> None:
    torch.set_num_threads(1)
    clock = Clock()
    assert slowed(optimizer_with(clock), clock) == []


def test_a_closure_is_not_part_of_the_step(two_threads: None) -> None:
    clock = Clock()
    optimizer = optimizer_with(clock)

    def closure() -> None:
        clock.now += 1.0

    for _ in range(3):
        optimizer.step(closure)
    assert optimizer._pace._durations == pytest.approx([0.001] * 3)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_has_a_pace_of_its_own(copied: object) -> None:
    machine = slotkit.slotify(nn.Linear(3, 2), 4)
    optimizer = machine.optimizer(lr=0.1)
    _, twin = copied((machine, optimizer))  # type: ignore[operator]
    assert twin._pace is not optimizer._pace
