"""The verdict of `ps-variance`: what sampling costs, where the spread comes from, what the scores hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from slotkit.analyses.common.statistics import mean_and_interval

from slotkit.errors import many

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
OVER_RUNS = "over runs"


def sentences(table: pd.DataFrame, split: str) -> Iterator[str]:
    """A paragraph for each group, about its latest checkpoint and how it came to it; means over runs."""
    measured = latest(table[table["run"] != OVER_RUNS])
    for group in table["group"].unique():
        rows = table[table["group"] == group]
        yield from _group(str(group), rows, measured[measured["group"] == group], split)
    if table["k"].nunique() > 1:
        yield from _across_k(measured)


def latest(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the latest checkpoint of each run, under one name of it: that which most runs of its group end
    with, because best and last may be of one step in some of them.
    """
    there = table[table["checkpoint"].notna()]
    last = there[there["at"] == there.groupby("run")["at"].transform("max")]
    runs = last.groupby(["group", "checkpoint"])["run"].transform("nunique")
    last = last[runs == runs.groupby(last["run"]).transform("max")]
    names = last.groupby("run")["checkpoint"].transform("first")
    return last[last["checkpoint"] == names]


def _group(group: str, rows: pd.DataFrame, end: pd.DataFrame, split: str) -> Iterator[str]:
    runs, draws = end["run"].nunique(), int(1 + end.loc[end["quantity"] == "sample accuracy", "level"].max())
    yield (f"{group} ({many(runs, 'run')}, {many(draws, 'draw')} each, {split} images), at {_steps(end)}:")
    yield from _readings(end, draws)
    yield from _variance(rows, end, runs, draws)
    yield from _reels(rows, end)
    yield from _fading(end)


def _steps(end: pd.DataFrame) -> str:
    low, high = end["at"].min(), end["at"].max()
    return f"step {high:,.0f}" if low == high else f"steps {low:,.0f} to {high:,.0f}"


def _readings(end: pd.DataFrame, draws: int) -> Iterator[str]:
    sampled = one(end, "sampled accuracy")
    runs = end["run"].nunique()
    interval = interval_of(end, "sampled accuracy")
    spread = f" ± {100 * one(end, 'sampled spread'):.2f}" if draws > 1 else ""
    over = f" [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]" if max(runs, draws) > 1 else ""
    others = {name: one(end, f"{name} accuracy") for name in ("greedy", "expected", "ensemble")}
    told = [
        f"{words} {100 * others[name]:.2f} % ({100 * (others[name] - sampled):+.2f})"
        for name, words in (
            ("greedy", "the greedy network"),
            ("expected", "the expected weights"),
            ("ensemble", "the ensemble of the samples"),
        )
    ]
    yield f"  A sampled network has {100 * sampled:.2f} %{spread}{over}; {'; '.join(told)}."
    if draws > 1:
        option = one(end, "same option")
        yield (
            f"  Two samples predict the same for {100 * one(end, 'same prediction'):.1f} % of the images and "
            f"share {100 * option:.1f} % of their options ({100 * one(end, 'same option, expected'):.1f} % "
            "expected from the probabilities)."
        )


def _variance(rows: pd.DataFrame, end: pd.DataFrame, runs: int, draws: int) -> Iterator[str]:
    if draws < 2:
        yield "  One draw has no spread: take 2 or more."
        return
    if runs < 2:
        yield "  One run can't tell the spread of seeds: name runs that differ by their seeds, too."
        return
    names = set(end["checkpoint"])
    if len(names) > 1:
        yield f"  The runs end with {' and '.join(sorted(names))}: no split of the variance."
        return
    at = rows[(rows["run"] == OVER_RUNS) & (rows["checkpoint"] == names.pop())]
    if np.isnan(one(at, "seed share")):
        yield "  All samples of all runs have the same accuracy: there is no variance to split."
        return
    low, high = (one(at, "seed share", level=level) for level in (0.025, 0.975))
    yield (
        f"  Standard deviation by sampling {100 * one(at, 'sampling sd'):.2f} points, by seed "
        f"{100 * one(at, 'seed sd'):.2f} points; {100 * one(at, 'seed share'):.0f} % of the variance is by "
        f"seed [{100 * low:.0f}, {100 * high:.0f}] (random effects, F test p = {one(at, 'seed p'):.2g})."
    )
    if end["at"].nunique() > 1:
        yield "  The runs are at different steps here, and what that makes counts as by seed."


