"""How long the rest of a sweep takes: only where runs of the same kind allow to tell."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sweeps.made import Scripted, planned  # type: ignore[import-not-found]

from slotkit.config import Config, resolve
from slotkit.runs.folder import RunFolder
from slotkit.sweeps import kinds, registry, run
from slotkit.sweeps.contract import Job, Options, Progress, Tell
from slotkit.sweeps.estimate import Left, left_of
from slotkit.sweeps.plan import Planned
from slotkit.sweeps.sweep import Sweep, start


def made(place: Path, these: list[Planned], summaries: dict[str, dict[str, Any]]) -> Sweep:
    """A sweep with summaries by run."""
    sweep, _ = start(place, these, "the test")
    for one in these:
        if one.name in summaries:
            folder = RunFolder.create(place, one.name, resolve(one.layers), {})
            folder.write_summary({"test": {"best": {"greedy": {"accuracy": 0.5}}}} | summaries[one.name])
    return sweep


FINISHED = {"status": "finished", "epochs": 10, "seconds": 200.0}


def test_runs_take_the_time_of_their_kind(tmp_path: Path) -> None:
    these = planned(10, seeds=(1, 2, 3), slots__k=4) + planned(20, seeds=(4,), slots__k=8)
    summaries = {"seed-1": FINISHED, "seed-2": {"status": "stopped", "epochs": 5, "seconds": 130.0}}
    states = made(tmp_path, these, summaries).states()
    each = (200 + 130) / 15  # seconds of an epoch
    left = left_of(states, 2)
    assert left == Left(3, 3, pytest.approx((5 + 10 + 20) * each), pytest.approx(20 * each), 2)
    assert left.seconds == pytest.approx(20 * each)  # the longest run is no shorter for being beside another
    assert left_of(states, 1).seconds == left.training
    assert left_of(states, None).seconds is None


def test_nothing_is_told_of_a_kind_that_has_not_begun(tmp_path: Path) -> None:
    these = planned(10, seeds=(1, 2)) + planned(10, seeds=(3,), training__batch_size=7)
    sweep = made(tmp_path / "some", these, {"seed-1": FINISHED})
    assert left_of(sweep.states(), 1) == Left(2, 1, 200.0, 200.0, 1)
    assert left_of(sweep.states(), 7).at_a_time == 2  # there are no more
    none = left_of(made(tmp_path / "none", these, {}).states(), 1)
    assert (none.runs, none.known, none.seconds) == (3, 0, None)
    assert none.as_dict()["seconds of training"] is None


def test_damaged_runs_are_not_left(tmp_path: Path) -> None:
    sweep = made(tmp_path, planned(10, seeds=(1, 2)), {"seed-1": FINISHED, "seed-2": FINISHED})
    (tmp_path / "seed-2" / "summary.json").write_text("nothing")
    assert left_of(sweep.states(), 1).runs == 0


def test_what_makes_a_kind() -> None:
    one = {"slots.k": 2, "seeds.data": 1, "training.lr": 0.1, "training.epochs": 3, "mask": "a"}
    same = {"slots.k": 8, "training.lr": 0.5, "mask": "b"}
    assert kinds.of_time(one) == kinds.of_time(same)
    assert kinds.of_memory(one) == kinds.of_memory(same)
    for other in (
        {"mask": "a", "training.batch_size": 7},
        {"mask": "a", "model.name": "conv2"},
        {"mask": "a", "slots.form": "dense"},
        {"mask": "a", "training.device": "cpu"},
        {},
    ):
        assert kinds.of_time(other) != kinds.of_time(one)
    for dense in ({"slots.update": "selected"}, {"slots.form": "dense"}, {"slots.share": 0.5}):
        assert kinds.of_time({**dense, "slots.k": 2}) != kinds.of_time({**dense, "slots.k": 4})
        memory = [
            kinds.of_memory(one) for one in ({}, dense, {**dense, "slots.k": 2}, {**dense, "slots.k": 4})
        ]
        assert len(set(memory)) == 4
        assert kinds.of_memory({**dense, "slots.k": 8}) == kinds.of_memory(dense)
    assert Config.model_validate({"slots": {"share": 0.5}}).form == "dense"


def test_the_driver_tells_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    executor = Scripted({}, capacity=2)

    def half(job: Job, tell: Tell) -> None:
        tell(Progress(job.key, 0, 2, 0.25, None))
        now[0] += 100
        tell(Progress(job.key, 1, 2, 0.5, None))

    executor.before = half
    these, told = planned(2, seeds=(3, 4, 5)), list[Left]()
    sweep, _ = start(tmp_path, these, "the test")
    run.train(sweep, these, executor, lambda event: told.append(event) if isinstance(event, Left) else None)
    # At first nothing has told its time. Then a quarter of a run has taken 100 seconds, two at a time.
    assert told[0] == Left(3, 0, 0.0, 0.0, 2)
    assert told[1] == Left(3, 3, pytest.approx(1000), pytest.approx(400), 2)
    assert told[1].seconds == pytest.approx(500)
    assert (told[-1].runs, told[-1].seconds) == (0, None)


def test_a_run_that_goes_on_lacks_what_it_lacks(tmp_path: Path) -> None:
    these = planned(10, seeds=(1, 2))
    stopped = {"status": "stopped", "epochs": 5, "seconds": 50.0}
    sweep = made(tmp_path, these, {"seed-2": stopped})
    told: list[Left] = []
    executor = Scripted({"seed-1": ["failed"], "seed-2": ["failed"]})
    executor.before = lambda job, tell: tell(Progress(job.key, 0, 10, 0.0, None)) if "1" in job.name else None
    run.train(
        sweep,
        these,
        executor,
        lambda event: told.append(event) if isinstance(event, Left) else None,
        retries=0,
    )
    assert told == [Left(2, 2, 150.0, 100.0, 2)]


def test_how_many_are_trained_at_a_time() -> None:
    assert registry.at_a_time("local", Options(jobs=3)) == 3
    assert registry.at_a_time("inline", Options()) == 1
    assert registry.at_a_time("ray", Options()) is None
    assert registry.at_a_time("ray", Options(jobs=5)) == 5
