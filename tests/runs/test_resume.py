"""Runs that are killed, stopped and resumed: the same bits as runs that were never stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from commands import refuse  # type: ignore[import-not-found]
from forks import COMMAND, Forks  # type: ignore[import-not-found]

from slotkit.config import Overrides, Resolved, resolve
from slotkit.errors import SlotkitError
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import resume, run
from slotkit.training.loop import Epoch, Event, Note, Step

# What clocks, this machine and the number of interruptions decide.
NOT_BITS = ("config.toml", "log.txt", "times.jsonl", "summary.json", "lock")


@pytest.fixture(autouse=True)
def in_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the checkout, whose slotkit/ a process would import in the place of the installed one."""
    monkeypatch.chdir(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run whose bits training decides; temporary files must not be left."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in NOT_BITS}


def assert_same_run(one: Path, two: Path) -> None:
    first, second = contents(one), contents(two)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    for summary in summaries:
        summary.pop("seconds"), summary.pop("name")
    assert summaries[0] == summaries[1]
    assert summaries[0]["status"] == "finished"


def settings(**values: Any) -> Resolved:
    given = {
        "training.epochs": 3,
        "training.device": "cpu",
        "training.batch_size": 64,
        "training.log_every": 4,
        "training.schedule": "cosine",
        "slots.k": 4,
        "recording.trace": "full",
        "recording.every": 5,
        "recording.checkpoint_minutes": 1e-9,
    }
    return resolve(
        [Overrides("test", given | {path.replace("__", "."): value for path, value in values.items()})]
    )


# Of each kind, each killed twice. Five make the ten kills of the issue: SLOTKIT_RUNS_KILLED=5.
RUNS_KILLED = int(os.environ.get("SLOTKIT_RUNS_KILLED", "1"))


class KilledError(Exception):
    """The process ends here, as far as the run can tell."""


def killed_at(events: int) -> Any:
    seen = 0

    def report(event: Event) -> None:
        nonlocal seen
        seen += 1
        if seen == events:
            raise KilledError

    return report


KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "probabilistic": {"slots__selection": "PS", "recording__trace": "summary", "evaluation__ps": "last"},
    "probabilistic-full": {"slots__selection": "PS", "training__lr": 20.0},
    "adam": {"training__optimizer": "adam", "training__lr": 0.01},
    "dense": {"slots__form": "dense", "recording__trace": "off", "training__weight_decay": 1e-4},
    "dense-selected": {"slots__form": "dense", "slots__update": "selected", "recording__trace": "off"},
    "dense-probabilistic": {"slots__form": "dense", "slots__selection": "PS", "recording__trace": "off"},
    "learned": {"method": "learned", "recording__trace": "off"},
    "learned-adam": {"method": "learned", "training__optimizer": "adam", "recording__trace": "off"},
    "others": {"slots__others": "trained", "model__options__bias": True},
}


# What "dense" and "probabilistic" hold together.
LONG = {"dense-probabilistic"}
QUICK = [
    pytest.param(kind, False, id=kind, marks=[pytest.mark.long] if kind in LONG else []) for kind in KINDS
]
EVERY_MOMENT = [pytest.param(kind, True, id=f"{kind}-every", marks=pytest.mark.long) for kind in KINDS]


@pytest.mark.parametrize(("kind", "every"), [*QUICK, *EVERY_MOMENT])
def test_resumed_at_any_event_it_ends_with_the_same_bits(kind: str, every: bool, tmp_path: Path) -> None:
    """At the first event, within an epoch, at its end, after it, and twice."""
    # Each step is one commit, so that few are enough: one kind has whole epochs, the others nine steps.
    resolved = settings(**{"training__limit_batches": None if kind == "greedy" else 9} | KINDS[kind])
    events: list[Event] = []
    whole = run(resolved, tmp_path, "whole", events.append)
    ends = [place for place, event in enumerate(events, 1) if isinstance(event, Epoch)]
    moments = [1, 2, ends[0] - 1, ends[0], ends[0] + 1, ends[1] - 7, ends[2]]
    # Each kind in the middle of an epoch, twice, and at one more moment, which differs from kind to kind.
    few = [ends[0] - 1, moments[list(KINDS).index(kind) % len(moments)]]
    for moment in moments if every else sorted(set(few)):
        name = f"killed-{moment}"
        with pytest.raises(KilledError):
            run(resolved, tmp_path, name, killed_at(moment))
        folder = RunFolder(tmp_path / name)
        if moment == ends[0] - 1:
            with pytest.raises(KilledError):
                resume(folder, [], killed_at(9))
        resume(folder, [])
        assert_same_run(whole.path, folder.path)


