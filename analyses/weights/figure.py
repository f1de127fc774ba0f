"""The figure of `weights`, from its table alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from slotkit.analyses.common.comparison import largest_layer
from slotkit.analyses.common.findings import (
    by_name,
    lacking,
    layer_words,
    left_out,
    lengths,
    percent,
    short,
    span,
)
from slotkit.analyses.common.style import (
    DASHED,
    DOTTED,
    GREY,
    curves,
    legend,
    named,
    note,
    panels,
    reference,
    say,
    shown,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEP = "training step"


def plot(table: pd.DataFrame) -> Figure:
    """One group of runs: a look for each layer. Several: a look for each group, of the largest layer."""
    groups, largest = list(table["group"].unique()), largest_layer(table)
    if len(groups) == 1:
        hue, names, data, what = "layer", list(table["layer"].unique()), table, "layers"
        title, words = f"Weights: {groups[0]}", layer_words(table, names)
    else:
        hue, names, data, what = "group", groups, table[table["layer"] == largest], "groups"
        title, words = f"Weights of {short(largest)}", dict[str, str]()
    order = shown(names)
    figure, grid = panels(2, 3, title)
    note(figure, left_out(names, what))
    note(figure, lacking(table, largest))
    note(figure, lengths(data.assign(at=data["step"])))
    steps = data.groupby("run")["step"]  # runs end at steps of their own
    data = data.assign(
        start=data["step"] == steps.transform("min"), end=data["step"] == steps.transform("max")
    )
    of = {str(quantity): rows for quantity, rows in data.groupby("quantity")}
    none = data.iloc[:0]
    _distribution(grid[0, 0], of["density, selected"], of["density, offered"], hue, order)
    _preference(grid[0, 1], of.get("preference", none), of.get("preference, moved", none), hue, order)
    ranks, moved = (of.get(f"rank of magnitude{kind} / random", none) for kind in ("", ", moved"))
    _ranks(grid[0, 2], ranks, moved, hue, order)
    _units(grid[1, 0], of["unit norm / random"], hue, order)
    _effective_rank(grid[1, 1], of["effective rank / start"], hue, order)
    _spectrum(grid[1, 2], of["singular value / edge"], hue, order)
    legend(figure, named(order, words))
    return figure


def _distribution(
    axes: Axes, selected: pd.DataFrame, offered: pd.DataFrame, hue: str, order: list[str]
) -> None:
    rows = selected[selected["end"]]
    curves(axes, rows, hue, order)
    there = offered.groupby("at")["value"].mean()
    axes.plot(there.index, there, color=GREY, linestyle=DOTTED)
    axes.set_ylim(0, None)
    outermost = np.isclose(rows["at"].abs(), rows["at"].abs().max())
    edges = there[np.isclose(np.abs(there.index), np.abs(there.index).max())]
    used, at_bound = by_name(rows[outermost], hue, order), edges.mean()
    times = {name: value / at_bound for name, value in used.items() if at_bound}
    finding = f"values at the bound are used {span(times, '{:.2f}'.format)} times as often as offered"
    if not times:  # where many connections share few options
        finding = "no option lies at the bound"
    say(axes, finding, "value over the options' bound", "density: selected (line), offered (dotted)")


def _preference(axes: Axes, rows: pd.DataFrame, moved: pd.DataFrame, hue: str, order: list[str]) -> None:
    curves(axes, rows.assign(at=rows["step"]), hue, order)
    # At the start no connection has another option, and soon after so few have one that the ratio is noise.
    moved = moved[moved["step"] >= 0.02 * moved["step"].max()]
    if len(moved):
        curves(axes, moved.assign(at=moved["step"]), hue, order, DASHED)
    reference(axes, 1)
    end = by_name(rows[rows["end"]], hue, order)
    finding = f"selected magnitudes are {span(end, '{:.2f}'.format)} times those offered"
    say(axes, finding, STEP, "mean |selected| / |offered|: all (line), moved (dashed)")


def _ranks(axes: Axes, every: pd.DataFrame, moved: pd.DataFrame, hue: str, order: list[str]) -> None:
    rows, moved = every[every["end"]], moved[moved["end"]]
    curves(axes, rows, hue, order)
    if len(moved):
        curves(axes, moved, hue, order, DASHED)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, 1)
    reference(axes, 1)
    first = by_name(rows[rows["at"] == rows.groupby("run")["at"].transform("min")], hue, order)
    finding = f"the largest magnitude is used {span(first, '{:.2f}'.format)} times as often as by chance"
    x = "rank of magnitude / K (0 is the largest)"
    say(axes, finding, x, "share / random: all (line), moved (dashed)")


def _units(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    _both_ends(axes, rows.assign(at=100 * rows["at"]), hue, order)
    middle = by_name(rows[rows["end"] & np.isclose(rows["at"], 0.5)], hue, order)
    finding = f"the median unit's norm is {span(middle, '{:.2f}'.format)} times a random one"
    say(axes, finding, "share of units (%)", "L2 norm, at most / random: end (line), start (dashed)")


def _effective_rank(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    curves(axes, rows.assign(at=rows["step"]), hue, order)
    reference(axes, 1)
    end = by_name(rows[rows["end"]], hue, order)
    finding = f"the effective rank ends at {span(end, percent, '%')} of the start's"
    say(axes, finding, STEP, "effective rank / that of the start")


def _spectrum(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    _both_ends(axes, rows, hue, order)
    axes.set_ylim(bottom=0)
    reference(axes, 1)
    ended = rows[rows["end"]]
    first = by_name(ended[ended["at"] == ended.groupby(["run", "layer"])["at"].transform("min")], hue, order)
    finding = f"the largest singular value is {span(first, '{:.2f}'.format)} times the random edge"
    x = "index of singular value / their number"
    say(axes, finding, x, "value / random edge: end (line), start (dashed)")


def _both_ends(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    start = rows[rows["start"] & ~rows["end"]]
    if len(start):
        curves(axes, start, hue, order, DASHED)
    curves(axes, rows[rows["end"]], hue, order)
