"""`slotkit sweep` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import invoke, refuse
from slotkit.cli.sweep_progress import _Lines

from slotkit.config import Config
from slotkit.runs.lock import locked
from slotkit.sweeps import run as driver
from slotkit.sweeps.manifest import MANIFEST

TINY = (
    *("--epochs", "1", "--set", "training.limit_batches=8", "--set", "data.validation=0.1"),
    *("--device", "cpu", "--executor", "inline"),
)
FILE = """
settings.data.validation = 0.1
settings.training = { epochs = 1, limit_batches = 8, device = "cpu" }
seeds = [0, 1]
grid.k = [2, 4]
"""


def test_a_sweep_from_a_file(one_thread: None) -> None:
    Path("lenet.toml").write_text(FILE)
    done = invoke("sweep", "lenet.toml", "--executor", "inline")
    assert done.exit_code == 0
    lines = done.stderr.splitlines()
    assert lines[0] == "4 runs, 4 of them left to train."
    names = [path.name for path in sorted(Path("runs/lenet").iterdir()) if path.is_dir()]
    assert lines[1] == f"{names[0]}: k 2, seed 0"
    assert lines[2].startswith(f"[1/4] {names[0]}: test ")
    assert len(lines) == 9
    assert done.stdout.splitlines()[0].split() == ["k", "reading", "test", "n"]
    for line, k in zip(done.stdout.splitlines()[1:3], "24", strict=True):
        assert line.split()[:2] == [k, "greedy"]
        assert line.endswith("2 of 2")
        assert " ± " in line
    assert done.stdout.splitlines()[3] == f"sweep: {Path('runs/lenet')}"
    # Again: nothing is trained, and the same is said. The file in another place is the same sweep.
    again = invoke("sweep", "run", "lenet.toml", "--executor", "inline")
    assert again.stderr == "4 runs, 0 of them left to train.\n"
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    "how", [("--recipe", "authors-lenet-greedy"), ("--grid", "recipe=authors-lenet-greedy")]
)
def test_a_file_of_settings_lies_over_a_recipe_also_where_it_says_the_default(how: tuple[str, str]) -> None:
    Path("my.toml").write_text("epochs = 30\n", encoding="utf-8")
    asked = ("--config", "my.toml", "--dataset", "digits", "--seeds", "0", "--dry-run", "--json")
    (run,) = json.loads(invoke("sweep", *how, *asked).stdout)["runs"]
    assert run["epochs wanted"] == Config().training.epochs == 30


def test_commands_to_type_next_hold_for_a_name_with_a_space(one_thread: None) -> None:
    done = invoke("sweep", "--seeds", "0", *TINY, "--name", "my sweep")
    assert "slotkit report 'runs/my sweep'" in done.stdout
    (name,) = [path.name for path in Path("runs/my sweep").iterdir() if path.is_dir()]
    told = invoke("train", "--resume", f"runs/my sweep/{name}").stdout
    assert f"next: slotkit evaluate 'runs/my sweep/{name}'\n" in told
    assert f"slotkit train --config 'runs/my sweep/{name}/config.toml' --k 64" in told
    listed = invoke("runs", "list").output
    assert "`slotkit sweep status 'my sweep'`, `slotkit runs list 'my sweep'`" in listed


def test_a_mask_may_be_named_by_a_short_path(one_thread: None) -> None:
    assert invoke("masks", "make", "--method", "magnitude", "--out", "x.mask").exit_code == 0
    learned = ("--set", "method=learned", "--set", "slots.k=1", "--set", "mask=x.mask", "--seeds", "0")
    told = json.loads(invoke("sweep", *learned, *TINY, "--json").stdout)
    assert [(row["n"], row["wanted"], row["left out"]) for row in told["table"]] == [(1, 1, 0)]


def test_a_sweep_under_a_mask_that_has_changed_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    made = ("masks", "make", "--method", "random", "--out", "x.mask")
    invoke(*made)
    asked = ("sweep", "--set", "method=learned", "--set", "slots.k=1", "--set", "mask=x.mask", *TINY)
    assert invoke(*asked, "--seeds", "0").exit_code == 0
    invoke(*made, "--seed", "1")
    for more in ((), ("--dry-run",)):
        told = refuse(monkeypatch, capsys, *asked, "--seeds", "0,1", *more)
        assert (
            f"was trained under another mask than {Path('x.mask').resolve()} has now. Choose another" in told
        )
    invoke(*made)
    assert "2 of 2" in invoke(*asked, "--seeds", "0,1").stdout


def test_a_sweep_from_options_and_its_status(one_thread: None) -> None:
    done = invoke("sweep", "--grid", "k=2,4", *TINY, "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["sweep"] == str(Path("runs/sweep-k"))
    assert [(row["k"], row["reading"], row["n"], row["wanted"]) for row in told["table"]] == [
        (2, "greedy", 1, 1),
        (4, "greedy", 1, 1),
    ]
    assert told["table"][0]["accuracies"] == [told["table"][0]["mean"]]
    seen = invoke("sweep", "status", "sweep-k")
    assert seen.stdout.splitlines()[0] == "2 runs: 2 finished. No process trains it now."
    assert seen.stdout.splitlines()[1].split() == ["run", "status", "epochs", "validation", "seconds", "GB"]
    assert {line.split()[2] for line in seen.stdout.splitlines()[2:4]} == {"1/1"}
    same = json.loads(invoke("sweep", "status", "sweep-k", "--json").stdout)
    assert same == told
    with locked(Path("runs/sweep-k"), "sweep"):
        assert "A process trains it now." in invoke("sweep", "status", "sweep-k").stdout


def test_a_run_that_is_waited_for_is_told_once() -> None:
    said: list[str] = []
    _Lines(said.append)(driver.Waits("key", "k2-s0"))
    assert said == ["k2-s0 waits: another process trains it. It goes on when that has ended."]


def test_a_run_that_fails_is_told_and_the_exit_code_says_so() -> None:
    done = invoke("sweep", "--grid", "k=2", "--dataset", "imagefolder:no", "--retries", "1", *TINY)
    assert done.exit_code == 1
    assert "is tried again: " in done.stderr
    assert "[1/1] " in done.stderr
    seen = invoke("sweep", "status", "sweep-k").stdout
    assert seen.startswith("1 run: 1 failed.")
    assert seen.count(" failed at ") == 2
    assert "imagefolder" in seen


def test_a_damaged_run_is_given_up_and_the_others_are_trained(one_thread: None) -> None:
    invoke("sweep", "--grid", "k=2", *TINY, "--name", "s")
    (first,) = (path for path in Path("runs/s").iterdir() if path.is_dir())
    (first / "summary.json").write_text("nothing")
    done = invoke("sweep", "--grid", "k=2,4", *TINY, "--name", "s")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert lines[1] == "2 runs, 2 of them left to train."
    assert lines[2].startswith(f"[1/2] {first.name}: failed: {first / 'summary.json'} can't be read")
    assert lines[4].startswith("[2/2] k4-")
    assert (first / "summary.json").read_text() == "nothing"
    told = done.stdout.splitlines()
    assert told[1].split() == ["2", "-", "1", "left", "out", "0", "of", "1"]
    assert told[2].split()[:2] == ["4", "greedy"]
    assert told[3].startswith(f"{first.name} is left out (damaged): ")
    assert invoke("sweep", "status", "s").exit_code == 0


@pytest.mark.parametrize(("fault", "code"), [(KeyboardInterrupt, 130), (driver.StoppedError, 143)])
def test_a_sweep_that_is_stopped_says_how_to_go_on(
    fault: type[BaseException], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: object) -> None:
        raise fault

    monkeypatch.setattr(driver._Driver, "train", stop)
    done = invoke("sweep", "--grid", "k=2,4", *TINY)
    assert done.exit_code == code
    assert "The same command goes on from there; `slotkit sweep status runs/sweep-k`" in done.stderr


def test_a_file_that_was_changed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver._Driver, "train", lambda *given: None)
    Path("lenet.toml").write_text(FILE)
    invoke("sweep", "lenet.toml")
    Path("lenet.toml").write_text(FILE.replace("[2, 4]", "[2, 4, 8]"))
    more = invoke("sweep", "lenet.toml")
    assert "lenet.toml asks for 2 more runs than runs/lenet had." in more.stderr
    Path("lenet.toml").write_text(FILE.replace("[2, 4]", "[2, 8]"))
    left = invoke("sweep", "lenet.toml", "--changed")
    assert "2 of the runs of before, for which lenet.toml does not ask any more." in left.stderr
    assert "2 runs of before are left out" in invoke("sweep", "status", "lenet").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("no.toml",), "There is no file no.toml. Give a FILE.toml, or --grid with what is to be varied"),
        (("--json",), "A sweep needs a FILE.toml, or --grid (or --seeds) with what is to be varied."),
        (("lenet.toml", "--grid", "k=2"), "--grid can't go with lenet.toml: write it there."),
        (("lenet.toml", "--recipe", "x"), "--recipe can't go with lenet.toml: write it there."),
        (("--grid", "k=2", "--recipe", "x"), "There is no recipe 'x'."),
        (("--grid", "k=2", "--seeds", "0,0"), "--seeds 0,0 has a seed twice: the runs would be equal."),
        (
            ("--grid", "k=2", "--set", "slots.k=4"),
            "slots.k is varied by --grid and set by --set slots.k too.",
        ),
        (
            ("--grid", "k=2", "--executor", "slurm"),
            "There is no executor 'slurm'. There are local, ray, inline.",
        ),
        (("--grid", "k=2", "--gpus", "1"), "--gpus says nothing to the executor local."),
        (("--grid", "k=2", "--jobs", "0"), "'--jobs': Input should be greater than or equal to 1"),
        (("--grid", "k=2", "--threads", "-1"), "'--threads': Input should be greater than or equal to 1"),
        (("lenet.toml", "--name", "damaged"), "sweep.json can't be read: Expecting value"),
        (("status", "lenet"), "There is no sweep 'lenet', neither as a path nor in runs"),
    ],
)
def test_what_can_be_put_right_is_one_sentence(
    arguments: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("lenet.toml").write_text(FILE)
    Path("runs/damaged").mkdir(parents=True)
    Path("runs/damaged", MANIFEST).write_text("nothing")
    assert sentence in refuse(monkeypatch, capsys, "sweep", *arguments)
