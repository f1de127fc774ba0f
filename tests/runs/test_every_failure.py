"""Every change of the disk that a run makes is made to fail, one at a time: it goes on to the same bits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs.harness import MODES, attempt  # type: ignore[import-not-found]
from runs.test_resume import assert_same_run  # type: ignore[import-not-found]

from slotkit.config import Overrides, Resolved, resolve
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import resume, run

pytestmark = pytest.mark.usefixtures("one_thread", "narrow_networks")

# All points in all modes: SLOTKIT_EVERY_POINT=1, which `nox -s fuzz` sets. Otherwise each point in one mode.
EVERY = bool(os.environ.get("SLOTKIT_EVERY_POINT"))


def settings(**values: Any) -> Resolved:
    given = {
        "model.name": "conv2",
        "slots.k": 2,
        "training.epochs": 2,
        "training.device": "cpu",
        "training.batch_size": 400,
        "training.limit_batches": 2,
        "training.log_every": 1,
        "training.lr": 5.0,
        "data.validation": 0.1,
        "recording.trace": "full",
        "recording.every": 2,
        "recording.checkpoint_minutes": 1e-9,
    }
    return resolve([Overrides("test", given | {k.replace("__", "."): v for k, v in values.items()})])


KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "probabilistic": {"slots__selection": "PS", "recording__trace": "summary", "recording__keep_last": 1},
    "sparse": {
        "recording__checkpoint_minutes": 60.0,
        "recording__checkpoint_epochs": 2,
        "training__epochs": 3,
    },
}


def go_on(place: Path, name: str, start: Callable[[], object], changes: list[Overrides]) -> str:
    """What a user does: resume what is there, else start it. Returns what happened."""
    if (place / name).exists():
        resume(RunFolder(place / name), changes)
        return "resumed"
    start()
    return "made anew"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_survives_every_failure(kind: str, tmp_path: Path) -> None:
    resolved = settings(**KINDS[kind])
    whole = run(resolved, tmp_path / "whole", "run").path
    outcome, disk = attempt(lambda: run(resolved, tmp_path / "counted", "run"), 0, "kill")
    assert outcome == "done"
    outcomes: Counter[str] = Counter()
    for n in range(1, disk.count + 1):
        for mode in MODES if EVERY else MODES[n % len(MODES) :][:1]:
            place = tmp_path / f"{n}-{mode}"
            start = lambda place=place: run(resolved, place, "run")  # noqa: E731
            first, failed = attempt(start, n, mode)
            what = f"{mode} at {n}, {failed.operations[n - 1]}: {first}"
            assert first == "killed" or "could not be written" in first or first == "done", what
            try:
                outcomes[go_on(place, "run", start, [])] += 1
                assert_same_run(whole, place / "run")
            except BaseException as fault:
                raise AssertionError(what) from fault
            assert [path.name for path in place.iterdir() if not path.name.startswith(".")] == ["run"]
    print(f"{kind}: {sum(outcomes.values())} points, {dict(outcomes)}, 0 bad outcomes")
