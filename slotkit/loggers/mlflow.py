"""MLflow: a run of the experiment "slotkit" where MLFLOW_TRACKING_URI says, by default in RUN/mlflow.db."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mlflow import MlflowClient

from slotkit.loggers.contract import Training
from slotkit.loggers.known_run import known_run

EXPERIMENT = "slotkit"


class MLflow:
    def __init__(self, training: Training) -> None:
        # A database, because MLflow has given up folders of text files.
        own = f"sqlite:///{(training.folder / 'mlflow.db').absolute()}"
        self.client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or own)
        self.run = known_run(training.folder, "mlflow", lambda: self._begin(training))
        self.client.update_run(self.run, status="RUNNING")
        self.last: dict[str, int] = {}

    def _begin(self, training: Training) -> str:
        there = self.client.get_experiment_by_name(EXPERIMENT)
        experiment = there.experiment_id if there else self.client.create_experiment(EXPERIMENT)
        run: str = self.client.create_run(experiment, run_name=training.name).info.run_id
        try:
            for path, value in training.settings.items():
                self.client.log_param(run, path, value)
        except Exception:
            # Nobody goes on with it: its id is not in the folder yet.
            self.client.set_terminated(run, status="FAILED")
            raise
        return run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            # MLflow keeps every value that it is given: none may be given twice.
            if name not in self.last:
                told = self.client.get_metric_history(self.run, name)
                self.last[name] = max((metric.step for metric in told), default=-1)
            if step > self.last[name]:
                self.client.log_metric(self.run, name, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.run)

    def fail(self) -> None:
        self.client.set_terminated(self.run, status="FAILED")


make = MLflow
