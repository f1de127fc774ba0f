"""SIGTERM in a long evaluation: the run ends after the batch that is going on, and loses nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slotkit.config import Overrides, resolve
from slotkit.runs.folder import RunFolder
from slotkit.training import evaluation
from slotkit.training.experiment import resume, run
from slotkit.training.loop import Event, Step
from slotkit.training.signals import StoppedError

pytestmark = pytest.mark.usefixtures("one_thread")

RESOLVED = resolve(
    [
        Overrides(
            "test",
            {
                "training.epochs": 2,
                "training.device": "cpu",
                "training.limit_batches": 3,
                "training.log_every": 1,
                "slots.k": 2,
                "slots.selection": "PS",  # several readings, in which the weights are others
                "slots.engine": "eager",
                "evaluation.draws": 2,
                "evaluation.batch_size": 8,
                "recording.trace": "off",
            },
        )
    ]
)


@pytest.mark.parametrize("batch", [3, 40, 60])  # of the first validation, the second, the test at the end
def test_it_stops_after_the_batch(batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(RESOLVED, tmp_path, "whole")
    outputs, seen = evaluation.outputs, 0

    def signalled(*given: Any) -> Iterator[Any]:
        nonlocal seen
        for pair in outputs(*given):
            seen += 1
            if seen == batch:
                os.kill(os.getpid(), signal.SIGTERM)
            yield pair

    monkeypatch.setattr(evaluation, "outputs", signalled)
    events: list[Event] = []
    with pytest.raises(StoppedError, match="SIGTERM after step"):
        run(RESOLVED, tmp_path, "stopped", events.append)
    assert seen == batch
    folder = RunFolder(tmp_path / "stopped")
    assert folder.status() == "stopped"
    done = len([event for event in events if isinstance(event, Step)])
    assert folder.summary()["reason"] == f"SIGTERM after step {done}"
    events.clear()
    resume(folder, [], events.append)
    assert len([event for event in events if isinstance(event, Step)]) == 6 - done
    for name in ("metrics.jsonl", "checkpoints/last.safetensors", "checkpoints/best.safetensors"):
        assert (folder.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert folder.summary()["test"] == whole.summary()["test"]