@pytest.mark.parametrize("kind", ["greedy", "probabilistic"])
def test_killed_processes(kind: str, tmp_path: Path, forks: Forks) -> None:
    """A real process and SIGKILL, wherever it is: between batches, in a write, in validation."""
    flags = ["--epochs", "8", "--runs-dir", str(tmp_path)]
    for assignment in (
        *("training.batch_size=32", "training.limit_batches=12"),
        *("recording.checkpoint_minutes=1e-9", "recording.every=5"),
    ):
        flags += ["--set", assignment]
    flags += ["--trace", "full", "--selection", "GS" if kind == "greedy" else "PS"]
    command = ["train", *flags, "--name"]
    forks.start(COMMAND, *command, "whole", cwd=tmp_path).checked()
    seconds = json.loads((tmp_path / "whole" / "summary.json").read_text())["seconds"]
    moments, kills = random.Random(kind), 0
    for attempt in range(RUNS_KILLED):
        name = f"killed-{attempt}"
        arguments = [*command, name]
        for said in (f"epoch {moments.randint(1, 4)}/", "epoch "):
            process = forks.start(COMMAND, *arguments, cwd=tmp_path)
            process.until_it_says(said)
            # About half an epoch more: a run that gets more of the cores than `whole` did must not end.
            time.sleep(moments.uniform(0, 0.05 * seconds))
            kills += process.kill() == -signal.SIGKILL
            arguments = ["train", "--resume", name, "--runs-dir", str(tmp_path)]
            if RunFolder(tmp_path / name).status() == "finished":
                break
        if RunFolder(tmp_path / name).status() != "finished":
            assert RunFolder(tmp_path / name).status() == "killed"
            forks.start(COMMAND, *arguments, cwd=tmp_path).checked()
        assert_same_run(tmp_path / "whole", tmp_path / name)
    print(f"{kind}: {kills} kills, {RUNS_KILLED} of {RUNS_KILLED} runs with the same bits")
    assert kills >= RUNS_KILLED


