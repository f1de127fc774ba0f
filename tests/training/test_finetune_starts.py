"""Finetuning from checkpoints of other precisions, and within an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slotkit.config import Overrides, resolve
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import evaluate, run
from slotkit.training.finetune import finetune, plan
from slotkit.training.loop import Event, Step
from slotkit.training.signals import StoppedError

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = {"training.epochs": 1, "training.limit_batches": 4}


def settings(**values: Any) -> list[Overrides]:
    given = SHORT | {path.replace("__", "."): value for path, value in values.items()}
    return [Overrides("test", given)]


def train(place: Path, report: Any = lambda event: None, **values: Any) -> RunFolder:
    more = {"slots.k": 4, "training.device": "cpu", "recording.trace": "full"}
    return run(resolve([Overrides("usual", more), *settings(**values)]), place, "parent", report)


@pytest.mark.parametrize("which", ["best", "step-4"])
@pytest.mark.parametrize(("before", "then"), [("fp32", "fp64"), ("fp64", "fp32"), ("fp64", "fp64")])
def test_weights_are_trained_in_another_precision(before: str, then: str, which: str, tmp_path: Path) -> None:
    """Options are float32: their values are the same in either."""
    slot = train(tmp_path, training__precision=before)
    folder = finetune(slot, tmp_path, [which], settings(training__precision=then))
    start = checkpoint.load(folder.branches()[0].checkpoint("start"))[0]["weights"]
    machine_has = checkpoint.load(slot.checkpoint("best"))[0]["others"]
    wanted = {"fp32": torch.float32, "fp64": torch.float64}[then]
    assert all(value.dtype == wanted for value in start.values())
    assert all(torch.equal(value.double(), machine_has[name].double()) for name, value in start.items())
    (row, _), read = folder.summary()["table"], evaluate(slot, which, "test")["greedy"]
    assert row["test"]["accuracy"] == read.accuracy


def test_steps_that_count_as_no_epoch_are_told(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Step) and event.step == 7:
            raise StoppedError("SIGTERM after step 7")

    with pytest.raises(StoppedError):
        train(tmp_path, stop, training__epochs=3)
    slot = RunFolder(tmp_path / "parent")
    branches, notes = plan(slot, ["best", "last"], 1, True)
    assert [(branch.slot_epochs, branch.epochs) for branch in branches] == [(1, 1), (1, 1), (0, 2)]
    assert notes[1:] == [
        "last is 3 steps into epoch 2. They count as no epoch, so this network is trained for that "
        "much longer than the others."
    ]


def test_so_are_steps_of_a_trace(tmp_path: Path) -> None:
    slot = train(tmp_path)
    assert plan(slot, ["step-2"], 1, False)[1] == [
        "step-2 is 2 steps into epoch 1. They count as no epoch, so this network is trained for that "
        "much longer than the others."
    ]
    assert plan(slot, ["step-4", "best"], 1, False)[1] == [
        "best is the same checkpoint as step-4: one branch for both."
    ]
