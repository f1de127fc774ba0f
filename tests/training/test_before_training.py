"""The network before the first step: a random combination of options, read at the end of every run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slotkit.config import Overrides, resolve
from slotkit.errors import SlotkitError, UnreadableError
from slotkit.recording.replay import write_checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.training import readings
from slotkit.training.evaluation import read
from slotkit.training.experiment import evaluate, evaluate_untrained, resume, run
from slotkit.training.finetune import finetune
from slotkit.training.loop import Event, Note
from slotkit.training.prepare import prepare
from slotkit.training.processes import LostError

pytestmark = pytest.mark.usefixtures("one_thread")


def train(place: Path, name: str = "run", report: Any = lambda event: None, **values: Any) -> RunFolder:
    given = {
        "training.epochs": 1,
        "training.device": "cpu",
        "training.limit_batches": 20,
        "slots.k": 4,
        "slots.engine": "eager",
        "recording.trace": "off",
        "evaluation.draws": 2,
    }
    given |= {path.replace("__", "."): value for path, value in values.items()}
    return run(resolve([Overrides("test", given)]), place, name, report)


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ({}, ["greedy"]),
        ({"slots__form": "dense", "slots__engine": "auto"}, ["greedy"]),
        ({"slots__selection": "PS", "evaluation__ps": "last"}, ["greedy", "sample"]),
        ({"method": "learned"}, ["learned"]),
    ],
)
def test_its_readings_are_in_the_summary(values: dict[str, Any], kinds: list[str], tmp_path: Path) -> None:
    folder = train(tmp_path, **values)
    told = folder.summary()["test"]
    assert list(told["start"]) == kinds
    fresh = prepare(resolve([Overrides("test", dict(_flat(folder)))]))
    expected = {kind: read(fresh.trainee, fresh.dataset.test, kind, fresh.config) for kind in kinds}
    assert told["start"] == {kind: reading.as_dict() for kind, reading in expected.items()}
    assert evaluate(folder, "start", "test") == expected
    assert evaluate_untrained(folder) == expected[kinds[0]]
    if "slots__selection" not in values:  # PS learns little in so few steps
        assert told["start"][kinds[0]]["accuracy"] < 0.4 < told["best"][kinds[0]]["accuracy"]


def _flat(folder: RunFolder) -> list[tuple[str, Any]]:
    from slotkit.config import Resolved

    return [(path, value) for path, value, _ in Resolved(folder.config(), {}).explain() if value is not None]


def test_it_is_the_replay_of_step_0_whose_reading_is_called_greedy(tmp_path: Path) -> None:
    folder = train(tmp_path, recording__trace="full")
    write_checkpoint(folder, 0)
    replayed = evaluate(folder, "step-0", "validation")
    assert list(replayed) == ["greedy"]
    assert replayed["greedy"].kind == "greedy"
    assert replayed == evaluate(folder, "start", "validation")


def test_a_finetuned_network_starts_as_the_slot_machine_ended(tmp_path: Path) -> None:
    slot = train(tmp_path, "slot")
    told = [Overrides("test", {"training.epochs": 1, "training.limit_batches": 3})]
    branch = RunFolder(finetune(slot, tmp_path, overrides=told, name="f").path / "from-best")
    (start,) = branch.summary()["test"]["start"].values()
    assert start == slot.summary()["test"]["best"]["greedy"]


def test_weights_that_a_training_began_with_are_not_made_anew_where_they_are_lost(tmp_path: Path) -> None:
    """Another network would be read in their place: that of the seeds."""
    slot = train(tmp_path, "slot")
    told = [Overrides("test", {"training.epochs": 1, "training.limit_batches": 3})]
    branch = RunFolder(finetune(slot, tmp_path, overrides=told, name="f").path / "from-best")
    start = branch.checkpoint("start")
    start.unlink()
    with pytest.raises(SlotkitError, match=r"There is no checkpoint .*start\.safetensors"):
        evaluate(branch, "start", "test")
    events: list[Event] = []
    resume(branch, [Overrides("test", {"training.epochs": 2})], events.append)
    assert list(branch.summary()["test"]) == ["best", "last"]
    (note,) = [event.text for event in events if isinstance(event, Note) and "before the first" in event.text]
    assert note == (
        f"The network before the first step could not be read: There is no checkpoint {start}. The run has "
        f"not come that far, or it was deleted. `slotkit evaluate {branch.path} --checkpoint start` tries it "
        "again."
    )


def test_what_fails_there_is_told_and_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*given: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(readings, "build", build)
    events: list[Event] = []
    folder = train(tmp_path, report=events.append)
    assert folder.status() == "finished"
    assert list(folder.summary()["test"]) == ["best", "last"]
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes[-1] == (
        "The network before the first step could not be read: out of memory. `slotkit evaluate "
        f"{folder.path} --checkpoint start` tries it again."
    )


@pytest.mark.parametrize("kind", [LostError, UnreadableError])
def test_what_the_other_readings_need_too_ends_it(
    kind: type[SlotkitError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*given: Any) -> Any:
        raise kind("gone")

    monkeypatch.setattr(readings, "build", build)
    with pytest.raises(kind, match="gone"):
        train(tmp_path)


def test_reports_have_it(tmp_path: Path) -> None:
    from slotkit.reports.collect import collect
    from slotkit.reports.page import page

    folders = [train(tmp_path, "one"), train(tmp_path, "two", slots__k=2)]
    starts = [100 * folder.summary()["test"]["start"]["greedy"]["accuracy"] for folder in folders]
    html = page(collect(["one", "two"], tmp_path), baseline=False)
    assert "<th>before the first step (%)</th>" in html
    for start in starts:
        assert f"<td>{start:.2f}</td>" in html
        assert f"Before the first step: {start:.2f} %." in html
    # A run of an older slotkit has not read it.
    summary = folders[0].summary()
    del summary["test"]["start"]
    (folders[0].path / "summary.json").write_text(json.dumps(summary))
    html = page(collect(["one"], tmp_path), baseline=False)
    assert "Before the first step: not measured (<code>slotkit evaluate" in html
