"""The figure of `flips`, from its table alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from slotkit.analyses.common.comparison import of_reading
from slotkit.analyses.common.findings import (
    LONG,
    at_end,
    by_name,
    layer_words,
    layers,
    left_out,
    lengths,
    percent,
    plain,
    short,
    span,
    whole,
)
from slotkit.analyses.common.style import (
    curves,
    dots,
    legend,
    logarithmic,
    named,
    note,
    panels,
    say,
    shown,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEP = "training step"

# Of PS runs alone: quantity, y label, finding, the words of its values, their unit
COURSES = (
    ("mean entropy", "mean entropy of the softmax (nats)", "The entropy ends at {}", plain, "nats"),
    (
        "weight drift",
        "drift of the expected weight a measurement\n(share of the bound)",
        "The expected weight drifts by {} at the end",
        percent,
        "%",
    ),
    (
        "decided reels",
        "share of reels whose likeliest option\nhas probability 0.99 or more",
        "At the end {} of the reels are decided",
        percent,
        "%",
    ),
)


def plot(table: pd.DataFrame) -> Figure:
    """One group of runs: a look for each layer. Several: a look for each group, all layers together."""
    groups = list(table["group"].unique())
    if len(groups) == 1:
        hue, names, what, title = "layer", layers(table), "layers", f"Flips: {groups[0]}"
        words = layer_words(table, names)
    else:
        hue, names, what, words = "group", groups, "groups", dict[str, str]()
        table, title = table[table["layer"] == "all"], f"Flips, all layers{of_reading(table)}"
    order = shown(names)
    data = table[table[hue].isin(order)]
    sampled = data["quantity"].isin([quantity for quantity, *_ in COURSES]).any()
    figure, grid = panels(3 if sampled else 2, 3, title)
    note(figure, left_out(names, what))
    note(figure, lengths(data[data["quantity"] == "flip rate"]))
    of = {str(quantity): rows for quantity, rows in data.groupby("quantity")}
    none = data.iloc[:0]
    _rate(grid[0, 0], of["flip rate"], hue, order)
    _agreement(grid[0, 1], of.get("agreement", none), of.get("agreed", none), hue, order)
    _returns(grid[0, 2], of.get("flip-flops", none), of.get("flip-flop share", none), hue, order)
    _times(grid[1, 0], of.get("reels by flips", none), hue, order)
    _visited(grid[1, 1], of.get("options visited", none), hue, order)
    _survival(grid[1, 2], of.get("survival, taken", none), of.get("half-life, taken", none), hue, order)
    for axes, (quantity, y, finding, form, unit) in zip(grid[2] if sampled else (), COURSES, strict=False):
        rows = of.get(quantity, none)
        curves(axes, rows, hue, order)
        axes.set_ylim(bottom=0)
        say(axes, finding.format(span(at_end(rows, hue, order), form, unit)), STEP, y)
    legend(figure, named(order, words))
    return figure


def _rate(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    curves(axes, rows, hue, order)
    if (rows["value"] > 0).any():
        logarithmic(axes, "y")
    say(axes, _course(rows, hue, order), STEP, "flips / step / million reels")


def _course(rows: pd.DataFrame, hue: str, order: list[str]) -> str:
    """Which names stopped flipping, and when; else how often they flip at the end."""
    end = at_end(rows, hue, order)
    last = rows[rows["value"] > 0].groupby(hue)["at"].max()
    stopped = {name: float(last.get(name, 0.0)) for name in end if end[name] == 0}
    if not stopped:
        return f"{span(end, whole)} flips a step and million reels at the end"
    never = [name for name in end if name not in stopped]
    words = "no flips after step " + span(stopped, whole)
    return f"{words}; {short(never[0])} flips to the end" if never else words


def _agreement(axes: Axes, rows: pd.DataFrame, agreed: pd.DataFrame, hue: str, order: list[str]) -> None:
    curves(axes, rows, hue, order)
    steps = by_name(agreed[agreed["at"] == 0.9], hue, order)
    finding = f"90 % of reels have their final option from step {span(steps, whole)} on"
    say(axes, _told(rows, finding), STEP, "share of reels with their final option")


def _returns(axes: Axes, rows: pd.DataFrame, shares: pd.DataFrame, hue: str, order: list[str]) -> None:
    curves(axes, rows, hue, order)
    axes.set_ylim(0, None)
    finding = f"{span(by_name(shares, hue, order), percent, '%')} of the flips go back at once"
    say(axes, _told(rows, finding), STEP, "share of flips that are returns (flip-flops)")


def _times(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    dots(axes, rows, hue, order)
    axes.set_ylim(0, None)
    axes.set_xticks([0, 1, 2], ["none", "one", "more"])
    never = by_name(rows[rows["at"] == 0], hue, order)
    say(
        axes,
        _told(rows, f"{span(never, percent, '%')} of reels never flip"),
        "flips of a reel",
        "share of reels",
    )


def _visited(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    # A reel of 64 options uses a few: the empty columns to the right are left out.
    used = rows[rows["at"] <= rows.loc[rows["value"] >= 0.001, "at"].max()]
    dots(axes, used, hue, order)
    axes.set_ylim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    parts = rows.assign(value=rows["at"] * rows["value"]).groupby([hue, "run"], as_index=False)["value"].sum()
    finding = f"a reel uses {span(by_name(parts, hue, order), '{:.2f}'.format)} options on average"
    say(axes, _told(rows, finding), "different options used", "share of reels")


def _survival(axes: Axes, rows: pd.DataFrame, half: pd.DataFrame, hue: str, order: list[str]) -> None:
    curves(axes, rows, hue, order)
    axes.set_ylim(0, 1.02)
    if len(rows):
        logarithmic(axes, "x")
    found = by_name(half, hue, order)
    ended = {name: steps for name, steps in found.items() if np.isfinite(steps)}
    lasting = ", ".join(short(name) for name in found if name not in ended and len(name) <= LONG)
    finding = f"more than half of what a flip brings is still in use after {rows['at'].max():,.0f} steps"
    if ended:
        finding = f"half of what a flip brings is gone after {span(ended, whole)} steps"
        finding += f", later in {lasting}" if lasting else ""
    say(axes, _told(rows, finding), "age of a selection that a flip brought (steps)", "share still in use")


def _told(rows: pd.DataFrame, finding: str) -> str:
    return finding if np.isfinite(rows["value"]).any() else "Needs flips of single reels (--trace full)"
