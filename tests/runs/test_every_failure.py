"""Every change of the disk that a run makes is made to fail, one at a time: it goes on to the same bits."""

from __future__ import annotations

import functools
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs.harness import MODES, FailingDisk, attempt  # type: ignore[import-not-found]
from runs.test_resume import assert_same_run  # type: ignore[import-not-found]

from slotkit import files
from slotkit.config import Overrides, Resolved, resolve
from slotkit.data import sources
from slotkit.runs import environment
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import resume, run
from slotkit.training.finetune import finetune
from slotkit.training.finetune import go_on as comparison

pytestmark = pytest.mark.usefixtures("one_thread", "narrow_networks")

# All points in all modes: SLOTKIT_EVERY_POINT=1, which `nox -s fuzz` sets. Otherwise each third point of the
# first kind, each in one mode, and every seventh of the others.
EVERY = bool(os.environ.get("SLOTKIT_EVERY_POINT"))


def points(kind: str, count: int) -> list[tuple[int, str]]:
    """(number of the operation, mode)."""
    if EVERY:
        return [(n, mode) for n in range(1, count + 1) for mode in MODES]
    stride = 3 if kind == next(iter(KINDS)) else 7
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
    monkeypatch.setattr(sources, "load", functools.cache(sources.load))
    monkeypatch.setattr(environment, "_git_commit", lambda: "none")


def go_on(place: Path, start: Callable[[], object]) -> str:
    """What a user does: resume what is there, else start it. Returns what happened."""
    folder = RunFolder(place / "run")
    if folder.path.exists():
        (comparison if folder.is_comparison() else resume)(folder, [])
        return "resumed"
    start()
    return "made anew"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_survives_every_failure(kind: str, tmp_path: Path) -> None:
    resolved = settings(**KINDS[kind])
    fail_everywhere(kind, tmp_path, lambda place: run(resolved, place, "run"), assert_same_run)


def test_an_extension_survives_every_failure(tmp_path: Path) -> None:
    """Its epochs are asked for again, unless they are in the configuration already."""
    changes = [Overrides("--epochs", {"training.epochs": 3})]
    short = run(settings(training__schedule="cosine"), tmp_path / "short", "run").path

    def start(place: Path) -> object:
        if not (place / "run").exists():
            shutil.copytree(short, place / "run")
        return resume(RunFolder(place / "run"), changes)

    def same(whole: Path, other: Path) -> None:
        start(other.parent)  # a finished one is left as it is
        assert_same_run(whole, other)

    fail_everywhere("extension", tmp_path, start, same)


@pytest.mark.long
def test_a_comparison_survives_every_failure(tmp_path: Path) -> None:
    parent = run(settings(training__epochs=1), tmp_path / "parent", "parent")
    shorter = [Overrides("--epochs", {"training.epochs": 1, "training.lr": 0.1})]

    def same(whole: Path, other: Path) -> None:
        for name in ("from-last", "scratch"):
            assert_same_run(whole / name, other / name)
        summaries = [RunFolder(folder).summary() for folder in (whole, other)]
        for summary in summaries:
            del summary["seconds"]
            for branch in summary["branches"]:
                del branch["seconds"]
        assert summaries[0] == summaries[1]

    fail_everywhere(
        "finetune",
        tmp_path,
        lambda place: finetune(parent, place, ["last"], shorter, scratch=True, name="run"),
        same,
    )


def fail_everywhere(
    kind: str, tmp_path: Path, work: Callable[[Path], object], same: Callable[[Path, Path], None]
) -> None:
    """`work` makes PLACE/run; `same` compares two of them."""
    work(tmp_path / "whole")
    outcome, disk = attempt(lambda: work(tmp_path / "counted"), 0, "kill")
    assert outcome == "done"
    outcomes: Counter[str] = Counter()
    for n, mode in points(kind, disk.count):
        place = tmp_path / f"{n}-{mode}"

        def start(place: Path = place) -> object:
            return work(place)

        first, failed = attempt(start, n, mode)
        what = f"{mode} at {n}, {failed.operations[n - 1]}: {first}"
        assert first in ("killed", "done") or "could not be written" in first, what
        try:
            outcomes[go_on(place, start)] += 1
            same(tmp_path / "whole" / "run", place / "run")
        except BaseException as fault:
            raise AssertionError(what) from fault
        assert [path.name for path in place.iterdir() if not path.name.startswith(".")] == ["run"]
    print(f"{kind}: {sum(outcomes.values())} points, {dict(outcomes)}, 0 bad outcomes")
