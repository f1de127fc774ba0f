"""The figure of `gap`, from its table alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from slotkit.analyses.common.style import COLOURS, GREY, legend, panels, say

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# How many interactions are shown below the effects: the largest ones.
INTERACTIONS = 3

# quantity -> (legend, colour, marker, how far above the middle of its row)
LOOKS = {
    "effect": ("main effect", COLOURS[0], "o", 0.0),
    "reading": ("same checkpoints, read both ways", COLOURS[4], "s", 0.0),
    "interaction": ("interaction (aliased pairs)", COLOURS[3], "D", 0.0),
    "step up": ("reproduction, this alone changed", COLOURS[1], "^", 0.22),
    "step down": ("reference, this alone changed back", COLOURS[2], "v", -0.22),
}


def plot(table: pd.DataFrame) -> Figure:
    """Left: effects in points with their intervals, the largest above. Right: the runs' accuracies."""
    rows = _rows(table)
    figure, grid = panels(1, 2, "The gap, setting by setting: effects with 95 % intervals")
    figure.set_size_inches(10.5, 2.0 + 0.5 * len(rows))
    effects, accuracies = grid[0]
    effects.get_gridspec().set_width_ratios([1.8, 1])
    _forest(effects, table, rows)
    _accuracies(accuracies, table)
    legend(figure, list(zip(*effects.get_legend_handles_labels(), strict=True)))
    return figure


def _rows(table: pd.DataFrame) -> list[str]:
    """The names of the rows, from above: factors between the ends, other factors, interactions."""
    main = table[table["quantity"].isin(["effect", "reading"])]
    between = main["between"].astype(bool)
    pairs = table[(table["quantity"] == "interaction") & table["value"].notna()].head(INTERACTIONS)
    return [*main.loc[between, "name"], *main.loc[~between, "name"], *pairs["name"]]


def _forest(axes: Axes, table: pd.DataFrame, rows: list[str]) -> None:
    for quantity, (label, colour, marker, above) in LOOKS.items():
        mine = table[(table["quantity"] == quantity) & table["name"].isin(rows) & table["value"].notna()]
        if mine.empty:
            continue
        values, low, high = (mine[column].to_numpy(np.float64) for column in ("value", "low", "high"))
        axes.errorbar(
            values,
            [rows.index(name) - above for name in mine["name"]],
            xerr=np.nan_to_num([values - low, high - values]),
            fmt=marker,
            color=colour,
            markersize=5.5,
            capsize=2.5,
            label=label,
        )
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(rows)), [_label(table, name) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    say(axes, _largest(table), "test accuracy gained (percentage points)", "")


def _largest(table: pd.DataFrame) -> str:
    effects = table[(table["quantity"] == "effect") & table["value"].notna()]
    if effects.empty:
        return "0 effects can be told from the runs there are"
    first = effects.loc[effects["value"].abs().idxmax()]
    return f"{first['name']} has the largest effect: {first['value']:+.2f} points"


def _label(table: pd.DataFrame, name: str) -> str:
    row = table[table["name"] == name].iloc[0]
    if row["quantity"] == "interaction":
        first, *others = name.split(" = ")
        return f"{first}\n(and {len(others)} aliased pairs)" if others else first
    shared = "" if row["between"] else " (ends agree)"
    return f"{name}{shared}\n{row['low_level']} → {row['high_level']}"


def _accuracies(axes: Axes, table: pd.DataFrame) -> None:
    runs = table[table["quantity"] == "accuracy"]
    ends = table[table["quantity"] == "end"]
    # Spread sideways by cell, so that the seeds of a cell stand above each other.
    cells = {cell: column for column, cell in enumerate(sorted(runs["cell"].unique()))}
    offsets = [(cells[cell] - (len(cells) - 1) / 2) / len(cells) for cell in runs["cell"]]
    axes.scatter(offsets, runs["value"], s=12, color=GREY, linewidth=0)
    for x, (_, end) in zip((1.0, 2.0), ends.iterrows(), strict=True):
        if np.isfinite(end["value"]):
            reach = np.nan_to_num([[end["value"] - end["low"]], [end["high"] - end["value"]]])
            axes.errorbar([x], [end["value"]], yerr=reach, fmt="o", color=COLOURS[0], capsize=3)
            text = f"{end['value']:.1f}"
            axes.annotate(text, (x, end["value"]), xytext=(7, -3), textcoords="offset points")
    axes.set_xticks([0, 1, 2], ["every run", "reference", "reproduction"])
    axes.set_xlim(-0.6, 2.8)
    gap = float(ends["value"].iloc[0] - ends["value"].iloc[1])
    known = f"the gap is {gap:.2f} points" if np.isfinite(gap) else "0 points are known: an end is missing"
    say(axes, known, "", "test accuracy (%)")
    axes.set_xlabel("\n".join(str(name) for name in ends["name"]))
