"""The numbers that loggers get: those of metrics.jsonl by name, and how many connections flipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slotkit.training.evaluation import Reading
from slotkit.training.trainee import Trainee


def measures_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """An entry of metrics.jsonl: of a step, of an update of the mask, or of an epoch, whose loss is the mean
    over its steps.
    """
    if entry["kind"] == "mask":
        return {f"mask/{name}": entry[name] for name in ("rate", "dropped", "new", "explored")}
    if entry["kind"] == "step":
        return {"train/loss": entry["loss"], "train/lr": entry["lr"]}
    reading = entry["validation"]
    validation = {"validation/accuracy": reading["accuracy"], "validation/loss": reading["loss"]}
    return {"epoch": entry["epoch"], "train/epoch_loss": entry["loss"], **validation}


def flips_of(trainee: Trainee) -> dict[str, float]:
    """How many connections took another option in the last step. Known at no cost in the latent form, and
    under greedy selection: under PS a draw that differs is no flip."""
    machine = trainee.machine
    if machine is None or machine.selection != "greedy" or not machine.form.latents:
        return {}
    return {"slots/flips": sum(weight.changed for weight in machine.form.latents.values())}


def tests_of(readings: Mapping[str, Mapping[str, Reading]]) -> dict[str, float]:
    """The test accuracies at the end: "test/best/greedy", ..."""
    return {
        f"test/{which}/{kind}": reading.accuracy
        for which, kinds in readings.items()
        for kind, reading in kinds.items()
    }
