"""A run with loggers: what they get, a failing one, and no step twice after a kill."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from slotkit.config import Overrides, Resolved, resolve
from slotkit.errors import SlotkitError
from slotkit.loggers import registry
from slotkit.loggers.contract import Training
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import resume, run
from slotkit.training.loop import Epoch, Event, Note, Step

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(*loggers: str, **values: Any) -> Resolved:
    given = {
        "training.epochs": 2,
        "training.device": "cpu",
        "training.limit_batches": 5,
        "training.log_every": 1,
        "slots.k": 2,
        "slots.engine": "eager",  # needs no compiling
        "recording.trace": "off",
        "recording.checkpoint_minutes": 1e-9,
        "recording.loggers": loggers,
    }
    given |= {path.replace("__", "."): value for path, value in values.items()}
    return resolve([Overrides("test", given)])


class Toy:
    """Keeps what it is told, and fails from its N-th call on."""

    fails_at = 10**9

    def __init__(self, training: Training) -> None:
        self.training, self.told, self.closed = training, list[tuple[int, dict[str, float]]](), False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if len(self.told) + 1 >= self.fails_at:
            raise ConnectionError("no route to host")
        self.told.append((step, dict(values)))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> list[Toy]:
    """Those that were made, by the name "toy"."""
    made: list[Toy] = []

    def make(training: Training) -> Toy:
        made.append(Toy(training))
        return made[-1]

    module = ModuleType("toy_logger")
    module.make = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_logger", module)
    monkeypatch.setitem(registry.LOGGERS, "toy", registry.LoggerEntry("toy_logger", "toy_logger"))
    return made


def bits(folder: RunFolder) -> list[bytes]:
    return [(folder.path / name).read_bytes() for name in ("metrics.jsonl", "checkpoints/last.safetensors")]


def test_a_logger_gets_the_metrics_and_changes_no_bit(tmp_path: Path, toys: list[Toy]) -> None:
    plain, logged = run(settings(), tmp_path, "plain"), run(settings("toy"), tmp_path, "logged")
    assert bits(plain) == bits(logged)
    (toy,) = toys
    assert (toy.training.folder, toy.training.name, toy.training.step) == (logged.path, "logged", 0)
    assert toy.training.settings["slots.k"] == 2
    assert toy.closed
    entries = list(logged.metrics())
    assert [step for step, _ in toy.told] == [*(entry["step"] for entry in entries), 10]
    for entry, (_, values) in zip(entries, toy.told, strict=False):
        if entry["kind"] == "step":
            assert (values["train/loss"], values["train/lr"]) == (entry["loss"], entry["lr"])
            assert values["slots/flips"] > 0
        else:
            assert values["validation/accuracy"] == entry["validation"]["accuracy"]
            assert (values["epoch"], values["train/epoch_loss"]) == (entry["epoch"], entry["loss"])
    test = logged.summary()["test"]
    assert toy.told[-1][1] == {
        f"test/{which}/greedy": test[which]["greedy"]["accuracy"] for which in ("start", "best", "last")
    }


def test_a_logger_that_fails_ends_nothing(
    tmp_path: Path, toys: list[Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toy, "fails_at", 3)
    events: list[Event] = []
    folder = run(settings("toy"), tmp_path, "run", events.append)
    sentence = (
        "The logger toy failed and gets nothing more: ConnectionError: no route to host. The training goes "
        "on without it."
    )
    assert [event.text for event in events if isinstance(event, Note)].count(sentence) == 1
    assert (folder.path / "log.txt").read_text().count(sentence) == 1
    assert folder.status() == "finished"
    assert len(toys[0].told) == 2


def test_a_logger_is_told_that_a_run_failed(
    tmp_path: Path, toys: list[Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[str] = []
    monkeypatch.setattr(Toy, "fail", lambda toy: ends.append("failed"), raising=False)
    monkeypatch.setattr(Toy, "close", lambda toy: ends.append("finished"))
    stop = KeyboardInterrupt()

    def interrupt(event: Event) -> None:
        if isinstance(event, Step) and event.step == 3:
            raise stop

    with pytest.raises(KeyboardInterrupt):
        run(settings("toy"), tmp_path, "mine", interrupt)
    assert ends == ["failed"]
    resume(RunFolder(tmp_path / "mine"), [])
    assert ends == ["failed", "finished"]


def test_a_logger_that_is_not_there_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SlotkitError, match=r"There is no logger 'tensorbord'\. Did you mean tensorboard"):
        run(settings("tensorbord"), tmp_path, "run")
    assert list(tmp_path.iterdir()) == []


class KilledError(Exception):
    """The process ends here, as far as the run can tell."""


def killed_after(step: int, kind: type[Step | Epoch] = Step) -> Any:
    def report(event: Event) -> None:
        if isinstance(event, kind) and event.step == step:
            raise KilledError

    return report


def test_no_step_is_twice_in_the_event_files(tmp_path: Path) -> None:
    """Killed when more was told than the newest checkpoint has, at the last step of an epoch too."""
    from tensorboard.backend.event_processing import event_accumulator as events

    def told(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
        read = events.EventAccumulator(str(folder.path / "tensorboard"), size_guidance={events.SCALARS: 0})
        read.Reload()
        return {
            name: [(event.step, event.value) for event in read.Scalars(name)]
            for name in read.Tags()["scalars"]
        }

    whole = told(run(settings("tensorboard"), tmp_path, "whole"))
    assert [step for step, _ in whole["train/loss"]] == list(range(1, 11))
    assert [step for step, _ in whole["validation/accuracy"]] == [5, 10]
    # Commits at the ends of epochs only, so that steps are told once more; then one before the validation of
    # step 5, which has been told.
    for name, minutes, moment in (("within", 60.0, killed_after(8)), ("edge", 1e-9, killed_after(5, Epoch))):
        resolved = settings("tensorboard", recording__checkpoint_minutes=minutes)
        with pytest.raises(KilledError):
            run(resolved, tmp_path, name, moment)
        folder = RunFolder(tmp_path / name)
        again = told(resume(folder, []))
        assert again.pop("slots/flips")[-1] == whole["slots/flips"][-1]
        assert again == {key: values for key, values in whole.items() if key != "slots/flips"}


def test_a_resumed_run_may_get_a_logger(tmp_path: Path, toys: list[Toy]) -> None:
    with pytest.raises(KilledError):
        run(settings(), tmp_path, "run", killed_after(7))
    folder = RunFolder(tmp_path / "run")
    resume(folder, [Overrides("--logger", {"recording.loggers": ["toy"]})])
    (toy,) = toys
    # The checkpoint is of step 6: the commit of step 7 was still to come.
    assert toy.training.step == 6
    assert [step for step, _ in toy.told] == [6, 7, 8, 9, 10, 10, 10]
    assert folder.config().recording.loggers == ("toy",)
