"""The runs of a `gap` sweep: a folder with the plan, and one ordinary run folder for each cell and seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slotkit.analyses.gap.plan import Cell, Plan
from slotkit.analyses.gap.sources import DROPOUT

from slotkit.config import Overrides
from slotkit.errors import SlotkitError, many, typed
from slotkit.files import write_whole
from slotkit.runs.fingerprint import FREE
from slotkit.runs.folder import RunFolder, default_runs_dir
from slotkit.runs.schema import Finite, Told, naming, read_json
from slotkit.sweeps import registry
from slotkit.sweeps import run as engine
from slotkit.sweeps.contract import Options
from slotkit.sweeps.manifest import Entry
from slotkit.sweeps.plan import Planned, key_of
from slotkit.sweeps.sweep import State, SweepRun
from slotkit.sweeps.sweep import start as start_runs
from slotkit.training.experiment import evaluate
from slotkit.training.loop import Note

PLAN = "gap.json"
READINGS = "readings.json"

# Where a sweep says that its runs are asked for.
SOURCE = "slotkit analyze gap"

Report = Callable[[engine.Event | Note], None]


@dataclass(frozen=True)
class Sweep:
    """A sweep on the disk.

    Attributes:
        executor: where its runs are trained, by name; `options` say how.
    """

    path: Path
    plan: Plan
    executor: str = "inline"
    options: Options = field(default_factory=Options)

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

    def planned(self) -> list[Planned]:
        """The same for the engine, with what each cell has of every factor."""
        return [
            Planned(tuple(self.plan.layers(cell, seed)), _levels(self.plan, cell), seed, folder.name)
            for cell, seed, folder in self.runs()
        ]

    def states(self) -> Iterator[tuple[Cell, int, State]]:
        """(cell, seed, how far the run is), in the same order. A damaged run, or one that was trained with
        other settings than its cell has, says so.
        """
        for (cell, seed, folder), planned in zip(self.runs(), self.planned(), strict=True):
            settings = planned.settings()
            entry = Entry(name=folder.name, settings=settings)
            yield cell, seed, SweepRun(key_of(settings), entry, folder).state()

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
                f"or analyse the one there with `slotkit analyze gap {typed(path)}`."
            )
        plan = replace(plan, seeds=tuple(dict.fromkeys([*there.seeds, *plan.seeds])))
    sweep = Sweep(path, plan)
    start_runs(path, sweep.planned(), SOURCE)
    _write(path / PLAN, plan.as_dict())
    return sweep


def train(sweep: Sweep, report: Report = lambda event: None) -> None:
    """Train what is left of it, see `slotkit.sweeps.run.train`.

    Raises SlotkitError, too, if runs failed, with the error of the first.
    """
    planned = sweep.planned()
    runs, _ = start_runs(sweep.path, planned, SOURCE)
    report(Note(_design(sweep.plan, len(planned))))
    failed = engine.train(runs, planned, registry.make(sweep.executor, sweep.options), report)
    if failed:
        first = failed[0].entry
        raise SlotkitError(
            f"{len(failed)} of {many(len(planned), 'run')} failed. The first is {first.name}: "
            f"{first.failures[-1].error}"
        )


def _design(plan: Plan, runs: int) -> str:
    p, cells = len(plan.factors), len(plan.cells)
    kind = "full factorial" if cells == 2**p else "resolution IV"
    more = len(plan.trained()) - cells
    ends = f" and {more} more at the ends" if more else ""
    return (
        f"{many(p, 'factor')} in {cells} cells ({kind}){ends}, {many(len(plan.seeds), 'seed')}: "
        f"{many(runs, 'run')} of {many(plan.epochs, 'epoch')}."
    )


def _levels(plan: Plan, cell: Cell) -> dict[str, str]:
    pairs = zip(plan.factors, cell, strict=True)
    return {factor.name: factor.high_words if level > 0 else factor.low_words for factor, level in pairs}


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
