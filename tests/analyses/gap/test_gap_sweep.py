"""Sweeps that `slotkit analyze gap` trains, in earnest on digits: stopped, grown, damaged, shared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slotkit.analyses import gap
from slotkit.analyses.gap import compute
from slotkit.analyses.gap.plan import Plan, plan
from slotkit.analyses.gap.sweep import PLAN, READINGS, Sweep, start, train

from slotkit.config import Overrides
from slotkit.errors import DivergedError, SlotkitError
from slotkit.runs.folder import RunFolder
from slotkit.sweeps import training
from slotkit.sweeps.contract import Progress
from slotkit.sweeps.run import Begun, Done, Started
from slotkit.training import experiment
from slotkit.training.loop import Note

TINY = {"training.limit_batches": 8, "training.device": "cpu", "data.validation": 0.1}


def tiny(**given: Any) -> Plan:
    fixed = {"dataset": "digits", "k": 2, "epochs": 1, "seeds": (0,), "layers": [Overrides("test", TINY)]}
    return plan(**(fixed | {"factors": ["update rule", "option bound"]} | given))


def told(sweep: Sweep) -> list[str]:
    """What training it says."""
    notes: list[str] = []

    def report(event: object) -> None:
        if isinstance(event, Note):
            notes.append(event.text)
        elif isinstance(event, Begun):
            notes.append(f"{event.runs - event.done} left")
        elif isinstance(event, Started):
            notes.append(f"{event.name}: {event.words}")
        elif isinstance(event, Done):
            notes.append(f"{event.name} {event.how} {event.error}".strip())

    train(sweep, report)
    return notes


def written(sweep: Sweep) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sweep.path.rglob("*") if p.name not in (PLAN, "lock")}


def test_a_sweep_is_trained_once_and_grows_by_seeds(tmp_path: Path, one_thread: None) -> None:
    sweep = start(tiny(), tmp_path / "s")
    notes = told(sweep)
    assert notes[:4] == [
        "2 factors in 4 cells (full factorial), 1 seed: 4 runs of 1 epoch.",
        "4 left",
        "cell-01-seed-0: update rule selected, option bound √(2/(in+out)), seed 0",
        "cell-01-seed-0 finished",
    ]
    updates = [folder.config().slots.update for _, _, folder in sweep.runs()]
    assert updates == ["selected", "selected", "all", "all"]
    first = gap.analyze(sweep.path)
    before = written(sweep)
    again = start(tiny(), tmp_path / "s")
    assert told(again)[-1] == "0 left"
    assert written(again) == before
    runs = first.table[first.table["quantity"] == "accuracy"]
    assert list(runs["value"]) == [
        100 * folder.summary()["test"]["best"]["greedy"]["accuracy"] for _, _, folder in sweep.runs()
    ]
    more = start(tiny(seeds=(1,)), tmp_path / "s")
    assert more.plan.seeds == (0, 1)
    assert [line for line in told(more) if "left" in line or "seeds" in line] == [
        "2 factors in 4 cells (full factorial), 2 seeds: 8 runs of 1 epoch.",
        "4 left",
    ]
    assert len(gap.analyze("s", tmp_path).table.query("quantity == 'accuracy'")) == 8


def test_an_interrupted_sweep_goes_on(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "EVERY", 0.0)
    planned = tiny(factors=["option bound"], epochs=3)
    whole = start(planned, tmp_path / "whole")
    told(whole)
    sweep = start(planned, tmp_path / "s")

    def interrupt(event: object) -> None:
        if isinstance(event, Progress) and event.share > 9 / 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(sweep, interrupt)
    first, second = (folder for _, _, folder in sweep.runs())
    assert first.status() == "interrupted"
    assert not second.path.exists()
    second.path.mkdir()  # as a process leaves it that was killed at once
    told(sweep)
    for (_, _, one), (_, _, other) in zip(whole.runs(), sweep.runs(), strict=True):
        assert one.summary()["test"] == other.summary()["test"]
        assert (one.path / "metrics.jsonl").read_text() == (other.path / "metrics.jsonl").read_text()
    assert "Resumed after step 8" in (first.path / "log.txt").read_text()


def test_a_run_that_diverges_is_left_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    def diverge(*given: Any) -> Any:
        raise DivergedError("The training loss became nan in epoch 1.")
        yield

    planned = tiny(factors=["option bound"])
    sweep = start(planned, tmp_path / "s")
    monkeypatch.setattr(experiment, "fit", diverge)
    assert told(sweep)[3] == "cell-01-seed-0 diverged The training loss became nan in epoch 1."
    assert [folder.status() for _, _, folder in sweep.runs()] == ["diverged", "diverged"]
    assert told(sweep)[1:] == ["0 left"]


def test_an_error_is_no_divergence(tmp_path: Path) -> None:
    sweep = start(replace(tiny(), base=tiny().base | {"data.dataset": "imagefolder:nowhere"}), tmp_path / "s")
    with pytest.raises(SlotkitError, match=r"^4 of 4 runs failed. The first is cell-01-seed-0: .*nowhere"):
        told(sweep)


def test_dropout_in_evaluation_needs_no_training(
    tmp_path: Path, narrow_networks: None, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "_collapsed", lambda validation: False)  # as a network of this size may
    factors = ["option bound", "dropout in evaluation"]
    layers = [Overrides("test", TINY | {"data.mean": [0.0], "data.std": [1.0]})]
    sweep = start(tiny(model="conv2", factors=factors, layers=layers), tmp_path / "s")
    assert "2 runs" in told(sweep)[0]
    table = gap.analyze(sweep.path).table
    (found,) = table.loc[(table["quantity"] == "reading") & (table["name"] == factors[1]), "value"]
    for _, _, folder in sweep.runs():
        readings = json.loads((folder.path / READINGS).read_text())
        assert readings["off"]["greedy"] == folder.summary()["test"]["best"]["greedy"]["accuracy"]
        assert set(readings["on"]) == {"greedy"}
    on, off = (
        np.mean([sweep.readings(folder)[key]["greedy"] for _, _, folder in sweep.runs()])
        for key in ("on", "off")
    )
    assert found == pytest.approx(100 * (off - on))


def test_another_plan_is_not_mixed_in(tmp_path: Path) -> None:
    start(tiny(), tmp_path / "s")
    with pytest.raises(
        SlotkitError, match=r"s holds another sweep: it differs in epochs, training.epochs. Ch"
    ):
        start(tiny(epochs=2), tmp_path / "s")
    moved = start(tiny(layers=[Overrides("test", TINY | {"data.dir": "elsewhere"})]), tmp_path / "s")
    assert moved.plan.base["data.dir"] == "elsewhere"
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "file").touch()
    with pytest.raises(SlotkitError, match=r"t is there already and no sweep. Choose another --name."):
        start(tiny(), tmp_path / "t")


def test_a_sweep_that_is_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(
        SlotkitError, match=r"There is no sweep 'x', neither as a path nor in .*: no gap.json"
    ):
        gap.analyze("x", tmp_path)
    sweep = start(tiny(), tmp_path / "s")
    (sweep.path / PLAN).write_text("{}")
    with pytest.raises(SlotkitError, match=r"gap.json can't be read: 'factors'. Restore it, or train"):
        gap.analyze(sweep.path)


def test_a_sweep_is_trained_by_one_process(tmp_path: Path) -> None:
    sweep = start(tiny(), tmp_path / "s")
    with (
        RunFolder(sweep.path).locked(),
        pytest.raises(SlotkitError, match="is being trained by another process"),
    ):
        train(sweep)
