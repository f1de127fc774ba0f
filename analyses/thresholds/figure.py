"""The figure of `thresholds`, from its table alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from slotkit.analyses.common.comparison import at_its_own, largest_layer, of_reading
from slotkit.analyses.common.findings import (
    LONG,
    at_end,
    by_name,
    lacking,
    layer_words,
    left_out,
    lengths,
    percent,
    plain,
    short,
    span,
    whole,
)
from slotkit.analyses.common.style import (
    COLOURS,
    DASHED,
    DOTTED,
    GREY,
    curves,
    legend,
    logarithmic,
    looks,
    named,
    note,
    panels,
    say,
    shown,
)
from slotkit.analyses.thresholds.words import late_share

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEP = "training step"


def plot(table: pd.DataFrame) -> Figure:
    """One group of runs: a look for each layer. Several: a look for each group, of the largest layer."""
    groups, largest = list(table["group"].unique()), largest_layer(table)
    if len(groups) == 1:
        hue, names = "layer", list(table.loc[table["quantity"] == "margin", "layer"].unique())
        what, title, words = "layers", f"Thresholds: {groups[0]}", layer_words(table, names)
        data = table
    else:
        hue, names, what, words = "group", groups, "groups", dict[str, str]()
        data = table[table["layer"].isin([largest, "all", "any"])]
        title = f"Thresholds of {short(largest)}{of_reading(table)}"
    order = shown(names)
    figure, grid = panels(2, 3, title)
    note(figure, left_out(names, what))
    note(figure, lacking(table, largest))
    note(figure, lengths(data[data["quantity"] == "margin"]))
    _distances(grid[0, 0], data, hue, order)
    _waiting(grid[0, 1], data, hue, order)
    _quantiles(grid[0, 2], data, hue, order)
    _prediction(grid[1, 0], data, hue, order)
    _reachable(grid[1, 1], table)
    # c is much the same in all layers, and the learning rate is that of the run.
    _line(grid[1, 2], data[data["layer"].isin([largest, "all"])], hue, order)
    legend(figure, named(order, words))
    return figure


def _distances(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    middle = data[data["level"] == 0.5]
    margins, speeds = (_positive(middle[middle["quantity"] == name]) for name in ("margin", "speed"))
    curves(axes, margins, hue, order)
    curves(axes, speeds, hue, order, DASHED)
    _logarithmic(axes)
    ends = at_end(middle[middle["quantity"] == "margin"], hue, order)
    known = {name: margin for name, margin in ends.items() if np.isfinite(margin)}
    finding = f"the next threshold is {span(known, '{:.2g}'.format)} away at the end"
    if not known:
        finding = "at the end there are 0 thresholds"
    of = "gap of scores" if (data["quantity"] != "c").all() else "u"  # in the dense form there is no u
    say(axes, finding, STEP, f"median of {of}: distance (line), move in a step (dashed)")


def _waiting(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    waits = _positive(data[data["quantity"] == "steps_to_flip"])
    median = waits[waits["level"] == 0.5]
    if len(median):  # it may be infinite for the whole training
        curves(axes, median, hue, order)
    curves(axes, waits[waits["level"] == 0.05], hue, order, DASHED)
    if len(waits):
        steps = np.linspace(waits["at"].min(), waits["at"].max(), 100)[:-1]
        axes.plot(steps, waits["at"].max() - steps, color=GREY, linestyle=DOTTED, zorder=1)
    _logarithmic(axes)
    every = data[(data["quantity"] == "steps_to_flip") & (data["level"] == 0.5)]
    ends = at_end(every, hue, order)
    finite = {name: steps for name, steps in ends.items() if np.isfinite(steps)}
    never = ", ".join(short(name) for name in ends if name not in finite and len(name) <= LONG)
    finding = "more than 50 % of the reels have no threshold ahead at the end"
    if finite:
        finding = f"at the end the median reel waits {span(finite, whole)} steps"
        finding += f", for ever in {never}" if never else ""
    say(
        axes,
        finding,
        STEP,
        "steps to threshold: median (line), 5 % level (dashed), left (dotted)",
    )


def _quantiles(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    waits = data[data["quantity"] == "steps_to_flip"]
    for bound, line in (("min", DASHED), ("max", "-")):
        rows = _positive(at_its_own(waits, bound))  # runs end at steps of their own
        curves(axes, rows.assign(at=100 * rows["level"]), hue, order, line)
    _logarithmic(axes)
    axes.set_xlim(-2, 102)
    finding = f"{span(_late(waits, hue, order), percent, '%')} of reels wait longer than the training"
    say(axes, finding, "share of reels (%)", "steps to threshold, at most: end (line), start (dashed)")


def _late(waits: pd.DataFrame, hue: str, order: list[str]) -> dict[str, float]:
    """Name -> share of reels whose threshold ahead is farther than the training was long, at its end."""
    of = {name: waits[waits[hue] == name] for name in order}
    return {name: late_share(rows) for name, rows in of.items() if len(rows)}


def _prediction(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    seen = data[data["quantity"] == "flip rate"].rename(columns={"value": "observed"})
    predicted = data[(data["quantity"] == "predicted rate") & (data["level"] == 0.05)]
    both = seen.merge(predicted, on=["run", "group", "layer", "at"], suffixes=("", "_"))
    both = both[(both["observed"] > 0) & (both["value"] > 0)]
    for name, look in looks(order).items():
        rows = both[both[hue] == name]
        style: dict[str, Any] = {
            "s": 16,
            "color": look.colour,
            "marker": look.marker,
            "alpha": 0.6,
            "linewidth": 0,
        }
        axes.scatter(rows["observed"], rows["value"], label=name, **style)
    if len(both):
        ends = both[["observed", "value"]].to_numpy()
        axes.plot(*[[ends.min(), ends.max()]] * 2, color=GREY, linestyle=DOTTED)
        logarithmic(axes, "x")
    _logarithmic(axes)
    ratio = data[(data["quantity"] == "predicted / observed") & (data["level"] == 0.05)]
    finding = f"the predicted rate is {span(by_name(ratio, hue, order), '{:.2g}'.format)} times the observed"
    if not len(both):
        finding = "0 flips were seen where one was predicted"
    x = "observed flips / step / million reels"
    say(axes, finding, x, "predicted flips / step / million reels (dotted: equal)")


def _reachable(axes: Axes, table: pd.DataFrame) -> None:
    rows = table[table["quantity"] == "reachable options"]
    if rows.empty:  # of the dense form, whose scores need not be on a line
        axes.remove()
        return
    expected = rows.groupby("at")["value"].mean()
    ks = expected.index.to_numpy()
    law = table[table["quantity"] == "reachable, by law"].groupby("at")["value"].mean()
    axes.plot(law.index, law, color=GREY, linestyle=DOTTED)
    axes.plot(ks, expected, "o", color=COLOURS[0])
    used = sorted(rows["k"].unique())
    circles: dict[str, Any] = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.2}
    axes.plot(used, expected[used], "o", color=COLOURS[2], **circles)
    axes.set_xscale("log", base=2)
    told = {f"K = {k}": float(expected[k]) for k in used}
    y = f"options that can ever win{' (dotted: (4/3) ln K + 0.845)' if len(law) else ''}"
    say(axes, f"{span(told, plain)} options can ever win", "options K (circles: of these runs)", y)


def _line(axes: Axes, data: pd.DataFrame, hue: str, order: list[str]) -> None:
    if hue == "layer":
        data, order = data.assign(layer="run"), ["run"]
    lr, c = (data[data["quantity"] == name] for name in ("lr", "c"))
    if len(c):  # none in the dense form
        curves(axes, c, hue, order)
    shares = lr.assign(value=lr["value"] / lr.groupby("run")["value"].transform("max"))
    curves(axes, shares, hue, order, DASHED)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.05)
    end, rate = at_end(c, hue, order), at_end(shares, hue, order)
    finding = f"the learning rate ends at {span(rate, percent, '%')} of its highest"
    if end:
        stays = "stays 1" if set(end.values()) == {1.0} else f"ends at {span(end, plain)}"
        finding = f"the factor c {stays}, {finding}"
    say(axes, finding, STEP, f"{'c (line); ' if end else ''}learning rate over its highest (dashed)")


def _positive(rows: pd.DataFrame) -> pd.DataFrame:
    # The latents of inputs that are always zero never change, and 0 has no place on a logarithmic axis.
    return rows.loc[(rows["value"] > 0) & np.isfinite(rows["value"])]


def _logarithmic(axes: Axes) -> None:
    if len(axes.lines) or len(axes.collections):
        logarithmic(axes, "y")
