"""What the driver does with what an executor tells it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sweeps.made import Scripted, planned, trained  # type: ignore[import-not-found]

from slotkit.sweeps import memory, registry, run
from slotkit.sweeps.contract import Ended, Job, Options, Progress, Tell
from slotkit.sweeps.sweep import Sweep

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_that_is_lost_goes_on_elsewhere(tmp_path: Path) -> None:
    executor = Scripted({"seed-3": ["lost", "finished"]})
    told = trained(tmp_path, planned(), executor)
    assert "seed-3 tried again: It lost here." in told
    assert executor.order == ["seed-3", "seed-4", "seed-3"]
    assert told.count("seed-3 started: seed 3") == 1
    assert executor.stops == 1
    assert [one.status() for one in Sweep.open(tmp_path).runs()] == ["finished", "finished"]
    (failure,) = next(Sweep.open(tmp_path).runs()).entry.failures
    assert (failure.error, failure.where) == ("It lost here.", "nowhere, process 1")


def test_a_run_that_fails_too_often_is_left(tmp_path: Path) -> None:
    executor = Scripted({"seed-3": ["failed"]})
    told = trained(tmp_path, planned(), executor, retries=2)
    assert executor.order.count("seed-3") == 3
    assert told[-1] == "seed-3 failed: It failed here."
    assert "seed-4 finished" in told
    # It is tried again by the next driver.
    trained(tmp_path, planned(), Scripted({}))
    assert [one.status() for one in Sweep.open(tmp_path).runs()] == ["finished", "finished"]


def test_a_run_that_gets_further_each_time_is_never_given_up(tmp_path: Path) -> None:
    executor = Scripted({"seed-3": ["lost"] * 6 + ["finished"]})
    shares = iter([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])

    def progress(job: Job, tell: Tell) -> None:
        if job.name == "seed-3":
            tell(Progress(job.key, 0, 1, next(shares), None))

    executor.before = progress
    assert "seed-3 finished" in trained(tmp_path, planned(), executor, retries=1)


def test_a_run_that_gets_as_far_again_and_again_is_given_up(tmp_path: Path) -> None:
    """How far it was said to be differs from try to try; further is further than ever."""
    executor = Scripted({"seed-3": ["failed"] * 9 + ["finished"]})
    shares = iter([0.5, 0.4] * 5)

    def progress(job: Job, tell: Tell) -> None:
        if job.name == "seed-3":
            tell(Progress(job.key, 0, 1, next(shares), None))

    executor.before = progress
    assert "seed-3 failed: It failed here." in trained(tmp_path, planned(), executor, retries=2)
    assert executor.order.count("seed-3") == 3


@pytest.mark.parametrize("how", ["busy", "stopped"])
def test_what_is_no_error_is_tried_again_without_end(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "BUSY", 0.0)
    executor = Scripted({"seed-3": [how] * 5 + ["finished"]})
    told = trained(tmp_path, planned(), executor, retries=0)
    assert "seed-3 finished" in told
    assert not any("again" in line for line in told)
    assert told.count("seed-3 waits for another process") == (1 if how == "busy" else 0)
    assert next(Sweep.open(tmp_path).runs()).entry.failures == []


def test_a_busy_run_waits_and_the_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    executor = Scripted({"seed-3": ["busy", "finished"]}, capacity=1)

    def pass_time(job: Job, tell: Tell) -> None:
        if job.name == "seed-5":
            now[0] += 10

    executor.before = pass_time
    trained(tmp_path, planned(seeds=(3, 4, 5, 6)), executor)
    assert executor.order == ["seed-3", "seed-4", "seed-5", "seed-6", "seed-3"]


def test_a_run_is_expected_to_take_what_its_kind_has_taken(tmp_path: Path) -> None:
    these = planned(seeds=(3, 4, 5)) + planned(seeds=(6,), slots__form="dense")
    executor = Scripted({"seed-4": ["lost", "finished"]}, capacity=1)

    def take(job: Job, tell: Tell) -> None:
        tell(Progress(job.key, 0, 1, 0.5, None, memory=1, peak={"seed-3": 5 << 30}.get(job.name, 4 << 30)))

    executor.before = take
    trained(tmp_path, these, executor)
    gigabytes = {name: [size / (1 << 30) for size in sizes] for name, sizes in executor.memory.items()}
    # The dense form is of another kind; a lost run may have been lost for lack of memory.
    assert gigabytes == {"seed-3": [1], "seed-4": [5, 10], "seed-5": [5], "seed-6": [1]}
    peaks = [one.entry.peak or 0 for one in Sweep.open(tmp_path).runs()]
    assert peaks[0] == 5 << 30
    told = Scripted({}, capacity=1)
    trained(tmp_path / "told", planned(), told, memory_each=7)
    assert set(told.memory["seed-3"]) == {7}


def test_jobs_are_whole_wherever_they_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    executor = Scripted({"seed-3": ["diverged"]})
    jobs: list[Job] = []
    executor.before = lambda job, tell: jobs.append(job)
    these = planned(
        seeds=(3,), data__dataset="imagefolder:imgs", data__dir="elsewhere", mask="m", method="learned"
    )
    trained(Path("s"), these, executor)
    (job,) = jobs
    assert job.place == tmp_path / "s"
    assert job.layers[0].values["data.dataset"] == f"imagefolder:{tmp_path / 'imgs'}"
    assert job.layers[0].values["data.dir"] == str(tmp_path / "elsewhere")
    assert job.layers[0].values["mask"] == str(tmp_path / "m")
    assert job.sweep == Sweep.open(tmp_path / "s").manifest.id
    assert Job.from_json(job.to_json()) == job


def test_executors_are_found_by_name() -> None:
    assert list(registry.EXECUTORS) == ["local", "ray", "inline"]
    with pytest.raises(
        ValueError, match=r"There is no executor 'locl'. Did you mean local\? There are local, ray"
    ):
        registry.make("locl", Options())


def test_memory_of_this_process_and_machine() -> None:
    memory.begin_peak()
    before, _ = memory.own()
    held = bytearray(b"\1") * (200 << 20)
    now, peak = memory.own()
    del held
    after, peak_after = memory.own()
    assert now > before + (150 << 20)
    assert peak >= now
    assert after < now
    assert peak_after > before + (150 << 20)
    free = memory.available()
    assert free is None or free > 0


def test_how_a_job_ends_is_one_of_the_ends() -> None:
    assert Ended("key", "finished").error == ""
