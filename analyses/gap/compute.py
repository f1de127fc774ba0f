"""The table of `gap`, from a sweep that is trained; its quantities are in the package's docstring."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from slotkit.analyses.common.result import Result
from slotkit.analyses.common.statistics import mean_and_interval
from slotkit.analyses.gap.factorial import Pair, alias_groups, estimate
from slotkit.analyses.gap.plan import Cell, Plan
from slotkit.analyses.gap.sources import DROPOUT, SAMPLING, Factor

from slotkit.errors import SlotkitError
from slotkit.runs.listing import left_out
from slotkit.sweeps.sweep import DAMAGED

if TYPE_CHECKING:
    import pandas as pd
    from slotkit.analyses.gap.sweep import Sweep

COLUMNS = [
    *("quantity", "name", "low_level", "high_level", "between"),
    *("value", "low", "high", "n", "run", "cell", "seed"),
]

# The statuses of the runs in the table; whether a run collapsed is decided here.
STATUSES = ("finished", "collapsed", "diverged")

Row = dict[str, Any]


def analyze(sweep: Path | str, runs_dir: Path | None = None) -> Result:
    """Main effects and interactions of a sweep that `slotkit analyze gap` trained. Trains nothing.

    Runs that are missing, diverged, damaged or trained with other settings are left out, and the verdict says
    so.

    Args:
        sweep: its folder, or its name in `runs_dir`.

    Raises SlotkitError if it is no sweep, or has no finished run of its design.
    """
    from slotkit.analyses.gap.figure import plot
    from slotkit.analyses.gap.sweep import Sweep, find
    from slotkit.analyses.gap.words import sentences

    found = Sweep.open(find(sweep, runs_dir))
    runs = list(_runs(found))
    table = _tabulate(found.plan, runs)
    faults = [left_out(run["run"], run["fault"], run["status"]) for run in runs if run["fault"]]
    return Result("gap", table, "\n".join(sentences(found.plan, table, faults)), plot)


def _tabulate(plan: Plan, runs: list[Row]) -> pd.DataFrame:
    """The table, from the runs' rows: run, cell (a tuple), seed, status, readings (see `Sweep.readings`),
    fault.
    """
    import pandas as pd

    accuracies = [
        {
            "quantity": "accuracy",
            "name": run["status"],
            "value": _read(run, plan, _usual(plan)),
            "n": 1,
            "run": run["run"],
            "cell": "".join("+" if level > 0 else "-" for level in run["cell"]),
            "seed": run["seed"],
        }
        for run in runs
        if run["status"] in STATUSES
    ]
    design = {tuple(int(level) for level in cell) for cell in plan.cells}
    finished = [run for run in runs if run["readings"] is not None]
    inside = [run for run in finished if run["status"] == "finished" and run["cell"] in design]
    if not inside:
        nothing = (
            "No run of the design is finished, so there is nothing to estimate from. Train the sweep with "
            "`slotkit analyze gap` and the options that it was started with."
        )
        raise SlotkitError(next((run["fault"] for run in runs if run["fault"]), nothing))
    steps = list(_steps(plan, finished))
    rows = [*_ranked(_effects(plan, inside), steps), *steps, *_ends(plan, finished), *accuracies]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"name": object})


def _runs(sweep: Sweep) -> Iterator[Row]:
    for cell, seed, state in sweep.states():
        folder, reached, fault, readings = state.run.folder, state.status, state.fault, None
        if reached == "finished":
            try:
                readings = sweep.readings(folder)
            except SlotkitError as unread:
                reached, fault = DAMAGED, str(unread)
        if readings and any(map(_collapsed, state.summary["validation"].values())):
            reached = "collapsed"
        about = {"run": folder.name, "cell": cell, "seed": seed}
        yield about | {"status": reached, "readings": readings, "fault": fault}


def _collapsed(validation: Mapping[str, float]) -> bool:
    """Whether a network does no better than chance.

    Equal probabilities of C classes have a loss of log C and an accuracy of 1 / C: accuracy * exp(loss) is 1.
    A network that tells classes apart is well above 1, unless its loss is small. So one that is right more
    often than not is never said to have collapsed.
    """
    accuracy, loss = validation["accuracy"], validation["loss"]
    return accuracy < 0.5 and math.log(max(accuracy, 1e-9)) + loss < 0.22


def _effects(plan: Plan, runs: list[Row]) -> Iterator[Row]:
    """Main effects, readings, interactions, and what the effects add up to."""
    levels, seeds = np.array([run["cell"] for run in runs]), np.array([run["seed"] for run in runs])
    groups = alias_groups(plan.cells)
    usual = _usual(plan)
    accuracy = np.array([_read(run, plan, usual) for run in runs])
    found = estimate(levels, seeds, accuracy, groups)
    effects = [_factor_row("effect", f) | _interval(found.main[i]) for i, f in enumerate(plan.factors)]
    for factor in plan.readings:
        up, down = usual | {factor.name}, usual - {factor.name}
        gains = np.array([_read(run, plan, up) - _read(run, plan, down) for run in runs])
        paired = estimate(levels, seeds, gains, groups)
        effects.append(_factor_row("reading", factor) | _interval(paired.mean))
    interactions = [
        {"quantity": "interaction", "name": _group_name(plan, group), **_interval(found.pairs[i])}
        for i, group in enumerate(groups)
    ]
    yield from (row | {"n": len(runs)} for row in (*effects, *interactions))
    yield {
        "quantity": "explained",
        "value": sum(row["value"] for row in effects if row["between"]),
        "n": len(runs),
    }


def _ranked(rows: Iterable[Row], steps: list[Row]) -> list[Row]:
    """Rows by quantity, the largest of each first; unknown values last."""

    def size(row: Row) -> float:
        own = [step["value"] for step in steps if step["name"] == row.get("name")]
        value = abs(np.mean(own)) if own and np.isfinite(own).all() else abs(row["value"])
        return float(np.nan_to_num(value, nan=-1.0))

    order = ("effect", "reading", "interaction", "explained")
    return sorted(rows, key=lambda row: (order.index(row["quantity"]), -size(row)))


def _steps(plan: Plan, runs: list[Row]) -> Iterator[Row]:
    """One factor changed at either end; all runs are read as the reference is."""
    usual = _usual(plan)
    for quantity, end, sign in zip(("step down", "step up"), plan.ends, (-1, 1), strict=True):
        at_end = _by_seed(plan, runs, end, usual)
        for index, cell in plan.neighbours(end).items():
            there = _by_seed(plan, runs, cell, usual)
            gains = [sign * (there[seed] - at_end[seed]) for seed in there if seed in at_end]
            yield _factor_row(quantity, plan.factors[index]) | _over_seeds(gains)


def _ends(plan: Plan, runs: list[Row]) -> Iterator[Row]:
    reference, reproduction = (
        _by_seed(plan, runs, cell, high)
        for cell, high in zip(plan.ends, (_usual(plan), set[str]()), strict=True)
    )
    for name, by_seed in ((plan.reference, reference), (plan.reproduction, reproduction)):
        yield {"quantity": "end", "name": name, **_over_seeds(list(by_seed.values()))}
    both = [reference[seed] - reproduction[seed] for seed in reference if seed in reproduction]
    yield {"quantity": "gap", **_over_seeds(both)}


def _by_seed(plan: Plan, runs: list[Row], cell: Cell, high: set[str]) -> dict[int, float]:
    return {run["seed"]: _read(run, plan, high) for run in runs if run["cell"] == cell}


def _read(run: Row, plan: Plan, high: set[str]) -> float:
    """The reading of a run, in %, with the factors of evaluation named in `high` at their high level."""
    if run["readings"] is None:
        return np.nan
    settings = {path: plan.base.get(path) for path in (DROPOUT, SAMPLING)}
    for factor in plan.readings:
        settings |= factor.high if factor.name in high else factor.low
    dropout = "on" if settings[DROPOUT] and "on" in run["readings"] else "off"
    kind = "greedy" if plan.base["slots.selection"] == "greedy" else settings[SAMPLING] or "sample"
    return 100 * float(run["readings"][dropout][kind])


def _usual(plan: Plan) -> set[str]:
    """How the reference is read: the factors of evaluation that are at their high level there."""
    return {factor.name for factor in plan.readings if factor.between}


def _factor_row(quantity: str, factor: Factor) -> Row:
    return {
        "quantity": quantity,
        "name": factor.name,
        "low_level": factor.low_words,
        "high_level": factor.high_words,
        "between": factor.between,
    }


def _interval(values: NDArray[np.float64]) -> Row:
    return dict(zip(("value", "low", "high"), map(float, values), strict=True))


def _over_seeds(values: list[float]) -> Row:
    mean, low, high = mean_and_interval(np.array(values))
    several = len(values) > 1
    return {
        "value": mean,
        "low": low if several else np.nan,
        "high": high if several else np.nan,
        "n": len(values),
    }


def _group_name(plan: Plan, group: list[Pair]) -> str:
    return " = ".join(f"{plan.factors[i].name} x {plan.factors[j].name}" for i, j in group)
