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
from slotkit.errors import SlotkitError
from slotkit.recording.replay import replay
from slotkit.recording.trace import Trace
from slotkit.runs import folder as folders
from slotkit.runs.folder import RunFolder
from slotkit.training import prepare as preparing
from slotkit.training.experiment import evaluate, resume, run
from slotkit.training.loop import Event, Step

pytestmark = pytest.mark.usefixtures("one_thread", "narrow_networks")

# Of each kind of file. `nox -s fuzz` has 2,000.
NUMBER = int(os.environ.get("SLOTKIT_MUTANTS", "60"))

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


class EnoughError(Exception):
    """A forged run may have any number of steps."""


def some_steps(first: int) -> Callable[[Event], None]:
    def report(event: Event) -> None:
        if isinstance(event, Step) and event.step > first + 3:
            raise EnoughError

    return report


def use(folder: RunFolder, last: int) -> list[Callable[[], Any]]:
    """Everything that reads a run."""
    return [
        lambda: commands._row(folder),
        lambda: (folder.tables(), list(folder.metrics()), folder.branches()),
        lambda: evaluate(folder, "best", "validation"),
        lambda: evaluate(folder, "last", "validation"),
        lambda: [list(Trace(folder.path / "trace").chunks()), Trace(folder.path / "trace").last_step()],
        lambda: replay(folder, last),
        lambda: read_any(folder, events=True),
        lambda: resume(folder, [], some_steps(last)),
    ]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was killed in its second epoch, with a chunk of its trace."""
    with pytest.MonkeyPatch.context() as patch:
        from slotkit.models import conv

        patch.setattr(conv, "WIDTHS", (4, 6, 8))
        patch.setattr(conv, "HIDDEN", 16)
        seen = 0

        def stop(event: Event) -> None:
            nonlocal seen
            seen += isinstance(event, Step)
            if seen == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(settings(), tmp_path_factory.mktemp("killed"), "run", stop)
        folder = RunFolder(next(tmp_path_factory.getbasetemp().glob("killed*/run")))
        # What a run that is extended has: a chunk that is going on.
        whole = run(settings(), tmp_path_factory.mktemp("whole"), "run")
        shutil.copy(whole.path / FILES["chunk"], folder.path / FILES["chunk"])
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: dict[Any, Any] = {}
    whole = preparing.load
    monkeypatch.setattr(preparing, "load", lambda *given: loaded.setdefault(given, None) or whole(*given))
    monkeypatch.setattr(files, "disk", FailingDisk())
    monkeypatch.setattr(folders, "_git_commit", lambda: "none")


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_are_refused_in_one_sentence(kind: str, killed: RunFolder, tmp_path: Path) -> None:
    whole = (killed.path / FILES[kind]).read_bytes()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    forged = "checkpoint" if kind == "best" else kind
    for number, (how, data) in enumerate(mutants(forged, whole, NUMBER, seed=7)):
        place = tmp_path / "run"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(killed.path, place)
        path = place / FILES[kind]
        path.write_bytes(data)
        started = time.process_time()
        noticed = False
        for reader in use(RunFolder(place), 3):
            try:
                reader()
            except SlotkitError as fault:
                noticed, told = True, str(fault)
                if not (str(place) in told or told.startswith(ANOTHER_INIT)):
                    raise AssertionError((number, how, told)) from fault
            except EnoughError:
                pass
            except Exception as fault:
                raise AssertionError((number, how, data[:300])) from fault
        slowest = max(slowest, time.process_time() - started)
        outcomes[f"{how} {'refused' if noticed else 'read'}"] += 1
    print(
        f"{kind}: {NUMBER} mutants, 0 raw exceptions, {dict(sorted(outcomes.items()))}, slowest {slowest:.1f} s"
    )
    assert slowest < 5
