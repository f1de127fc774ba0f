"""Damaged and forged manifests: what reads a sweep works, or says in one sentence what is wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs.harness import FailingDisk  # type: ignore[import-not-found]
from runs.mutants import mutants  # type: ignore[import-not-found]
from slotkit.cli import sweep as commands
from slotkit.reports.collect import collect
from sweeps.made import planned, trained  # type: ignore[import-not-found]

from slotkit import files
from slotkit.config import Overrides
from slotkit.errors import SlotkitError
from slotkit.runs import environment
from slotkit.sweeps import run
from slotkit.sweeps.contract import Ended, Job, Tell
from slotkit.sweeps.manifest import MANIFEST
from slotkit.sweeps.plan import Planned
from slotkit.sweeps.sweep import Sweep, start

pytestmark = pytest.mark.usefixtures("one_thread")

# `nox -s fuzz` has 2,000.
NUMBER = int(os.environ.get("SLOTKIT_MUTANTS", "100"))


class Failing:
    """An executor in which every run fails."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def has_room(self, memory: int) -> bool:
        return memory >= 0

    def start(self, job: Job) -> None:
        self.jobs.append(job)

    def wait(self, tell: Tell, seconds: float) -> None:
        del seconds
        for job in self.jobs:
            tell(Ended(job.key, "failed", "It failed here.", "nowhere, process 1"))
        self.jobs = []

    def stop(self) -> None:
        return


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "disk", FailingDisk())
    monkeypatch.setattr(environment, "_git_commit", lambda: "none")


def asked() -> list[Planned]:
    """A run that will be there, and two that will not."""
    settings = {
        "slots.k": 4,
        "model.name": "conv2",
        "model.options.padding": 1,
        "training.milestones": [1, 2],
    }
    other = Planned((Overrides("test", settings),), {"k": 4, "milestones": [1, 2]}, 1)
    return [*planned(), other]


def make(place: Path) -> bytes:
    """A sweep with a run that is finished, some that failed, and one that is left out; its manifest."""
    trained(place, planned(seeds=(3,)))
    trained(place, [*asked(), *planned(seeds=(5,))], Failing(), retries=0)
    sweep, _ = start(place, asked(), "lenet.toml", changed=True, command="slotkit sweep lenet.toml")
    sweep.keep_peak(next(iter(sweep.manifest.runs)), 123_456_789)
    return (place / MANIFEST).read_bytes()


def use(place: Path) -> dict[str, Callable[[], Any]]:
    """Everything that reads a manifest."""
    return {
        "status": lambda: commands.status(str(place)),
        "status --json": lambda: commands.status(str(place), as_json=True),
        "report": lambda: collect([str(place)]),
        "go on": lambda: start(place, asked(), "the test"),
        "go on --changed": lambda: go_on(place),
    }


def go_on(place: Path) -> None:
    """Train what is left: its runs fail, and their errors are written down."""
    sweep, _ = start(place, asked(), "the test", changed=True)
    run.train(sweep, asked(), Failing(), retries=0)
    assert Sweep.open(place).manifest == sweep.manifest


def test_damaged_manifests_are_refused_in_one_sentence(tmp_path: Path) -> None:
    place, outcomes = tmp_path / "sweep", Counter[str]()
    whole = make(place)
    for number, (how, data) in enumerate(mutants("manifest", whole, NUMBER, seed=7)):
        noticed = False
        for name, reader in use(place).items():
            (place / MANIFEST).write_bytes(data)
            noticed |= refuses(reader, place, (number, how, name))
        outcomes[f"{how} {'refused' if noticed else 'read'}"] += 1
    print(f"{MANIFEST}: {NUMBER} mutants, 0 raw exceptions, {dict(sorted(outcomes.items()))}")
    assert all(outcomes[f"{how} refused"] for how in ("cut", "flipped", "json", "manifest"))
    (place / MANIFEST).write_bytes(whole)
    for name, reader in use(place).items():
        assert not refuses(reader, place, name)


def refuses(reader: Callable[[], Any], place: Path, what: object) -> bool:
    try:
        reader()
    except SlotkitError as fault:
        if str(place) in str(fault):
            return True
        raise AssertionError(what) from fault
    except Exception as fault:
        raise AssertionError(what) from fault
    return False
