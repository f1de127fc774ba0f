"""The figure of `ps-variance`, from its table alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from slotkit.analyses.common.statistics import mean_and_interval
from slotkit.analyses.common.style import curves, panels
from slotkit.analyses.ps_variance.words import ALL, OVER_RUNS, latest, one

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHED = (4.0, 2.0)

READINGS = {
    "sampled accuracy": "one sample",
    "greedy accuracy": "greedy",
    "expected accuracy": "expected weights",
    "ensemble accuracy": "ensemble",
}
# In greys: the colours are those of groups and layers.
MARKERS, FACES = ("o", "s", "^", "D"), ("black", "white", "0.55", "0.85")
BARS = ("0.35", "0.75")


def plot(table: pd.DataFrame) -> Figure:
    """One group of runs: a colour for each layer. Several: a colour for each group, of all layers."""
    groups = list(table["group"].unique())
    runs = table[table["run"] != OVER_RUNS]
    # One of several checkpoints of the same step, such as last and best, is enough.
    runs = runs.drop_duplicates(["run", "layer", "quantity", "level", "at"])
    if len(groups) == 1:
        hue, order = "layer", [layer for layer in runs["layer"].unique() if layer != ALL]
        by_layer, title = runs[runs["layer"] != ALL], f"Sampled networks: {groups[0]}"
    else:
        hue, order = "group", groups
        by_layer, title = runs[runs["layer"] == ALL], "Sampled networks"
    figure, grid = panels(3, 3, title)
    whole = runs[runs["layer"] == ALL]
    _error(grid[0, 0], whole, groups)
    _at_the_end(grid[0, 1], whole, groups)
    _variance(grid[0, 2], table[table["run"] == OVER_RUNS], whole, groups)
    _entropy(grid[1, 0], by_layer, hue, order)
    top = ("top probability", "Likeliest option, mean", "its probability (%)")
    _course(grid[1, 1], by_layer, hue, order, *top)
    _spread(grid[1, 2], by_layer, hue, order)
    noise = ("noise share", "Noise in a sampled weight", "share of mean square (%)")
    _course(grid[2, 0], by_layer, hue, order, *noise)
    _options(grid[2, 1], by_layer, hue, order)
    same = ("same prediction", "Two samples, same prediction", "images (%)")
    _course(grid[2, 2], whole, "group", groups, *same)
    return figure


def _error(axes: Axes, whole: pd.DataFrame, groups: list[str]) -> None:
    from matplotlib.ticker import LogFormatter

    rows = whole[whole["level"].isna()].assign(value=lambda r: 100 * (1 - r["value"]))
    rows = rows[rows["value"] > 0]
    if len(groups) == 1:
        named = rows[rows["quantity"].isin(READINGS)].assign(reading=lambda r: r["quantity"].map(READINGS))
        curves(axes, named, "reading", list(READINGS.values()), marker="o", markersize=4)
        title = "Error"
    else:
        curves(axes, rows[rows["quantity"] == "sampled accuracy"], "group", groups, marker="o", markersize=4)
        expected = rows[rows["quantity"] == "expected accuracy"]
        curves(axes, expected, "group", groups, legend=False, dashes=DASHED)
        title = "One sample (line), expected (dashed)"
    if (legend := axes.get_legend()) is not None:
        legend.set_title("")
    if len(axes.lines):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.4)))
    axes.set(title=title, xlabel="training step", ylabel="error (%)")


def _at_the_end(axes: Axes, whole: pd.DataFrame, groups: list[str]) -> None:
    """The four readings; bars are intervals over runs, or over the draws of one run."""
    end = latest(whole)
    for i, (quantity, words) in enumerate(READINGS.items()):
        means, ends = [], []
        for group in groups:
            rows = end[(end["group"] == group) & (end["quantity"] == quantity)]
            mean, low, high = mean_and_interval(rows.loc[rows["level"].isna(), "value"].to_numpy())
            if rows["run"].nunique() == 1 and quantity == "sampled accuracy":
                low, high = (one(rows, quantity, level=level) for level in (0.025, 0.975))
            means.append(100 * mean)
            ends.append((100 * (mean - low), 100 * (high - mean)))
        axes.errorbar(
            np.arange(len(groups)) + 0.15 * (i - 1.5),
            means,
            yerr=np.maximum(np.transpose(ends), 0),
            fmt=MARKERS[i],
            color="black",
            markerfacecolor=FACES[i],
            markersize=5,
            label=words,
        )
    axes.legend()
    _by_group(axes, groups)
    axes.set(title="At the end", ylabel="accuracy (%)")


def _variance(axes: Axes, shared: pd.DataFrame, whole: pd.DataFrame, groups: list[str]) -> None:
    """Components where there are several runs, else the spread over the draws."""
    end = latest(whole)
    for i, (quantity, words) in enumerate((("sampling sd", "sampling"), ("seed sd", "seed"))):
        heights = []
        for group in groups:
            names = set(end.loc[end["group"] == group, "checkpoint"])
            at = shared[(shared["group"] == group) & shared["checkpoint"].isin(names)]
            heights.append(100 * one(at, quantity))
        axes.bar(np.arange(len(groups)) + 0.38 * (i - 0.5), heights, 0.36, color=BARS[i], label=words)
        for x, height in enumerate(heights):
            if np.isnan(height):
                axes.text(x + 0.38 * (i - 0.5), 0, "not\nknown", ha="center", va="bottom", fontsize=7)
    axes.legend()
    _by_group(axes, groups)
    axes.set(title="What accuracies differ by, at the end", ylabel="standard deviation (points)")


def _entropy(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    medians = rows[(rows["quantity"] == "entropy quantile") & (rows["level"] == 0.5) & (rows["k"] > 1)]
    title = "Entropy of a reel, mean"
    if len(medians):
        traced = medians.assign(value=100 * medians["value"] / np.log(medians["k"]))
        curves(axes, traced, hue, order, legend=False, dashes=DASHED)
        title = "Entropy of a reel: mean, median (dashed)"
    _course(axes, rows, hue, order, "entropy share", title, "share of ln K (%)", legend=len(order) > 1)


def _course(
    axes: Axes,
    rows: pd.DataFrame,
    hue: str,
    order: list[str],
    quantity: str,
    title: str,
    unit: str,
    legend: bool = False,
) -> None:
    picked = _percent(rows[rows["quantity"] == quantity])
    curves(axes, picked, hue, order, legend=legend, marker="o", markersize=4)
    if (found := axes.get_legend()) is not None:
        found.set_title("")
    axes.set(title=title, xlabel="training step", ylabel=unit)


def _spread(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    looks: dict[str, Any]
    title = "Scores"
    positive = rows[rows["value"] > 0]
    for quantity, looks in (
        ("score spread", {"marker": "o", "markersize": 4}),
        ("initial spread", {"dashes": DASHED}),
    ):
        picked = positive[positive["quantity"] == quantity]
        if len(picked):
            curves(axes, picked, hue, order, legend=False, **looks)
            title = "Scores (line), what is initial in them (dashed)" if quantity != "score spread" else title
    scores = positive.loc[positive["quantity"] == "score spread", "value"]
    if len(scores):
        axes.set_yscale("log")
        # Under L2 the initial part falls without end: it isn't shown where it is nothing beside the scores.
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-4 * scores.min()))
    axes.set(title=title, xlabel="training step", ylabel="spread within a reel")


def _options(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    looks: dict[str, Any]
    for quantity, looks in (
        ("same option", {"marker": "o", "markersize": 4, "linestyle": ""}),
        ("same option, expected", {"dashes": DASHED}),
    ):
        curves(axes, _percent(rows[rows["quantity"] == quantity]), hue, order, legend=False, **looks)
    axes.set(title="Two samples, same option (dashed: sum p²)", xlabel="training step", ylabel="reels (%)")


def _by_group(axes: Axes, groups: list[str]) -> None:
    labels = [group.replace(", ", ",\n") for group in groups]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    axes.set_xticks(range(len(groups)), labels, rotation=20 if longest * len(groups) > 50 else 0)
    axes.set_xlim(-0.6, len(groups) - 0.4)


def _percent(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(value=100 * rows["value"])
