"""A sweep trains each of its runs once, whatever interrupts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from slotkit.config import Overrides
from slotkit.errors import DivergedError, SlotkitError
from slotkit.runs.folder import RunFolder
from slotkit.training import experiment
from slotkit.training.loop import Event, Note, Step
from slotkit.training.sweep import Cell, accuracy, status, train

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {"slots.k": 2, "training.limit_batches": 8, "training.device": "cpu", "data.validation": 0.1}


def cells(epochs: int = 1, **values: Any) -> list[Cell]:
    """Two runs that differ in their seed."""
    given = TINY | {"training.epochs": epochs} | {path.replace("__", "."): v for path, v in values.items()}
    return [
        Cell(f"seed-{seed}", (Overrides("test", given), Overrides("cell", {"seeds.reels": seed})), words)
        for seed, words in ((3, "the third"), (4, ""))
    ]


def told(place: Path, these: list[Cell], **given: Any) -> list[str]:
    """What training says of the sweep."""
    notes: list[str] = []
    train(place, these, lambda event: notes.append(event.text) if isinstance(event, Note) else None, **given)
    return notes


def runs(place: Path) -> list[RunFolder]:
    return [RunFolder(place / cell.name) for cell in cells()]


def written(place: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in place.rglob("*") if path.name != "lock"}


def test_each_run_is_trained_once(tmp_path: Path) -> None:
    first, one, one_done, other, other_done = told(tmp_path, cells())
    assert first == "2 runs, 2 of them left to train."
    assert (one, other) == ("run 1 of 2, seed-3: the third", "run 2 of 2, seed-4")
    for done, folder in zip((one_done, other_done), runs(tmp_path), strict=True):
        summary = folder.summary()
        assert accuracy(folder) == summary["test"]["best"]["greedy"]["accuracy"]
        assert done == f"  test {100 * accuracy(folder):.2f} %, {summary['seconds']:.0f} s"
    assert [folder.config().seeds.reels for folder in runs(tmp_path)] == [3, 4]
    before = written(tmp_path)
    assert told(tmp_path, cells()) == ["2 runs, 0 of them left to train."]
    assert written(tmp_path) == before


def test_steps_are_told_too(tmp_path: Path) -> None:
    steps: list[Event] = []
    train(tmp_path, cells()[:1], steps.append)
    assert [event.step for event in steps if isinstance(event, Step)] == list(range(1, 9))
    assert {type(event) for event in steps} == {Note, Step}


def test_the_first_sentence_and_what_is_read_are_the_callers(tmp_path: Path) -> None:
    read: list[str] = []

    def reading(folder: RunFolder) -> float:
        read.append(folder.name)
        return 0.5

    notes = told(tmp_path, cells(), begin=lambda runs, left: f"{left} of {runs}", read=reading)
    assert notes[0] == "2 of 2"
    assert notes[2].startswith("  test 50.00 %, ")
    assert read == ["seed-3", "seed-4"]
    told(tmp_path, cells(), read=reading)
    assert len(read) == 2


def test_an_interrupted_sweep_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for place in (whole, cut):
        place.mkdir()
    told(whole, cells(epochs=3))

    def interrupt(event: Event) -> None:
        if isinstance(event, Step) and event.step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cut, cells(epochs=3), interrupt)
    first, second = runs(cut)
    assert (status(first), status(second)) == ("interrupted", "missing")
    second.path.mkdir()  # as a process leaves it that was killed at once
    (second.path / "left.txt").write_text("")
    # Where checkpoints go may change on the way, and does.
    told(cut, cells(epochs=3, recording__keep_epochs=[2, 3]))
    assert "Resumed after step 8" in (first.path / "log.txt").read_text()
    assert first.checkpoint("epoch-2").is_file()
    assert not (second.path / "left.txt").exists()
    for one, other in zip(runs(whole), runs(cut), strict=True):
        assert one.summary()["test"] == other.summary()["test"]
        assert (one.path / "metrics.jsonl").read_text() == (other.path / "metrics.jsonl").read_text()


def test_a_run_that_diverges_is_left_and_the_next_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = experiment.fit

    def diverge_once(*given: Any) -> Any:
        monkeypatch.setattr(experiment, "fit", fit)
        raise DivergedError("The training loss became nan in epoch 1.")
        yield

    monkeypatch.setattr(experiment, "fit", diverge_once)
    notes = told(tmp_path, cells())
    assert notes[2:4] == ["  The training loss became nan in epoch 1.", "run 2 of 2, seed-4"]
    assert [status(folder) for folder in runs(tmp_path)] == ["diverged", "finished"]
    assert told(tmp_path, cells())[0].endswith("0 of them left to train.")


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(SlotkitError, match="nowhere"):
        told(tmp_path, cells(data__dataset="imagefolder:nowhere"))


def test_two_processes_do_not_train_one_sweep(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(SlotkitError, match="is being trained by another process"),
    ):
        told(tmp_path, cells())
    assert not any(folder.path.exists() for folder in runs(tmp_path))


def draw_pictures(folder: Path, classes: str) -> None:
    for half in ("train", "test"):
        for at, name in enumerate(classes):
            (folder / half / name).mkdir(parents=True)
            for i in range(6):
                Image.new("L", (4, 4), 40 * at + i).save(folder / half / name / f"{i}.png")


def test_all_runs_of_a_sweep_have_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_pictures(tmp_path / "imgs", "ab")
    these = cells(data__dataset="imagefolder:imgs", data__dir="means/nothing")
    (tmp_path / "runs").mkdir()
    told(tmp_path / "runs", these[:1])
    for half in ("train", "test"):
        (tmp_path / "imgs" / half / "b").rename(tmp_path / "imgs" / half / "c")
    with pytest.raises(SlotkitError) as error:
        told(tmp_path / "runs", these)
    assert "for the runs that this one is compared with: class 'b' is gone; class 'c' is new." in str(
        error.value
    )
    assert not (tmp_path / "runs" / "seed-4").exists()


def test_a_run_on_a_folder_goes_on_whatever_data_dir_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data folder that every run of a sweep is given means nothing to imagefolder:DIR, then as before."""
    monkeypatch.chdir(tmp_path)
    draw_pictures(tmp_path / "imgs", "ab")
    (tmp_path / "runs").mkdir()
    these = cells(3, data__dataset="imagefolder:imgs", data__dir="means/nothing", training__batch_size=2)[:1]

    def stop(event: Event) -> None:
        if isinstance(event, Step) and event.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "runs", these, stop)
    assert told(tmp_path / "runs", these)[0] == "1 runs, 1 of them left to train."
    assert status(RunFolder(tmp_path / "runs" / "seed-3")) == "finished"
