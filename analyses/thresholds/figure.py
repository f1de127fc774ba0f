"""The figure of `thresholds`, from its table alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from slotkit.analyses.common.comparison import largest_layer, of_reading
from slotkit.analyses.common.style import colours, curves, logarithmic, name_colours, panels
from slotkit.analyses.thresholds.envelope import reachable_law

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHED = (4.0, 2.0)


def plot(table: pd.DataFrame) -> Figure:
    """One group of runs: a colour for each layer. Several: a colour for each group, of the largest layer."""
    groups, largest = list(table["group"].unique()), largest_layer(table)
    if len(groups) == 1:
        hue, order = "layer", list(table.loc[table["quantity"] == "margin", "layer"].unique())
        data, title = table, f"Thresholds: {groups[0]}"
    else:
        hue, order = "group", groups
        data, title = (
            table[table["layer"].isin([largest, "all", "any"])],
            f"Thresholds of {largest}{of_reading(table)}",
        )
    figure, grid = panels(2, 3, title)
    name_colours(grid[0, 2], order, "lower right")
    _distances(grid[0, 0], data, hue, order)
    _waiting(grid[0, 1], data, hue, order)
    _quantiles(grid[0, 2], data, hue, order)
    _prediction(grid[1, 0], data, hue, order)
    _reachable(grid[1, 1], table)
    # c is much the same in all layers, and the learning rate is that of the run.
    _line(grid[1, 2], data[data["layer"].isin([largest, "all"])], hue, order)
    return figure


def _distances(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    middle = data[data["level"] == 0.5]
    curves(axes, middle[middle["quantity"] == "margin"], hue, order, legend=False)
    curves(axes, _positive(middle[middle["quantity"] == "speed"]), hue, order, legend=False, dashes=DASHED)
    _logarithmic(axes)
    dense = (data["quantity"] != "c").all()
    unit = "gap of scores" if dense else "in units of u"
    axes.set(title="Margin (line), one step (dashed)", xlabel="training step", ylabel=f"median, {unit}")


def _waiting(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    waits = _positive(data[data["quantity"] == "steps_to_flip"])
    median = waits[waits["level"] == 0.5]
    if len(median):  # it may be infinite for the whole training
        curves(axes, median, hue, order, legend=False)
    curves(axes, waits[waits["level"] == 0.05], hue, order, legend=False, dashes=DASHED)
    if len(waits):
        steps = np.linspace(waits["at"].min(), waits["at"].max(), 100)[:-1]
        axes.plot(steps, waits["at"].max() - steps, color="0.45", linestyle=":", label="steps left")
        axes.legend(handles=[axes.lines[-1]])
    _logarithmic(axes)
    axes.set(
        title="Median wait (line), 5 % level (dashed)",
        xlabel="training step",
        ylabel="steps to the threshold ahead",
    )


def _quantiles(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    waits = _positive(data[data["quantity"] == "steps_to_flip"])
    steps = waits.groupby("run")["at"]  # runs end at steps of their own
    looks: dict[str, Any]
    for bound, looks in ((steps.transform("min"), {"dashes": DASHED}), (steps.transform("max"), {})):
        rows = waits[waits["at"] == bound]
        curves(axes, rows.assign(at=100 * rows["level"]), hue, order, legend=False, **looks)
    _logarithmic(axes)
    axes.set_xlim(-2, 102)
    axes.set(
        title="Waits at the end (line), start (dashed)",
        xlabel="share of reels (%)",
        ylabel="steps to the threshold ahead, at most",
    )


def _prediction(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    seen = data[data["quantity"] == "flip rate"].rename(columns={"value": "observed"})
    predicted = data[(data["quantity"] == "predicted rate") & (data["level"] == 0.05)]
    both = seen.merge(predicted, on=["run", "group", "layer", "at"], suffixes=("", "_"))
    both = both[(both["observed"] > 0) & (both["value"] > 0)]
    for name in order:
        rows = both[both[hue] == name]
        axes.scatter(rows["observed"], rows["value"], s=9, color=colours(order)[name], alpha=0.6, linewidth=0)
    if len(both):
        ends = both[["observed", "value"]].to_numpy()
        axes.plot(*[[ends.min(), ends.max()]] * 2, color="0.45", linestyle=":", label="equal")
        axes.legend()
        logarithmic(axes, "x")
    _logarithmic(axes)
    axes.set(
        title="Flip rate, a point a measurement",
        xlabel="observed (flips / step / million reels)",
        ylabel="predicted (same unit)",
    )


def _reachable(axes: Axes, table: pd.DataFrame) -> None:
    rows = table[table["quantity"] == "reachable options"]
    expected = rows.groupby("at")["value"].mean()
    ks = expected.index.to_numpy()
    axes.plot(ks, [reachable_law(k) for k in ks], color="0.45", label="(4/3) ln K + 0.845")
    axes.plot(ks, expected, "o", color="#0072B2", markersize=4, label="reels, Monte Carlo")
    used = sorted(rows["k"].unique())
    axes.plot(
        used,
        expected[used],
        "o",
        color="#D55E00",
        markersize=9,
        markerfacecolor="none",
        label="K of the runs",
    )
    axes.set_xscale("log", base=2)
    axes.legend()
    axes.set(title="Options that can ever win", xlabel="options K", ylabel="reachable options, mean")


def _line(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    if hue == "layer":
        data, hue, order = data.assign(layer="run"), "layer", ["run"]
    lr = data[data["quantity"] == "lr"]
    lines = data[data["quantity"] == "c"]  # none in the dense form
    if len(lines):
        curves(axes, lines, hue, order, legend=False)
    shares = lr.assign(value=lr["value"] / lr.groupby("run")["value"].transform("max"))
    curves(axes, shares, hue, order, legend=False, dashes=DASHED)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.05)
    axes.set(
        title="c (line), learning rate (dashed)",
        xlabel="training step",
        ylabel="c; share of the highest rate",
    )


def _positive(rows: pd.DataFrame) -> pd.DataFrame:
    # The latents of inputs that are always zero never change, and 0 has no place on a logarithmic axis.
    return rows.loc[(rows["value"] > 0) & np.isfinite(rows["value"])]


def _logarithmic(axes: Axes) -> None:
    if len(axes.lines) or len(axes.collections):
        logarithmic(axes, "y")
