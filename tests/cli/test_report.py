"""`slotkit report` and `slotkit runs list` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import made_reports as made
import pytest
from commands import invoke, refuse

from slotkit.config import Overrides, resolve


def test_a_report_of_a_sweep() -> None:
    made.lenet(Path("runs"))
    done = invoke("report", "lenet", "--no-baseline")
    assert done.exit_code == 0
    assert done.stdout == "runs/lenet/report.html\n"
    html = Path("runs/lenet/report.html").read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    told = json.loads(invoke("report", "lenet", "--no-baseline", "--out", "r.html", "--json").stdout)
    assert told == {"report": "r.html"}


def test_what_is_no_run_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "There is no run 'x', neither as a path nor in runs" in refuse(monkeypatch, capsys, "report", "x")


@pytest.fixture
def runs() -> None:
    """Four runs that differ in what becomes of the other parameters; one of them has another K."""
    for name, others, k, value in (
        ("a", "frozen", 8, 0.91),
        ("b", "trained", 8, 0.93),
        ("c", "frozen", 2, 0.90),
        ("d", "trained", 8, 0.92),
    ):
        seeds = dict.fromkeys(("seeds.reels", "seeds.data", "seeds.training"), 1 if name == "d" else 0)
        values = {"slots.others": others, "slots.k": k, "data.dir": name, **seeds}
        made.finished(Path("runs"), name, resolve([Overrides("--set", values)]), {"greedy": value})


def listed(*arguments: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(invoke("runs", "list", *arguments, "--json").stdout)
    return rows


def test_runs_that_look_alike_are_told_apart(runs: None) -> None:
    assert [(row["run"], row["differs"]) for row in listed()] == [
        ("a", {"others": "frozen", "seed": 0}),
        ("b", {"others": "trained", "seed": 0}),
        ("c", {"others": "frozen", "seed": 0}),
        ("d", {"others": "trained", "seed": 1}),
    ]
    lines = invoke("runs", "list").stdout.splitlines()
    assert lines[0].split() == [
        *("run", "model", "dataset", "method", "status", "epochs", "validation", "test", "differs"),
    ]
    assert lines[2].endswith("93.00 %  others trained, seed 0")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--sort", "test"), "cadb"),
        (("--sort", "-test"), "bdac"),
        (("--sort", "k"), "cabd"),
        (("--sort", "-run"), "dcba"),
        (("--where", "k=8"), "abd"),
        (("--where", "k=8", "--where", "others=frozen"), "a"),
        (("--where", "seed=1"), "d"),
        (("--where", "selection=GS", "--sort", "-validation"), "abcd"),
        (("--where", "status=failed"), ""),
        (("--where", "training.lr=0.1"), "abcd"),
    ],
)
def test_runs_are_sorted_and_filtered(runs: None, arguments: tuple[str, ...], names: str) -> None:
    assert "".join(str(row["run"]) for row in listed(*arguments)) == names


def test_what_is_not_finished_comes_last_however_it_is_sorted(runs: None) -> None:
    made.finished(Path("runs"), "e", resolve([]), {}, status="stopped")
    for sort in ("test", "-test"):
        assert listed("--sort", sort)[-1]["run"] == "e"
    assert "There are no runs with k=3 in runs." in invoke("runs", "list", "--where", "k=3").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--sort", "colour"),
            "colour (from --sort colour) is neither a setting, such as k or training.lr, nor",
        ),
        (("--where", "k"), "--where k is not of the form a=v, such as k=8 or status=finished."),
        (("--where", "kk=2"), "kk (from --where kk=2) is neither a setting"),
        (("nothing",), "There is no sweep 'nothing', neither as a path nor in runs"),
    ],
)
def test_what_can_be_put_right_is_one_sentence(
    runs: None,
    arguments: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sentence in refuse(monkeypatch, capsys, "runs", "list", *arguments)


def test_sweeps_are_listed_and_their_runs_too(runs: None) -> None:
    made.lenet(Path("runs"))
    assert invoke("runs", "list").stdout.splitlines()[-1] == (
        "sweep lenet: `slotkit sweep status lenet`, `slotkit runs list lenet`"
    )
    assert len(listed("lenet")) == 18
    assert [row["method"] for row in listed("lenet", "--where", "method=learned")] == ["learned"] * 2
    # Runs that the sweep does not ask for any more stay on the disk and are none of it.
    kept = made.planned("authors-lenet-greedy", slots__k=2)
    made.start(Path("runs/lenet"), kept, "lenet.toml", changed=True)
    assert [row["method"] for row in listed("lenet")] == ["K=2 greedy"] * 2
    told = invoke("runs", "list", "lenet").stdout.splitlines()
    assert told[-1] == "16 runs of before are not listed: the sweep does not ask for them any more."
