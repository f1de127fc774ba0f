"""The figure of `weights`, from its table alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slotkit.analyses.common.comparison import largest_layer
from slotkit.analyses.common.style import curves, panels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHED = (4.0, 2.0)
GREY = "0.45"


def plot(table: pd.DataFrame) -> Figure:
    """One group of runs: a colour for each layer. Several: a colour for each group, of the largest layer."""
    groups, largest = list(table["group"].unique()), largest_layer(table)
    if len(groups) == 1:
        hue, order, data = "layer", list(table["layer"].unique()), table
        title = f"Weights: {groups[0]}"
    else:
        hue, order, data = "group", groups, table[table["layer"] == largest]
        title = f"Weights of {largest}"
    figure, grid = panels(2, 3, title)
    steps = data.groupby("run")["step"]  # runs end at steps of their own
    data = data.assign(
        start=data["step"] == steps.transform("min"), end=data["step"] == steps.transform("max")
    )
    _distribution(grid[0, 0], data, hue, order)
    _preference(grid[0, 1], data, hue, order)
    _ranks(grid[0, 2], data, hue, order)
    _units(grid[1, 0], data, hue, order)
    _effective_rank(grid[1, 1], data, hue, order)
    _spectrum(grid[1, 2], data, hue, order)
    return figure


def _distribution(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    rows = data[data["end"]]
    curves(axes, rows[rows["quantity"] == "density, selected"], hue, order, legend=len(order) > 1)
    offered = data[data["quantity"] == "density, offered"].groupby("at")["value"].mean()
    axes.plot(offered.index, offered, color=GREY, linestyle=":")
    if (legend := axes.get_legend()) is not None:
        legend.set_title("")
    axes.set_ylim(0, 1.25 * max(axes.get_ylim()[1], 0.8))
    axes.set(
        title="Selected (line), offered (dotted)", xlabel="value over the options' bound", ylabel="density"
    )


def _preference(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    rows = data.assign(at=data["step"])
    _over_training(axes, rows[rows["quantity"] == "preference"], hue, order)
    # At the start no connection has another option, and soon after so few have one that the ratio is noise.
    few = rows["step"] < 0.02 * rows["step"].max()
    moved = rows[(rows["quantity"] == "preference, moved") & ~few]
    if len(moved):
        curves(axes, moved, hue, order, legend=False, dashes=DASHED)
    axes.axhline(1, color=GREY, linestyle=":")
    axes.set(
        title="Preference: all (line), moved (dashed)",
        xlabel="training step",
        ylabel="mean |selected| / mean |offered|",
    )


def _ranks(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    rows = data[data["end"]]
    looks: dict[str, Any] = {"legend": False, "marker": "o", "markersize": 3, "markeredgewidth": 0}
    curves(axes, rows[rows["quantity"] == "rank of magnitude / random"], hue, order, **looks)
    moved = rows[rows["quantity"] == "rank of magnitude, moved / random"]
    if len(moved):
        curves(axes, moved, hue, order, dashes=DASHED, **looks)
    axes.axhline(1, color=GREY, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, 1)
    axes.set(
        title="Rank of |w|: all (line), moved (dashed)",
        xlabel="rank of the magnitude / K (0 largest, 1 smallest)",
        ylabel="share of connections / random",
    )


def _units(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    rows = data[data["quantity"] == "unit norm / random"]
    rows = rows.assign(at=100 * rows["at"])
    _both_ends(axes, rows, hue, order)
    axes.set(
        title="Norm of a unit: end (line), start (dashed)",
        xlabel="share of units (%)",
        ylabel="L2 norm, at most / random",
    )


def _effective_rank(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    rows = data[data["quantity"] == "effective rank / start"]
    _over_training(axes, rows.assign(at=rows["step"]), hue, order)
    axes.axhline(1, color=GREY, linestyle=":")
    axes.set(title="Effective rank", xlabel="training step", ylabel="effective rank / that of the start")


def _spectrum(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    _both_ends(axes, data[data["quantity"] == "singular value / edge"], hue, order)
    axes.axhline(1, color=GREY, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.set(
        title="Spectrum: end (line), start (dashed)",
        xlabel="index of the singular value / their number",
        ylabel="singular value / random edge",
    )


def _over_training(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    few = rows["step"].nunique() <= 10
    curves(axes, rows, hue, order, legend=False, **({"marker": "o", "markersize": 4} if few else {}))


def _both_ends(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    curves(axes, rows[rows["start"] & ~rows["end"]], hue, order, legend=False, dashes=DASHED)
    curves(axes, rows[rows["end"]], hue, order, legend=False)
