"""A sweep trains each of its runs once, whatever interrupts it: the executor that has no processes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sweeps.made import planned, trained  # type: ignore[import-not-found]

from slotkit.errors import DivergedError, SlotkitError
from slotkit.runs.folder import RunFolder
from slotkit.sweeps import run, training
from slotkit.sweeps.contract import Options, Progress
from slotkit.sweeps.inline import Inline
from slotkit.sweeps.sweep import Sweep, start
from slotkit.training import experiment
from slotkit.training.signals import StoppedError

pytestmark = pytest.mark.usefixtures("one_thread")


def runs(place: Path) -> list[RunFolder]:
    return [RunFolder(place / f"seed-{seed}") for seed in (3, 4)]


def statuses(place: Path) -> list[str]:
    return [run.status() for run in Sweep.open(place).runs()]


def written(place: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in place.rglob("*") if path.name != "lock"}


def test_each_run_is_trained_once(tmp_path: Path) -> None:
    told = [line for line in trained(tmp_path, planned()) if line != "progress"]
    assert told == [
        "0 of 2 done, 2 of 2 epochs left",
        "seed-3 started: seed 3",
        "seed-3 finished",
        "seed-4 started: seed 4",
        "seed-4 finished",
    ]
    assert [folder.config().seeds.reels for folder in runs(tmp_path)] == [3, 4]
    assert statuses(tmp_path) == ["finished", "finished"]
    before = written(tmp_path)
    assert trained(tmp_path, planned()) == ["2 of 2 done, 0 of 2 epochs left"]
    assert written(tmp_path) == before


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "EVERY", 0.0)
    these, told = planned(epochs=2)[:1], list[Progress]()
    sweep, _ = start(tmp_path, these, "the test")
    run.train(sweep, these, Inline(Options()), lambda e: told.append(e) if isinstance(e, Progress) else None)
    steps = [(one.epoch, one.share) for one in told]
    assert steps == [
        *((0, step / 16) for step in range(1, 9)),
        (1, 0.5),
        *((1, step / 16) for step in range(9, 17)),
        (2, 1.0),
    ]
    best = runs(tmp_path)[0].summary()["validation"]["best"]["accuracy"]
    assert told[-1].best == best
    assert {one.epochs for one in told} == {2}
    assert 1 << 27 < told[-1].memory <= told[-1].peak == next(sweep.runs()).entry.peak


def test_an_interrupted_sweep_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "EVERY", 0.0)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    trained(whole, planned(epochs=3))
    sweep, _ = start(cut, planned(epochs=3), "the test")

    def interrupt(event: run.Event) -> None:
        if isinstance(event, Progress) and event.share > 9 / 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(sweep, planned(epochs=3), Inline(Options()), interrupt)
    assert statuses(cut) == ["interrupted", "waiting"]
    first, second = runs(cut)
    second.path.mkdir()  # as a process leaves it that was killed at once
    (second.path / "left.txt").write_text("")
    # Where checkpoints go may change on the way, and does.
    trained(cut, planned(epochs=3, recording__keep_epochs=[2, 3]))
    assert "Resumed after step 8" in (first.path / "log.txt").read_text()
    assert first.checkpoint("epoch-2").is_file()
    assert not (second.path / "left.txt").exists()
    for one, other in zip(runs(whole), runs(cut), strict=True):
        assert one.summary()["test"] == other.summary()["test"]
        assert (one.path / "metrics.jsonl").read_text() == (other.path / "metrics.jsonl").read_text()


def test_sigterm_saves_the_run_and_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "EVERY", 0.0)
    these = planned(epochs=3)
    sweep, _ = start(tmp_path, these, "the test")

    def terminate(event: run.Event) -> None:
        if isinstance(event, Progress) and event.share > 9 / 24:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StoppedError):
        run.train(sweep, these, Inline(Options()), terminate)
    assert statuses(tmp_path) == ["stopped", "waiting"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_diverges_is_left_and_the_next_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = experiment.fit

    def diverge_once(*given: Any) -> Any:
        monkeypatch.setattr(experiment, "fit", fit)
        raise DivergedError("The training loss became nan in epoch 1.")
        yield

    monkeypatch.setattr(experiment, "fit", diverge_once)
    told = trained(tmp_path, planned())
    assert "seed-3 diverged: The training loss became nan in epoch 1." in told
    assert statuses(tmp_path) == ["diverged", "finished"]
    assert trained(tmp_path, planned()) == ["2 of 2 done, 0 of 2 epochs left"]


def test_an_error_is_kept_and_the_run_tried_again(tmp_path: Path) -> None:
    these = planned(data__dataset="imagefolder:nowhere")[:1]
    sweep, _ = start(tmp_path, these, "the test")
    told: list[str] = []
    failed = run.train(sweep, these, Inline(Options()), lambda e: told.append(type(e).__name__), retries=1)
    assert told == ["Begun", "Started", "Tried", "Done"]
    assert [one.entry.name for one in failed] == ["seed-3"]
    first, second = next(Sweep.open(tmp_path).runs()).entry.failures
    assert "nowhere" in first.error
    assert first.error == second.error
    assert first.trace == ""  # a sentence for the user, and no fault of slotkit
    assert statuses(tmp_path) == ["failed"]


def test_a_fault_of_slotkit_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> Any:
        raise RuntimeError("two\nlines")
        yield

    monkeypatch.setattr(experiment, "fit", fail)
    trained(tmp_path, planned()[:1], retries=0)
    (failure,) = next(Sweep.open(tmp_path).runs()).entry.failures
    assert failure.error == "RuntimeError: two\nlines"
    assert "in fail" in failure.trace


def test_two_drivers_do_not_train_one_sweep(tmp_path: Path) -> None:
    these = planned()
    sweep, _ = start(tmp_path / "s", these, "the test")
    with sweep.locked():
        for refused in (
            lambda: run.train(sweep, these, Inline(Options())),
            lambda: start(sweep.path, these, "the test"),
        ):
            with pytest.raises(SlotkitError) as error:
                refused()
            assert str(error.value) == (
                "The sweep s is being trained by another process. Wait for it, or stop it first."
            )
    assert not any(folder.path.exists() for folder in runs(tmp_path / "s"))


def draw_pictures(folder: Path, classes: str) -> None:
    for half in ("train", "test"):
        for at, name in enumerate(classes):
            (folder / half / name).mkdir(parents=True)
            for i in range(6):
                Image.new("L", (4, 4), 40 * at + i).save(folder / half / name / f"{i}.png")


def test_all_runs_of_a_sweep_have_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_pictures(tmp_path / "imgs", "ab")
    these = planned(data__dataset="imagefolder:imgs", data__dir="means/nothing")
    trained(tmp_path / "runs", these[:1])
    for half in ("train", "test"):
        (tmp_path / "imgs" / half / "b").rename(tmp_path / "imgs" / half / "c")
    told = trained(tmp_path / "runs", these, retries=0)
    assert told[-1].startswith("seed-4 failed: ")
    assert "for the runs that this one is compared with: class 'b' is gone; class 'c' is new." in told[-1]
    assert not (tmp_path / "runs" / "seed-4").exists()


def test_a_run_on_a_folder_goes_on_whatever_data_dir_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data folder that every run of a sweep is given means nothing to imagefolder:DIR, then as before."""
    monkeypatch.setattr(training, "EVERY", 0.0)
    monkeypatch.chdir(tmp_path)
    draw_pictures(tmp_path / "imgs", "ab")
    these = planned(3, data__dataset="imagefolder:imgs", data__dir="means/nothing", training__batch_size=2)[
        :1
    ]
    sweep, _ = start(tmp_path / "runs", these, "the test")

    def stop(event: run.Event) -> None:
        if isinstance(event, Progress) and event.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(sweep, these, Inline(Options()), stop)
    assert trained(tmp_path / "runs", these)[0] == "0 of 1 done, 3 of 3 epochs left"
    assert statuses(tmp_path / "runs") == ["finished"]


@pytest.mark.parametrize("name", ["jobs", "threads", "memory", "address", "gpus"])
def test_an_option_that_says_nothing_to_it_is_refused(name: str) -> None:
    with pytest.raises(SlotkitError, match=f"--{name} says nothing to the executor inline. Leave it out"):
        Inline(Options(**{name: 1}))  # type: ignore[arg-type]
