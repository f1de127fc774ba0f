"""Damaged and forged files of a run: what reads them works, or says in one sentence which file is wrong."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs.harness import FailingDisk  # type: ignore[import-not-found]
from runs.mutants import mutants  # type: ignore[import-not-found]
from runs.test_every_failure import settings  # type: ignore[import-not-found]
from slotkit.analyses.common.recorded import read_any
from slotkit.cli import runs as commands

from slotkit import files
from slotkit.data import sources
from slotkit.errors import SlotkitError
from slotkit.recording.replay import replay
from slotkit.recording.trace import Trace
from slotkit.runs import environment, listing
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import evaluate, resume, run
from slotkit.training.loop import Event, Step

pytestmark = pytest.mark.usefixtures("one_thread", "narrow_networks")

# Of each kind of file. `nox -s fuzz` has 2,000.
NUMBER = int(os.environ.get("SLOTKIT_MUTANTS", "20"))

FILES = {
    "config": "config.toml",
    "summary": "summary.json",
    "metrics": "metrics.jsonl",
    "about": "trace/about.json",
    "chunk": "trace/steps-00000001.npz",
    "checkpoint": "checkpoints/last.safetensors",
    "best": "checkpoints/best.safetensors",
}


# Any text may be the name of an init of one's own, which has to be given again.
ANOTHER_INIT = "The reels were made with the init "


# What is said of the run itself, whole or damaged, and of a device that isn't here.
OF_THE_RUN = (
    "There is no trace in ",
    "The trace of copy is ",
    "copy trained ",
    "There is no device ",
    "slotkit doesn't train on ",
    "The trace of copy has no steps",
)


class EnoughError(Exception):
    """A forged run may have any number of steps."""


def some_steps(first: int) -> Callable[[Event], None]:
    def report(event: Event) -> None:
        if isinstance(event, Step) and event.step > first + 3:
            raise EnoughError

    return report


def use(folder: RunFolder, name: str, last: int) -> list[Callable[[], Any]]:
    """Everything that reads such a file."""
    trace = Trace(folder.path / "trace")
    readers: dict[str, Callable[[], Any]] = {
        "row": lambda: commands._row(listing.read(folder)),
        "rest": lambda: (folder.tables(), list(folder.metrics()), folder.branches()),
        "best": lambda: evaluate(folder, "best", "validation"),
        "last": lambda: evaluate(folder, "last", "validation"),
        "chunks": lambda: [list(trace.chunks()), trace.last_step()],
        "replay": lambda: replay(folder, last),
        "analyze": lambda: read_any(folder, events=True),
        "resume": lambda: resume(folder, [], some_steps(last)),
    }
    apart = {
        "summary.json": ("row", "resume"),
        "metrics.jsonl": ("rest", "analyze", "resume"),
        "checkpoints/last.safetensors": ("last", "resume"),
        "checkpoints/best.safetensors": ("best", "resume"),
    }
    return [readers[one] for one in apart.get(name, readers)]


# Runs whose checkpoints hold other things.
FORMS: dict[str, dict[str, Any]] = {
    "probabilistic": {"slots__selection": "PS", "recording__trace": "summary"},
    "dense": {"slots__form": "dense", "slots__k": 4, "slots__selection": "PS", "recording__trace": "off"},
    "adam": {"training__optimizer": "adam", "training__lr": 0.01},
    "learned": {"method": "learned", "training__optimizer": "adam", "recording__trace": "off"},
}


def make_killed(place: Path, **values: Any) -> RunFolder:
    """A run that was killed in its second epoch, with a chunk of its trace."""
    seen = 0

    def stop(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, Step)
        if seen == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings(**values), place, "killed", stop)
    folder, whole = RunFolder(place / "killed"), run(settings(**values), place, "whole")
    if (whole.path / "trace").is_dir():  # as a run that is extended has it: a chunk that goes on
        shutil.copy(whole.path / FILES["chunk"], folder.path / FILES["chunk"])
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: dict[str, Any] = {}
    whole = sources.load

    def load(*given: Any) -> Any:
        """The images are read once. A forged setting may be nothing that a table takes as a key."""
        if repr(given) not in loaded:
            loaded[repr(given)] = whole(*given)
        return loaded[repr(given)]

    monkeypatch.setattr(sources, "load", load)
    monkeypatch.setattr(files, "disk", FailingDisk())
    monkeypatch.setattr(environment, "_git_commit", lambda: "none")


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_are_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    forged = "checkpoint" if kind == "best" else kind
    check(make_killed(tmp_path), FILES[kind], forged, tmp_path / "copy")


@pytest.mark.parametrize("form", FORMS)
def test_so_are_checkpoints_of_every_form(form: str, tmp_path: Path) -> None:
    killed, name = make_killed(tmp_path, **FORMS[form]), FILES["checkpoint"]
    is_coded = b"$residual" in (killed.path / name).read_bytes()
    assert is_coded == (form == "dense")
    check(killed, name, "coded" if is_coded else "checkpoint", tmp_path / "copy")


def check(killed: RunFolder, name: str, kind: str, place: Path) -> None:
    whole = (killed.path / name).read_bytes()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for number, (how, data) in enumerate(mutants(kind, whole, NUMBER, seed=7)):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(killed.path, place)
        (place / name).write_bytes(data)
        started = time.process_time()
        noticed = [
            reader for reader in use(RunFolder(place), name, 3) if refuses(reader, place, (number, how))
        ]
        slowest = max(slowest, time.process_time() - started)
        outcomes[f"{how} {'refused' if noticed else 'read'}"] += 1
    told = dict(sorted(outcomes.items()))
    print(f"{name}: {NUMBER} mutants, 0 raw exceptions, {told}, slowest {slowest:.1f} s")


def refuses(reader: Callable[[], Any], place: Path, what: tuple[int, str]) -> bool:
    """Whether it says that something is wrong: in a sentence that names a file of the run."""
    try:
        reader()
    except SlotkitError as fault:
        if str(place) in str(fault) or str(fault).startswith((ANOTHER_INIT, *OF_THE_RUN)):
            return True
        raise AssertionError(what) from fault
    except EnoughError:
        return False
    except Exception as fault:
        raise AssertionError(what) from fault
    return False