def test_sigterm_saves_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], forks: Forks
) -> None:
    command = ["train", "--runs-dir", str(tmp_path), "--epochs", "100000", "--name", "long"]
    process = forks.start(COMMAND, *command, cwd=tmp_path)
    process.until_it_says("epoch 2/")
    second = refuse(monkeypatch, capsys, "train", "--resume", "long", "--runs-dir", str(tmp_path))
    assert second == (
        "Error: The run long is being trained by another process. Wait for it, or stop it first.\n"
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert f"`slotkit train --resume {tmp_path / 'long'}` goes on from there." in process.err.read_text()
    folder = RunFolder(tmp_path / "long")
    assert folder.status() == "stopped"
    state, about = checkpoint.load(folder.checkpoint("last"))
    assert folder.summary()["reason"] == f"SIGTERM after step {about['step']}"
    assert state["training"]["step"] == about["step"]


def test_more_epochs_extend_a_finished_run(tmp_path: Path) -> None:
    """With a constant learning rate nothing else changes: the same bits as asking for them at once."""
    whole = run(settings(training__schedule="constant", training__epochs=4), tmp_path, "whole")
    short = run(settings(training__schedule="constant", training__epochs=2), tmp_path, "short")
    events: list[Event] = []
    before = {path: path.stat().st_mtime_ns for path in short.path.rglob("*") if path.name != "lock"}
    assert resume(short, [], events.append) is short
    assert events == [Note("The run short is finished. A larger --epochs than its 2 extends it.")]
    assert {path: path.stat().st_mtime_ns for path in short.path.rglob("*") if path.name != "lock"} == before
    resume(short, [Overrides("--epochs", {"training.epochs": 4})])
    assert_same_run(whole.path, short.path)
    assert short.config().training.epochs == 4
    assert short.tables()["origins"]["training.epochs"] == "--epochs"


def test_an_extension_says_what_becomes_of_the_schedule(tmp_path: Path) -> None:
    short = run(settings(training__epochs=2), tmp_path, "short")
    events: list[Event] = []
    resume(short, [Overrides("--epochs", {"training.epochs": 4})], events.append)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes[1] == (
        "The schedule now spans 4 epochs: the next learning rate is 0.05, and would have been 0 in the "
        "run as it was."
    )
    assert next(event.lr for event in events if isinstance(event, Step)) == pytest.approx(0.05)


def test_other_settings_are_refused_with_the_differences(tmp_path: Path) -> None:
    folder = run(settings(training__epochs=1), tmp_path, "run")
    before = (folder.path / "config.toml").read_bytes()
    changes = {"slots.k": 8, "training.lr": 0.3, "training.epochs": 2, "data.augment": "flip"}
    with pytest.raises(SlotkitError) as caught:
        resume(folder, [Overrides("--set", changes)])
    assert str(caught.value) == (
        "A run goes on with its own settings only, and these differ: data.augment was 'none' and is 'flip'; "
        "slots.k was 4 and is 8; training.lr was 0.1 and is 0.3. Leave them out, or start a new run. More "
        "--epochs, --data-dir and the settings of checkpoints may change."
    )
    with pytest.raises(SlotkitError, match=r"training\.epochs \(from --epochs\) is 0"):
        resume(folder, [Overrides("--epochs", {"training.epochs": 0})])
    assert (folder.path / "config.toml").read_bytes() == before


def damage(path: Path) -> bytes:
    damaged = bytearray(path.read_bytes())
    damaged[-100] ^= 1
    path.write_bytes(damaged)
    return bytes(damaged)


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_damaged_checkpoint_is_refused_and_nothing_is_lost(tmp_path: Path, keep_last: int) -> None:
    with pytest.raises(KilledError):
        run(settings(recording__keep_last=keep_last), tmp_path, "run", killed_at(30))
    folder = RunFolder(tmp_path / "run")
    path = folder.checkpoint("last")
    damaged = damage(path)
    earlier = list((folder.path / "earlier").glob("last-*"))
    assert len(earlier) == keep_last - 1
    for other in earlier:
        damage(other)
    kept = {name: (folder.path / name).read_bytes() for name in ("metrics.jsonl", "config.toml")}
    with pytest.raises(SlotkitError, match="is not a whole slotkit checkpoint: its checksum is wrong"):
        resume(folder, [Overrides("--epochs", {"training.epochs": 9})])
    assert {name: (folder.path / name).read_bytes() for name in kept} == kept
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("flag", ["--recipe", "--config", "--name", "--seed", "--seeds", "--show-config"])
def test_flags_that_make_a_new_run_are_refused(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [flag] if flag == "--show-config" else [flag, "1"]
    assert refuse(monkeypatch, capsys, "train", "--resume", "run", *arguments) == (
        f"Error: {flag} can't go with --resume: the run has its own settings. Leave it out, or train a new "
        "run.\n"
    )


def test_kept_epochs(tmp_path: Path) -> None:
    folder = run(settings(recording__keep_epochs=(1, 3)), tmp_path, "run")
    kept = sorted(path.stem for path in (folder.path / "checkpoints").iterdir())
    assert kept == ["best", "epoch-1", "epoch-3", "last"]
    assert checkpoint.load(folder.checkpoint("epoch-1"))[1]["epoch"] == 1


def test_a_killed_run_in_the_dense_form_has_the_same_trace(tmp_path: Path) -> None:
    """Recorded, stopped between two epochs and resumed: the same files as without the stop."""
    dense: dict[str, Any] = {"slots__form": "dense", "slots__update": "selected", "training__epochs": 2}
    whole = run(settings(**dense), tmp_path, "whole")

    def stop(event: Event) -> None:
        if isinstance(event, Epoch):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings(**dense), tmp_path, "parts", stop)
    parts = resume(RunFolder(tmp_path / "parts"), ())
    files = [sorted((folder.path / "trace").iterdir()) for folder in (whole, parts)]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))
