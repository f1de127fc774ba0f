"""The runs of a `gap` sweep: a folder with the plan, and one ordinary run folder for each cell and seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slotkit.analyses.gap.plan import Cell, Plan
from slotkit.analyses.gap.sources import DROPOUT

from slotkit.config import Overrides
from slotkit.errors import SlotkitError
from slotkit.files import unwritable, write_whole
from slotkit.runs.fingerprint import FREE
from slotkit.runs.folder import RunFolder, default_runs_dir
from slotkit.runs.schema import Finite, Told, naming, read_json
from slotkit.training import sweep as engine
from slotkit.training.experiment import Report, evaluate

PLAN = "gap.json"
READINGS = "readings.json"


@dataclass(frozen=True)
class Sweep:
    """A sweep on the disk."""

    path: Path
    plan: Plan

    @classmethod
    def open(cls, path: Path) -> Sweep:
        """The sweep in that folder. Raises SlotkitError if its plan can't be read."""
        try:
            told = json.loads((path / PLAN).read_text(encoding="utf-8"))
            return cls(path, Plan.from_dict(told))
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise SlotkitError(
                f"{path / PLAN} can't be read: {fault}. Restore it, or train the sweep under another --name."
            ) from fault

    def runs(self) -> Iterator[tuple[Cell, int, RunFolder]]:
        """(cell, seed, folder) of every run, there or not, in the order of training.

        All of a seed come before the next seed, the ends and their neighbours before the rest, so that an
        interrupted sweep has them.
        """
        cells = self.plan.trained()
        near = {cell for end in self.plan.ends for cell in (end, *self.plan.neighbours(end).values())}
        for seed in self.plan.seeds:
            for index in sorted(range(len(cells)), key=lambda i: cells[i] not in near):
                yield cells[index], seed, RunFolder(self.path / f"cell-{index + 1:02}-seed-{seed}")

    def readings(self, folder: RunFolder) -> dict[str, dict[str, float]]:
        """Test accuracies (fractions) of a run's best checkpoint: by dropout ("off", "on"), then kind."""
        path = folder.path / READINGS
        if path.is_file():
            with naming(path, "Delete it: it is made anew from the run."):
                return _Readings.model_validate({"readings": read_json(path)}).readings
        best = folder.summary()["test"]["best"]
        readings = {"off": {kind: reading["accuracy"] for kind, reading in best.items()}}
        if any(DROPOUT in factor.low for factor in self.plan.readings):
            noisy = evaluate(folder, "best", "test", [Overrides("slotkit analyze gap", {DROPOUT: True})])
            readings["on"] = {kind: reading.accuracy for kind, reading in noisy.items()}
        _write(path, readings)
        return readings


class _Readings(Told):
    readings: dict[str, dict[str, Finite]]


def find(sweep: Path | str, runs_dir: Path | None = None) -> Path:
    """The folder of a sweep, given as a path or as a name in `runs_dir`."""
    for path in (Path(sweep), (runs_dir or default_runs_dir()) / sweep):
        if (path / PLAN).is_file():
            return path
    raise SlotkitError(
        f"There is no sweep {str(sweep)!r}, neither as a path nor in {runs_dir or default_runs_dir()}: no "
        f"{PLAN} is there. Train one with --dataset and --model."
    )


def start(plan: Plan, path: Path) -> Sweep:
    """The sweep of that plan in that folder: a new one, or the one that is there.

    Seeds are added to those it has. Raises SlotkitError if another plan is there, or other files.
    """
    if (path / PLAN).is_file():
        there = Sweep.open(path).plan
        different = [name for name, old, new in _compared(there, plan) if old != new]
        if different:
            raise SlotkitError(
                f"{path} holds another sweep: it differs in {', '.join(different)}. Choose another --name, "
                f"or analyse the one there with `slotkit analyze gap {path}`."
            )
        plan = replace(plan, seeds=tuple(dict.fromkeys([*there.seeds, *plan.seeds])))
    elif path.exists() and any(path.iterdir()):
        raise SlotkitError(f"{path} is there already and no sweep. Choose another --name.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise unwritable(path, fault) from fault
    _write(path / PLAN, plan.as_dict())
    return Sweep(path, plan)


def train(sweep: Sweep, report: Report = lambda event: None) -> None:
    """Train what is left of it and read what is finished, see `slotkit.training.sweep.train`."""
    cells = [
        engine.Cell(folder.name, tuple(sweep.plan.layers(cell, seed)), _said(sweep.plan, cell))
        for cell, seed, folder in sweep.runs()
    ]
    engine.train(
        sweep.path,
        cells,
        report,
        begin=lambda runs, left: _estimate(sweep.plan, runs, left),
        read=lambda folder: sweep.readings(folder)["off"]["greedy"],
    )


def _estimate(plan: Plan, runs: int, left: int) -> str:
    p, cells = len(plan.factors), len(plan.cells)
    kind = "full factorial" if cells == 2**p else "resolution IV"
    more = len(plan.trained()) - cells
    ends = f" and {more} more at the ends" if more else ""
    return (
        f"{p} factor{'s' if p > 1 else ''} in {cells} cells ({kind}){ends}, {len(plan.seeds)} "
        f"seed{'s' if len(plan.seeds) > 1 else ''}: {runs} runs of {plan.epochs} epochs, {left} of them left "
        "to train."
    )


def _said(plan: Plan, cell: Cell) -> str:
    pairs = zip(plan.factors, cell, strict=True)
    return ", ".join(f"{f.name} {f.high_words if level > 0 else f.low_words}" for f, level in pairs)


def _compared(there: Plan, wanted: Plan) -> Iterator[tuple[str, Any, Any]]:
    """(setting, old, new) of two plans, in what decides their results."""
    old, new = (json.loads(json.dumps(plan.as_dict())) for plan in (there, wanted))
    for plan in (old, new):
        del plan["seeds"]
        for factor in plan["factors"] + plan["readings"]:
            del factor["low_words"], factor["high_words"]
        base = plan.pop("base")
        plan |= {path: value for path, value in base.items() if path not in FREE}
    yield from ((name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys()))


def _write(path: Path, value: Any) -> None:
    def write(file: Path) -> None:
        file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    write_whole(path, write)
