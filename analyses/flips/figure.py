"""The figure of `flips`, from its table alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slotkit.analyses.common.comparison import of_reading
from slotkit.analyses.common.style import colours, curves, logarithmic, name_colours, panels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# quantity, title, x label, y label, logarithmic axis
CURVES = (
    ("flip rate", "Flip rate", "training step", "flips / step / million reels", "y"),
    (
        "agreement",
        "Agreement with the final selection",
        "training step",
        "share of reels with their final option",
        "",
    ),
    ("flip-flops", "Flip-flops", "training step", "share of flips that are returns", ""),
    (
        "survival, taken",
        "How long a flip lasts",
        "age of a selection that a flip brought (steps)",
        "share still in use",
        "x",
    ),
)
# Of PS runs alone.
COURSES = (
    ("mean entropy", "Entropy of the softmax", "training step", "mean (nats)"),
    ("weight drift", "Drift of the expected weight", "training step", "share of the bound, a measurement"),
    ("decided reels", "Decided: likeliest option 0.99 or more", "training step", "share of reels"),
)
BARS = (
    ("reels by flips", "Flips of a reel", "flips", "share of reels"),
    ("options visited", "Exploration", "different options used", "share of reels"),
)


def plot(table: pd.DataFrame) -> Figure:
    """One group of runs: a colour for each layer. Several: a colour for each group, all layers together."""
    groups = list(table["group"].unique())
    if len(groups) == 1:
        hue, data, order = "layer", table, list(table["layer"].unique())
        if len(order) == 2:  # one layer, which is all
            data, order = table[table["layer"] == order[0]], order[:1]
    else:
        hue, data, order = "group", table[table["layer"] == "all"], groups
    sampled = table["quantity"].isin([quantity for quantity, *_ in COURSES]).any()
    title = f"Flips: {groups[0]}" if hue == "layer" else f"Flips, all layers{of_reading(table)}"
    figure, grid = panels(3 if sampled else 2, 3, title)
    curve_axes = [grid[0, 0], grid[0, 1], grid[0, 2], grid[1, 2]]
    for axes, (quantity, title, x, y, which) in zip(curve_axes, CURVES, strict=True):
        rows = data[data["quantity"] == quantity]
        _frame(axes, title, x, y)
        curves(axes, rows, hue, order, legend=False)
        if which == "x" and len(rows):
            logarithmic(axes, "x")
        if which == "y" and (rows["value"] > 0).any():
            logarithmic(axes, "y")
        elif quantity != "flip rate":
            axes.set_ylim(0, 1.02)
        _frame(axes, title, x, y)
    for axes, (quantity, title, x, y) in zip((grid[1, 0], grid[1, 1]), BARS, strict=True):
        _bars(axes, data[data["quantity"] == quantity], hue, order)
        _frame(axes, title, x, y)
    if sampled:
        for axes, (quantity, title, x, y) in zip(grid[2], COURSES, strict=True):
            curves(axes, data[data["quantity"] == quantity], hue, order, legend=False)
            axes.set_ylim(0, None)
            _frame(axes, title, x, y)
    # Few reels use many options, so the right of this panel is empty.
    name_colours(grid[1, 1], order, "upper right")
    return figure


def _bars(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    import numpy as np
    import seaborn as sns
    from slotkit.analyses.common.statistics import mean_and_interval

    # A reel of 64 options uses a few: the empty bars to the right are left out.
    rows = rows[rows["at"] <= rows.loc[rows["value"] >= 0.001, "at"].max()] if len(rows) else rows
    if rows.empty:
        axes.text(0.5, 0.5, "needs --trace full", ha="center", transform=axes.transAxes)
        return
    rows = rows.assign(at=rows["at"].astype(int))
    sns.barplot(
        rows,
        x="at",
        y="value",
        hue=hue,
        hue_order=order,
        palette=colours(order),
        ax=axes,
        legend=False,
        saturation=1,
        errorbar=(lambda values: mean_and_interval(np.asarray(values))[1:])
        if rows["run"].nunique() > 1
        else None,
        err_kws={"linewidth": 1.0},
    )
    if rows["quantity"].iloc[0] == "reels by flips":
        axes.set_xticks([0, 1, 2], ["none", "one", "more"])


def _frame(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
