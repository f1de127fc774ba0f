"""What a run writes while it trains: metrics, log, times and the summary."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from slotkit.runs.folder import RunFolder
from slotkit.training.evaluation import Reading
from slotkit.training.loop import Epoch, Event, Note, Step
from slotkit.training.trainee import Trainee


class Journal:
    """The files of a run that grow while it trains.

    metrics.jsonl is a function of the settings alone, to the last bit; clocks go to times.jsonl.
    """

    def __init__(self, folder: RunFolder, trainee: Trainee) -> None:
        self.folder = folder
        self.started = time.perf_counter()
        self.seconds_before = 0.0
        machine = trainee.machine
        self.values: dict[str, Any] = {
            "status": "running",
            "name": folder.name,
            "weights": sum(math.prod(reel.shape) for reel in machine.reels.values())
            if machine
            else sum(parameter.numel() for parameter in trainee.model.parameters()),
            "epochs": 0,
            "best_epoch": None,
            "validation": {},
            "test": {},
        }
        if trainee.topology:
            start = trainee.topology.density
            self.values["sparse"] = {"density": start, "updates": 0, "explored": start}

    def go_on(self, metrics_bytes: int, seconds: float) -> None:
        """Cut the metrics back to the length they had at a checkpoint, and continue from there.

        `seconds` were trained before.
        """
        self.seconds_before = seconds
        self.folder.cut_metrics(metrics_bytes)
        for entry in self.folder.metrics():
            if entry["kind"] == "epoch":
                self._count(entry)
            elif entry["kind"] == "mask":
                self._count_update(entry)
        self._write_summary()

    def write(self, event: Event) -> list[dict[str, Any]]:
        """One event of the training loop. Returns what metrics.jsonl has of it."""
        if isinstance(event, Step):
            return self._write_step(event)
        entries: list[dict[str, Any]] = []
        if isinstance(event, Epoch):
            entry = {
                "kind": "epoch",
                "epoch": event.epoch,
                "step": event.step,
                "lr": event.lr,
                "loss": event.loss,
                "validation": {"reading": event.validation.kind, **event.validation.as_dict()},
                "best": event.best,
            }
            entries.append(entry)
            self.folder.append("metrics.jsonl", entry)
            self.folder.append("times.jsonl", {"epoch": event.epoch, "seconds": round(event.seconds, 3)})
            self._count(entry)
            self._write_summary()
        self.folder.log(line(event))
        return entries

    def finish(self, test: Mapping[str, Mapping[str, Reading]]) -> None:
        self.values["status"] = "finished"
        self.values["test"] = {
            which: {kind: reading.as_dict() for kind, reading in readings.items()}
            for which, readings in test.items()
        }
        self._write_summary()

    def stop(self, status: str, reason: str) -> None:
        """Training ended early: "interrupted", "stopped", "diverged" or "failed"."""
        self.values |= {"status": status, "reason": reason}
        self._write_summary()

    def _write_step(self, event: Step) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        if event.loss is not None:
            told = {"epoch": event.epoch, "step": event.step, "lr": event.lr, "loss": event.loss}
            entries.append({"kind": "step", **told})
        if event.change is not None:
            entries.append({"kind": "mask", "epoch": event.epoch, **event.change.as_dict()})
            self._count_update(entries[-1])
        for entry in entries:
            self.folder.append("metrics.jsonl", entry)
        return entries

    def _count_update(self, entry: Mapping[str, Any]) -> None:
        self.values["sparse"] |= {
            "updates": self.values["sparse"]["updates"] + 1,
            "explored": entry["explored"],
        }

    def _count(self, entry: Mapping[str, Any]) -> None:
        self.values["epochs"] = entry["epoch"]
        validation = dict(entry["validation"])
        reading = {"epoch": entry["epoch"], "kind": validation.pop("reading"), **validation}
        self.values["validation"]["last"] = reading
        if entry["best"]:
            self.values["best_epoch"] = entry["epoch"]
            self.values["validation"]["best"] = reading

    def _write_summary(self) -> None:
        self.values["seconds"] = round(self.seconds_before + time.perf_counter() - self.started, 3)
        self.folder.write_summary(self.values)


def line(event: Epoch | Note) -> str:
    """An event as one line of text."""
    if isinstance(event, Note):
        return event.text
    best = ", best so far" if event.best else ""
    return (
        f"epoch {event.epoch}/{event.epochs}: loss {event.loss:.4f}, validation {event.validation}{best}, "
        f"lr {event.lr:.4g}, {event.seconds:.1f} s"
    )
