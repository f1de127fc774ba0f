"""What `slotkit sweep --dry-run` and `slotkit sweep status` show."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import invoke, refuse
from rich.progress import ProgressColumn
from slotkit.cli.output import duration
from slotkit.cli.sweep_progress import _Bars, _Lines, sweep_progress

from slotkit.config import Overrides, resolve
from slotkit.runs.folder import RunFolder
from slotkit.runs.lock import locked
from slotkit.sweeps import plan, spec
from slotkit.sweeps.contract import Progress
from slotkit.sweeps.estimate import Left
from slotkit.sweeps.run import Begun, Done, Started
from slotkit.sweeps.sweep import Sweep, start

COMMAND = (*("sweep", "--grid", "k=2,4", "--seeds", "0,1", "--epochs", "10"), *("--device", "cpu"))


def sweep() -> Sweep:
    """The sweep of COMMAND: a finished run, one that was stopped, and two that have not begun."""
    given = {"training.epochs": 10, "training.device": "cpu"}
    planned = plan.plan(spec.from_options(["k=2,4"], seeds=[0, 1], upper=[Overrides("--epochs", given)]))
    made, _ = start(Path("runs/sweep-k"), planned, "the options", command="slotkit sweep --grid k=2,4")
    test = {"best": {"greedy": {"accuracy": 0.9}}}
    told: list[dict[str, Any]] = [
        {"status": "finished", "epochs": 10, "seconds": 5000, "test": test},
        {"status": "stopped", "epochs": 5, "seconds": 2500},
    ]
    for run, one, summary in zip(made.runs(), planned, told, strict=False):
        folder = RunFolder.create(made.path, run.entry.name, resolve(one.layers), {})
        folder.write_summary(summary | {"seconds": float(summary["seconds"])})
    return made


def names() -> list[str]:
    return [run.entry.name for run in Sweep.open(Path("runs/sweep-k")).runs()]


def disk() -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


def test_a_dry_run_shows_the_runs_and_writes_nothing() -> None:
    done = invoke(*COMMAND, "--dry-run")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["run", "what", "epochs", "status"]
    assert [line.split("  ")[1].strip() for line in lines[1:5]] == [
        *("k 2, seed 0", "k 4, seed 0", "k 2, seed 1", "k 4, seed 1")
    ]
    assert {line.split()[-2] for line in lines[1:5]} == {"0/10"}
    assert lines[5:] == ["4 runs: 4 new. Nothing was trained or written.", f"sweep: {Path('runs/sweep-k')}"]
    assert disk() == {}


def test_a_dry_run_of_a_sweep_that_has_begun_tells_what_is_left() -> None:
    sweep()
    before = disk()
    done = invoke(*COMMAND, "--jobs", "2", "--dry-run")
    lines = done.stdout.splitlines()
    assert [line.split("  ")[-1].strip() for line in lines[1:5]] == [
        "finished",
        "to be continued",
        "new",
        "new",
    ]
    assert lines[5:8] == [
        "4 runs: 1 finished, 1 to be continued, 2 new. Nothing was trained or written.",
        "About 3 h 28 min of training are left: about 1 h 44 min, 2 runs at a time.",
        f"sweep: {Path('runs/sweep-k')}",
    ]
    told = json.loads(invoke(*COMMAND, "--jobs", "2", "--dry-run", "--json").stdout)
    assert told["left"] == {
        **{"runs": 3, "runs with an estimate": 3},
        **{"seconds of training": 12500.0, "at a time": 2, "seconds": 6250.0},
    }
    assert [(run["varied"], run["seed"], run["status"]) for run in told["runs"]][:2] == [
        ({"k": 2}, 0, "finished"),
        ({"k": 4}, 0, "stopped"),
    ]
    assert disk() == before


def test_a_dry_run_tells_what_is_new_and_what_is_left_out() -> None:
    sweep()
    before = disk()
    more = invoke("sweep", "--grid", "k=2,4,8", *COMMAND[3:], "--dry-run")
    assert "the command line asks for 2 more runs than runs/sweep-k had." in more.stderr
    less = invoke("sweep", "--grid", "k=2", *COMMAND[3:], "--dry-run", "--changed")
    assert "2 of the runs of before, for which the command line does not ask any more." in less.stderr
    assert disk() == before
    path = Path("runs/sweep-k", names()[0], "summary.json")
    path.write_text("nothing")
    damaged = invoke(*COMMAND, "--dry-run").stdout
    assert "4 runs: 1 damaged, 1 to be continued, 2 new." in damaged
    assert f"{names()[0]} is left out (damaged): {path} can't be read" in damaged
    assert disk() == before | {str(path): b"nothing"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--grid", "k=2", "--name", "sweep-k"), "the command line does not ask for 2 of the 4 runs of"),
        (("--grid", "k=2,2"), "--grid has a value twice for slots.k"),
        (("--grid", "k=2,3", "--set", "slots.symmetric=true", "--name", "new"), "k is 3, but symmetric"),
        (("--grid", "k=2,4", "--executor", "slurm"), "There is no executor 'slurm'"),
        (("--grid", "k=2,4", "--gpus", "1"), "--gpus says nothing to the executor local."),
        (("--grid", "k=2,4", "--name", "other"), "is there already and no sweep"),
        (("--grid", "k=2,4", "--name", "damaged"), "sweep.json can't be read"),
        (("--grid", "k=2,4", "--recipe", "x"), "There is no recipe 'x'."),
    ],
)
def test_a_dry_run_refuses_what_the_sweep_refuses(
    arguments: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep()
    Path("runs/other").mkdir()
    Path("runs/other/file").write_text("")
    Path("runs/damaged").mkdir()
    Path("runs/damaged/sweep.json").write_text("nothing")
    before = disk()
    command = ("sweep", *arguments, *COMMAND[3:])
    told = refuse(monkeypatch, capsys, *command, "--dry-run")
    assert sentence in told
    assert disk() == before
    assert refuse(monkeypatch, capsys, *command) == told


def test_a_dry_run_of_a_sweep_in_training_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(sweep().path, "sweep"):
        told = refuse(monkeypatch, capsys, *COMMAND, "--dry-run")
    assert "The sweep sweep-k is being trained by another process. Wait for it, or stop it first." in told


def test_status_tells_the_time_that_is_left_and_what_is_to_come() -> None:
    made = sweep()
    lines = invoke("sweep", "status", "sweep-k").stdout.splitlines()
    assert "About 3 h 28 min of training are left." in lines
    assert [line.split() for line in lines if line[:3] in ("2  ", "4  ")] == [
        ["2", "greedy", "90.00", "%", "1", "of", "2"],
        ["4", "-", "-", "0", "of", "2"],
    ]
    told = json.loads(invoke("sweep", "status", "sweep-k", "--json").stdout)
    assert (told["left"]["runs"], told["left"]["seconds"]) == (3, None)
    _, stopped, third, _ = made.runs()
    for run in (stopped, third):
        run.folder.path.mkdir(exist_ok=True)
        run.folder.write_config(resolve([Overrides("made", dict(run.entry.settings))]), {})
        run.folder.write_summary({"status": "running", "epochs": 5, "seconds": 2500.0})
    with locked(stopped.folder.path), locked(third.folder.path):
        lines = invoke("sweep", "status", "sweep-k").stdout.splitlines()
    assert lines[0].startswith("4 runs: 1 finished, 2 running, 1 waiting.")
    assert "About 2 h 47 min of training are left: about 1 h 23 min, 2 runs at a time." in lines


def test_status_tells_no_time_where_nothing_allows_to() -> None:
    sweep()
    given = {"training.device": "cpu"}
    asked = spec.from_options(
        ["epochs=10,11", "training.batch_size=128,64"], upper=[Overrides("--device", given)]
    )
    made, _ = start(Path("runs/sweep-k"), plan.plan(asked), "the options", changed=True)
    assert "of training" not in invoke("sweep", "status", "sweep-k").stdout
    run = next(made.runs())
    folder = RunFolder.create(
        made.path, run.entry.name, resolve([Overrides("", dict(run.entry.settings))]), {}
    )
    folder.write_summary({"status": "stopped", "epochs": 5, "seconds": 50.0})
    lines = invoke("sweep", "status", "sweep-k").stdout.splitlines()
    assert "About 3 min of training are left." in lines
    assert "That is without 2 of the 4 runs: no run of their kind has told its time yet." in lines


def test_status_names_a_damaged_run_and_shows_the_others() -> None:
    sweep()
    first, stopped, *_ = names()
    Path("runs/sweep-k", stopped, "metrics.jsonl").write_text("nothing\n")
    done = invoke("sweep", "status", "sweep-k")
    assert done.exit_code == 0
    assert done.stdout.startswith("4 runs: 1 finished, 1 damaged, 2 waiting. ")
    row = next(line for line in done.stdout.splitlines() if line.startswith(f"{stopped}  "))
    assert row.split() == [stopped, "damaged", "-/10", "-", "-", "-"]  # nothing is known of it
    path = Path("runs/sweep-k", stopped)
    assert f"{stopped} is left out (damaged): {path / 'metrics.jsonl'} can't be read in line 1" in done.stdout
    assert "1 left out" in next(line for line in done.stdout.splitlines() if line.startswith("4  "))
    assert "(trains the 2 that are left)" in done.stdout
    assert "damaged" in next(
        line for line in invoke("runs", "list", "sweep-k").stdout.splitlines() if line.startswith(stopped)
    )
    told = json.loads(invoke("sweep", "status", "sweep-k", "--json").stdout)
    assert [run["status"] for run in told["runs"]] == ["finished", "damaged", "waiting", "waiting"]
    assert told["runs"][1]["fault"].endswith(
        f"Or move runs/sweep-k/{stopped} elsewhere, to train that run anew."
    )
    assert [(row["n"], row["left out"]) for row in told["table"]] == [(1, 0), (0, 1)]
    assert first == told["table"][0]["runs"][0]


def test_progress_tells_the_time_that_is_left_where_something_allows_to() -> None:
    said: list[str] = []
    lines = _Lines(said.append)
    run = next(sweep().runs())
    done = Done(run.key, "name", "failed", "It failed.", run)
    lines(Begun(4, 0, 40, 40))
    for left in (
        Left(3, 0, 0.0, 0.0, 2),
        Left(3, 3, 3000.0, 600.0, 2),
        Left(3, 2, 90.0, 50.0, 2),
    ):
        lines(left)
        lines(done)
    assert said[1:] == [
        "[1/4] name: failed: It failed.",
        "[2/4] name: failed: It failed.; about 25 min left",
        "[3/4] name: failed: It failed.; about 50 s left for 2 of 3 runs",
    ]


def test_on_a_terminal_the_bar_of_all_runs_has_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(sweep().runs())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with sweep_progress() as report:
        assert isinstance(report, _Bars)
        report(Begun(4, 0, 40, 40))
        report(Started(run.key, "name", "k 2", 10))
        report(Progress(run.key, 5, 10, 0.5, 0.9))
        report(Left(4, 4, 3000.0, 600.0, 2))
        of_all, of_one = report.bars.tasks
        assert (of_all.fields["told"], of_all.completed) == ("0/4, about 25 min left", 5)
        assert of_one.fields["told"] == "epoch 5/10, best 90.00 %"
        last = report.bars.columns[-1]
        assert isinstance(last, ProgressColumn)
        assert str(last.render(of_all)) == ""
        assert str(last.render(of_one)) != ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *(
            (0.2, "1 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3500, "58 min"),
            (3599, "1 h"),
            (3600, "1 h"),
            (7800, "2 h 10 min"),
        ),
        *((170_000, "47 h 13 min"), (172_800, "2 days"), (180_000, "2 days 2 h")),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
