"""The verdict of `thresholds`: are the thresholds too far apart for the gradients that reels get?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from slotkit.analyses.common.comparison import at_its_own, differ_by_k, largest_layer
from slotkit.analyses.common.findings import lacking
from slotkit.analyses.common.statistics import typical

from slotkit.errors import many

if TYPE_CHECKING:
    import pandas as pd


_ALONE = "a reel with one reachable option never flips"


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """A paragraph for each group, about its largest layer; means over runs."""
    for group, rows in table.groupby("group", sort=False):
        yield from _group(str(group), rows)
    if differ_by_k(table):
        yield from _across_k(table)


def _group(group: str, rows: pd.DataFrame) -> Iterator[str]:
    layers = list(rows.loc[rows["quantity"] == "margin", "layer"].unique())
    runs = rows["run"].nunique()
    margins = rows[rows["quantity"] == "margin"]
    first, last = margins["at"].min(), margins["at"].max()
    yield f"{group} ({many(runs, 'run')}, {last:,.0f} steps):"
    for layer in layers:
        mine = rows[rows["layer"] == layer]
        margin, speed, wait = (
            [_median(mine, name, bound) for bound in ("min", "max")]
            for name in ("margin", "speed", "steps_to_flip")
        )
        if not np.isfinite(margin[1]):
            c = at_its_own(mine[mine["quantity"] == "c"], "max")
            why = "c has underflowed to 0" if len(c) and _mean(c) == 0 else _ALONE
            yield f"  {layer}: no thresholds at the end ({why})."
            continue
        yield (
            f"  {layer}: the median reel is {margin[1]:.2g} from its next threshold at the end "
            f"({margin[0]:.2g} at step {first:,.0f}), moves {speed[1]:.2g} a step ({speed[0]:.2g}), and has "
            f"the threshold ahead of it {_steps(wait[1])} steps away ({_steps(wait[0])})."
        )
        yield f"    {_verdict(mine)}{_changes(first, margin, speed)}"
        yield f"    {_prediction(mine)}"
    largest = largest_layer(rows)
    yield from _line(rows, largest)
    yield from _rate_at_the_end(rows)
    yield from _restarts(rows, largest)
    k = int(rows["k"].iloc[0])
    reachable, law = (
        rows[(rows["quantity"] == name) & (rows["at"] == k)]
        for name in ("reachable options", "reachable, by law")
    )
    if len(reachable):
        by_law = f"; the law of large K, (4/3) ln K + 0.845, has {_mean(law):.2f}" if len(law) else ""
        yield f"  Of K = {k} options {_mean(reachable):.2f} are reachable on average{by_law}."


def _verdict(mine: pd.DataFrame) -> str:
    """Slow if most reels can't reach a threshold within as many steps as were trained."""
    late = late_share(mine[mine["quantity"] == "steps_to_flip"])
    return (
        f"{'Slow' if late > 0.5 else 'Not slow'}: {100 * late:.0f} % of the reels would need longer than the "
        "whole training to get there."
    )


def late_share(waits: pd.DataFrame) -> float:
    """Share of a layer's reels whose threshold ahead is farther, at the end of a run, than the run was long:
    the mean over runs.
    """
    ends = at_its_own(waits, "max").sort_values("level")
    shares = [
        quantile_at(rows["level"], rows["value"].to_numpy(), rows["at"].iloc[0])
        for _, rows in ends.groupby("run")
    ]
    return 1 - float(np.mean(shares))


def _changes(first: float, margin: Sequence[float], speed: Sequence[float]) -> str:
    """What made them so, from margins and speeds at the first step and the last; nothing of what was 0."""
    if not (margin[0] and speed[0]):
        return ""
    return (
        f" Margins are {margin[1] / margin[0]:.2g} times, speeds {speed[1] / speed[0]:.2g} times those of "
        f"step {first:,.0f}."
    )