def _reels(rows: pd.DataFrame, end: pd.DataFrame) -> Iterator[str]:
    if int(end["k"].iloc[0]) == 1:
        yield "  One option a reel: nothing is drawn."
        return
    start = rows[(rows["checkpoint"] == "start") & (rows["run"] != OVER_RUNS)]
    for layer in [name for name in end["layer"].unique() if name != ALL]:
        mine = end[end["layer"] == layer]
        before = start[start["layer"] == layer]
        yield (
            f"  {layer}: entropy {_course(before, mine, 'entropy share', '.0%')} of ln K, "
            f"{_course(before, mine, 'effective options', '.2f')} effective options, top probability "
            f"{_course(before, mine, 'top probability', '.2f')}, noise share of the weights "
            f"{_course(before, mine, 'noise share', '.0%')}, score spread "
            f"{_course(before, mine, 'score spread', '.2g')}."
        )


def _fading(end: pd.DataFrame) -> Iterator[str]:
    """How fast scores fade. Without gradients A decays as c does, because the recurrence is the same."""
    lines = end[(end["quantity"] == "c") & (end["at"] > 0)]
    c = float(lines["value"].abs().mean())
    if lines.empty or c == 1:
        return
    # If c underflowed, it faded at least as fast as the smallest normal number says.
    steps = -end["at"].mean() / np.log(max(c, np.finfo(np.float64).tiny))
    yield (
        f"  c is {c:.2g}: by the L2 penalty whatever a score holds, initial or learned, fades by 1/e in "
        f"{steps:,.0f} steps. Of the initial scores a spread of {one(end, 'initial spread'):.2g} is left, "
        f"beside {one(end, 'score spread'):.2g} in all."
    )


def _across_k(end: pd.DataFrame) -> Iterator[str]:
    found = []
    for group, rows in end.groupby("group", sort=False):
        names = ("sampled accuracy", "expected accuracy", "greedy accuracy", "entropy share", "noise share")
        sampled, expected, greedy, entropy, noise = (100 * one(rows, name) for name in names)
        found.append(
            f"{group}: sampled {sampled:.2f} %, expected weights {expected:.2f} %, greedy {greedy:.2f} %, "
            f"entropy {entropy:.0f} % of ln K, noise share {noise:.0f} %"
        )
    yield "At the end, all layers together. " + "; ".join(found) + "."


def interval_of(end: pd.DataFrame, quantity: str) -> tuple[float, float]:
    """The ends of the interval of a quantity: over runs; of one run's sampled accuracy over its draws."""
    if end["run"].nunique() == 1 and quantity == "sampled accuracy":
        low, high = (one(end, quantity, level=level) for level in (0.025, 0.975))
        return low, high
    picked = end[(end["quantity"] == quantity) & (end["layer"] == ALL) & end["level"].isna()]
    return mean_and_interval(picked["value"].to_numpy(np.float64))[1:]


def one(rows: pd.DataFrame, quantity: str, layer: str | None = ALL, level: float | None = None) -> float:
    """Mean over runs (and over layers, if `layer` is None); without a level, of the rows that have none."""
    picked = rows[rows["quantity"] == quantity]
    picked = picked[picked["level"].isna() if level is None else picked["level"] == level]
    if layer is not None:
        picked = picked[picked["layer"] == layer]
    return mean_and_interval(picked["value"].to_numpy(np.float64))[0]


def _course(before: pd.DataFrame, after: pd.DataFrame, quantity: str, form: str) -> str:
    value = format(one(after, quantity, None), form).replace("%", " %")
    if before.empty:
        return value
    return f"{format(one(before, quantity, None), form).replace('%', ' %')} -> {value}"
