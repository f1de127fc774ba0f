"""Loggers by name and as objects: what they are told, and that none of them ends a training."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from slotkit.errors import SlotkitError
from slotkit.loggers import registry
from slotkit.loggers.contract import Training
from slotkit.loggers.loggers import Loggers

ROOT = Path(__file__).parent.parent.parent


class Toy:
    """A logger that keeps what it is told, and fails from its N-th call on."""

    def __init__(self, fails_at: int = 10**9) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []
        self.calls, self.fails_at, self.closed = 0, fails_at, False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.calls += 1
        if self.calls >= self.fails_at:
            raise ConnectionError("no route\nto host.")
        self.told.append((step, dict(values)))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path, "mine", {"slots.k": 8})


def test_one_that_fails_is_told_once_and_the_others_go_on(training: Training) -> None:
    bad, good, told = Toy(fails_at=2), Toy(), list[str]()
    loggers = Loggers([bad, good], training, told.append)
    for step in (1, 2, 3):
        loggers.log(step, {"train/loss": 0.5})
    loggers.close()
    assert told == [
        "The logger Toy failed and gets nothing more: ConnectionError: no route to host. The training goes "
        "on without it."
    ]
    assert (bad.calls, bad.closed) == (2, False)
    assert good.told == [(step, {"train/loss": 0.5}) for step in (1, 2, 3)]
    assert good.closed


def test_one_that_can_not_begin_is_told(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("toy_logger")
    monkeypatch.setitem(sys.modules, "toy_logger", module)
    monkeypatch.setitem(registry.LOGGERS, "toy", registry.LoggerEntry("toy_logger", "toy_logger"))

    def make(training: Training) -> Toy:
        raise PermissionError("log in first")

    module.make = make  # type: ignore[attr-defined]
    told: list[str] = []
    loggers = Loggers(["toy"], training, told.append)
    loggers.log(1, {})
    assert told == [
        "The logger toy failed and gets nothing more: PermissionError: log in first. The training goes on "
        "without it."
    ]


@pytest.mark.parametrize("name", registry.LOGGERS)
def test_every_logger_has_its_module_and_its_extra(name: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    entry = registry.LOGGERS[name]
    assert find_spec(entry.module) is not None
    assert any(wanted.startswith(entry.package) for wanted in extras[name])


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, training: Training) -> None:
    with pytest.raises(SlotkitError) as fault:
        Loggers(["tensorbord"], training, print)
    assert str(fault.value) == (
        "There is no logger 'tensorbord'. Did you mean tensorboard? There are tensorboard, wandb, mlflow."
    )
    with pytest.raises(SlotkitError) as fault:
        Loggers(["tensorboard", "tensorboard"], training, print)
    assert str(fault.value) == (
        "The logger tensorboard is named 2 times and would get every number as often. Name it once."
    )
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(SlotkitError) as fault:
        registry.make("wandb", training)
    assert str(fault.value) == (
        "The logger wandb needs the package wandb. Install it with `pip install 'slotkit[wandb]'`, or train "
        "without that logger (recording.loggers)."
    )


def test_one_without_a_status_is_closed_after_a_failure_too(training: Training) -> None:
    toy = Toy()
    Loggers([toy], training, pytest.fail).close(failed=True)
    assert toy.closed


class FakeWandb(ModuleType):
    """As much of W&B as the logger uses; a resumed run begins at the step after its last."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished: list[int | None] = []

    def init(self, **given: Any) -> Any:
        self.inits.append(given)
        return SimpleNamespace(
            step=self.logged[-1][0] + 1 if self.logged else 0, log=self._log, finish=self._finish
        )

    def _log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def _finish(self, exit_code: int | None = None) -> None:
        self.finished.append(exit_code)


def test_wandb_goes_on_with_its_run(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delitem(sys.modules, "slotkit.loggers.wandb", raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "our project")
    for first in (1, 3):  # the second time from a checkpoint after step 2, when steps 3 and 4 were told
        loggers = Loggers(["wandb"], training, pytest.fail)
        for step in range(first, first + 4):
            loggers.log(step, {"train/loss": 1 / step})
        loggers.close(failed=first == 1)
    monkeypatch.delitem(sys.modules, "slotkit.loggers.wandb")
    assert [step for step, _ in fake.logged] == [1, 2, 3, 4, 5, 6]
    assert fake.finished == [1, None]
    first_init, second_init = fake.inits
    assert first_init == second_init
    assert (first_init["project"], first_init["name"]) == ("our project", "mine")
    assert (first_init["resume"], first_init["dir"]) == ("allow", str(training.folder))
    assert first_init["config"] == {"slots.k": 8}


class FakeClient:
    """As much of MLflow's client as the logger uses."""

    metrics: list[tuple[str, str, float, int]]
    params: dict[str, Any]
    statuses: list[str]
    places: list[str]

    def __init__(self, tracking_uri: str) -> None:
        self.places.append(tracking_uri)

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return f"the experiment {name}"

    def create_run(self, experiment: str, run_name: str) -> Any:
        assert experiment == "the experiment slotkit"
        return SimpleNamespace(info=SimpleNamespace(run_id=f"id of {run_name}"))

    def log_param(self, run: str, path: str, value: Any) -> None:
        self.params[path] = value

    def update_run(self, run: str, status: str) -> None:
        self.statuses.append(status)

    def set_terminated(self, run: str, status: str = "FINISHED") -> None:
        self.statuses.append(status)

    def get_metric_history(self, run: str, name: str) -> list[Any]:
        return [SimpleNamespace(step=step) for _, key, _, step in self.metrics if key == name]

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.metrics.append((run, name, value, step))


def put_in(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the package mlflow."""
    fake = ModuleType("mlflow")
    fake.MlflowClient = client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delitem(sys.modules, "slotkit.loggers.mlflow", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_run_that_mlflow_did_not_take_is_ended(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    class Client(FakeClient):
        metrics, params, statuses, places = [], {}, [], []

        def log_param(self, run: str, path: str, value: Any) -> None:
            raise ValueError("the value is too long")

    put_in(Client, monkeypatch)
    told: list[str] = []
    Loggers(["mlflow"], training, told.append).close()
    monkeypatch.delitem(sys.modules, "slotkit.loggers.mlflow")
    assert Client.statuses == ["FAILED"]
    assert told == [
        "The logger mlflow failed and gets nothing more: ValueError: the value is too long. The training "
        "goes on without it."
    ]
    assert not list(training.folder.glob("mlflow*"))


def test_mlflow_goes_on_with_its_run(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    class Client(FakeClient):
        metrics, params, statuses, places = [], {}, [], []

    put_in(Client, monkeypatch)
    for first in (1, 3):
        loggers = Loggers(["mlflow"], training, pytest.fail)
        for step in range(first, first + 4):
            loggers.log(step, {"train/loss": 1 / step})
        loggers.close(failed=first == 1)
    monkeypatch.delitem(sys.modules, "slotkit.loggers.mlflow")
    assert Client.metrics == [("id of mine", "train/loss", 1 / step, step) for step in range(1, 7)]
    assert Client.params == {"slots.k": 8}
    assert Client.statuses == ["RUNNING", "FAILED", "RUNNING", "FINISHED"]
    assert Client.places == [f"sqlite:///{training.folder / 'mlflow.db'}"] * 2
