"""Every change of the disk that a run makes is made to fail, one at a time: it goes on to the same bits."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs.harness import MODES, FailingDisk, attempt  # type: ignore[import-not-found]
from runs.test_resume import assert_same_run  # type: ignore[import-not-found]

from slotkit import files
from slotkit.config import Overrides, Resolved, resolve
from slotkit.runs import folder as folders
from slotkit.runs.folder import RunFolder
from slotkit.training import prepare as preparing
from slotkit.training.experiment import resume, run

pytestmark = pytest.mark.usefixtures("one_thread", "narrow_networks")

# All points in all modes: SLOTKIT_EVERY_POINT=1, which `nox -s fuzz` sets. Otherwise each point of the first
# kind in one mode, and every fourth of the others.
EVERY = bool(os.environ.get("SLOTKIT_EVERY_POINT"))


def points(kind: str, count: int) -> list[tuple[int, str]]:
    """(number of the operation, mode)."""
    if EVERY:
        return [(n, mode) for n in range(1, count + 1) for mode in MODES]
    stride = 1 if kind == next(iter(KINDS)) else len(MODES)
    return [(n, MODES[n // stride % len(MODES)]) for n in range(1, count + 1, stride)]


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


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for a real disk, the images are read once, and git is not asked for a commit."""
    monkeypatch.setattr(files, "disk", FailingDisk())
    monkeypatch.setattr(preparing, "load", functools.cache(preparing.load))
    monkeypatch.setattr(folders, "_git_commit", lambda: "none")


def go_on(place: Path, name: str, start: Callable[[], object]) -> str:
    """What a user does: resume what is there, else start it. Returns what happened."""
    if (place / name).exists():
        resume(RunFolder(place / name), [])
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
    for n, mode in points(kind, disk.count):
        place = tmp_path / f"{n}-{mode}"

        def start(place: Path = place) -> object:
            return run(resolved, place, "run")

        first, failed = attempt(start, n, mode)
        what = f"{mode} at {n}, {failed.operations[n - 1]}: {first}"
        assert first in ("killed", "done") or "could not be written" in first, what
        try:
            outcomes[go_on(place, "run", start)] += 1
            assert_same_run(whole, place / "run")
        except BaseException as fault:
            raise AssertionError(what) from fault
        assert [path.name for path in place.iterdir() if not path.name.startswith(".")] == ["run"]
    print(f"{kind}: {sum(outcomes.values())} points, {dict(outcomes)}, 0 bad outcomes")