def _prediction(mine: pd.DataFrame) -> str:
    rows = mine[mine["quantity"] == "predicted / observed"]
    ratios = {level: _mean(rows[rows["level"] == level]) for level in sorted(rows["level"].unique())}
    words = [
        f"{ratio:.2g} (from the {100 * level:.0f} % level)"
        for level, ratio in ratios.items()
        if np.isfinite(ratio)
    ]
    if not words:
        return "No flip was seen where steps_to_flip predicts some: there is no ratio of the two."
    return f"Flip rate predicted from steps_to_flip over the observed one, median: {', '.join(words)}."


def _line(rows: pd.DataFrame, layer: str) -> Iterator[str]:
    c = rows[(rows["quantity"] == "c") & (rows["layer"] == layer)]
    if c.empty:
        yield (
            "  In the dense form a margin is the gap between the highest score and the next one, in units of "
            "scores, and the flip ahead is that of the first score to reach the highest."
        )
        return
    end = _mean(at_its_own(c, "max"))
    if end == 1:
        yield "  c stays 1: without an L2 penalty the initial scores, and so the thresholds, never fade."
        return
    if end == 0:
        yield "  c has underflowed to 0: the initial scores are gone, and any A is beyond all thresholds."
        return
    forgotten = _mean(rows[(rows["quantity"] == "c forgotten") & (rows["layer"] == layer)])
    further = 1 / max(abs(end), 1e-300)
    yield (
        f"  c falls to {end:.3g}: the initial scores fade by 1/e in {_steps(forgotten)} steps. Thresholds in "
        f"A shrink with c, so that the same step in A moves u {further:.3g} times as far as "
        "at the start."
    )


def _rate_at_the_end(rows: pd.DataFrame) -> Iterator[str]:
    lr = rows[rows["quantity"] == "lr"]
    end, highest = _mean(at_its_own(lr, "max")), lr["value"].max()
    if end < 0.5 * highest:
        yield (
            f"  The learning rate ends at {100 * end / highest:.2g} % of the highest measured: the speeds of "
            "the end say as much about the schedule as about the gradients."
        )


def _restarts(rows: pd.DataFrame, layer: str) -> Iterator[str]:
    mine = rows[rows["layer"] == layer]
    for step in sorted(mine.loc[mine["quantity"] == "rate after restart", "at"].unique()):
        at = mine[mine["at"] == step]
        before, after, slow, fast = (
            _mean(at[at["quantity"] == f"{name} restart"])
            for name in ("rate before", "rate after", "speed before", "speed after")
        )
        yield (
            f"  Restart of the learning rate at step {step:,.0f}, {layer}: {before:,.0f} flips a step and "
            f"million reels before, {after:,.0f} after; median speed {_speed(slow)} before, {_speed(fast)} "
            "after."
        )


def _speed(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else "not measured"


def _across_k(table: pd.DataFrame) -> Iterator[str]:
    layer = largest_layer(table)
    if lacking(table, layer):
        return  # networks that have no layer in common are not compared by it
    found = []
    for k, rows in table[table["layer"] == layer].groupby("k"):
        found.append(
            f"{k}: margin {_median(rows, 'margin', 'max'):.2g}, speed {_median(rows, 'speed', 'max'):.2g}, "
            f"{_steps(_median(rows, 'steps_to_flip', 'max'))} steps"
        )
    yield f"By K, median reel of {layer} at the end: " + "; ".join(found) + "."


def _median(rows: pd.DataFrame, quantity: str, bound: str) -> float:
    """`typical` of runs, of a quantity's median, at each run's own first ("min") or last ("max") step."""
    return _mean(at_its_own(rows[(rows["quantity"] == quantity) & (rows["level"] == 0.5)], bound))


def _mean(rows: pd.DataFrame) -> float:
    return typical(rows["value"])


def _steps(value: float) -> str:
    return "infinitely many" if np.isinf(value) else f"{value:,.0f}"


def quantile_at(levels: Any, values: NDArray[np.float64], wanted: float) -> float:
    """The share of reels whose value is at most `wanted`, interpolated on the logarithm of the value."""
    finite = np.isfinite(values) & (values > 0)
    if not finite.any():
        return 0.0
    at, share = np.log(values[finite]), np.asarray(levels, np.float64)[finite]
    return float(np.interp(np.log(wanted), at, share, left=0.0))
