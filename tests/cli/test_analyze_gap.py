"""`slotkit analyze gap` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import invoke, refuse

from slotkit.training import experiment
from slotkit.training.loop import Event

TINY = (
    *("analyze", "gap", "--dataset", "digits", "--k", "2", "--factors", "option bound", "--epochs", "1"),
    *("--limit-batches", "8", "--set", "data.validation=0.1", "--set", "training.device=cpu"),
    *("--executor", "inline"),
)
SWEEP = Path("runs") / "gap-lenet-digits-k2-greedy"


def test_a_sweep_from_one_command(one_thread: None) -> None:
    done = invoke(*TINY, "--seeds", "0")
    assert done.exit_code == 0
    assert done.stderr.splitlines()[:2] == [
        "1 factor in 2 cells (full factorial), 1 seed: 2 runs of 1 epoch.",
        "2 runs, 2 of them left to train.",
    ]
    assert "cell-02-seed-0: option bound √(6/(in+out)), seed 0" in done.stderr
    assert done.stdout.startswith("lenet on digits, K = 2, 1 epoch: all 2 combinations of 1 setting, 1 seed.")
    for ending in ("csv", "png", "svg", "txt"):
        assert (SWEEP / "analyses" / f"gap.{ending}").stat().st_size > 0
    # Again, and by the name of the sweep: nothing is trained, and the same is said.
    again = invoke(*TINY, "--seeds", "0")
    assert "0 of them left to train" in again.stderr
    assert again.stdout == done.stdout
    named = invoke("analyze", "gap", SWEEP.name, "--out", "here", "--json")
    told = json.loads(named.stdout)
    assert named.stderr == ""
    assert told["summary"] == done.stdout.splitlines()[:-4]
    assert told["runs"] == [str(SWEEP)]
    assert told["files"]["csv"] == "here/gap.csv"


def test_two_seeds_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*given: object) -> Event:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "fit", interrupt)
    done = invoke(*TINY, "--name", "mine")
    assert done.exit_code == 130
    assert "2 seeds: 4 runs" in done.stderr
    assert "4 of them left" in done.stderr
    assert (
        "Stopped. The same command goes on from there; `slotkit analyze gap runs/mine` analyses"
        in done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("x", "--epochs", "3"), "x is analysed as it is, so options of training can't go with it."),
        (("x",), "There is no sweep 'x', neither as a path nor in runs"),
        (("--seeds", "1,1"), "--seeds 1,1 has a seed twice"),
        (("--seeds", "a"), "--seeds a is not a list of integers such as 0,1,2, or a range such as 0-4."),
        (("--factors", "init"), "There is no factor 'init' here."),
        (("--set", "training.rate=1"), "training.rate (from --set training.rate) is not a setting."),
    ],
)
def test_what_can_be_put_right_is_one_sentence(
    arguments: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sentence in refuse(monkeypatch, capsys, "analyze", "gap", *arguments)
    assert not Path("runs").exists()
