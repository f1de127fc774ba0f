"""The figure of `ps-variance`, from its table alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from slotkit.analyses.common.findings import at_end, layer_words, left_out, lengths, plain, span
from slotkit.analyses.common.style import (
    DASHED,
    Entries,
    curves,
    legend,
    named,
    note,
    panels,
    say,
    shown,
)
from slotkit.analyses.ps_variance.words import ALL, OVER_RUNS, interval_of, latest, one

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEP = "training step"

READINGS = {
    "sampled accuracy": "one sample",
    "greedy accuracy": "greedy",
    "expected accuracy": "expected weights",
    "ensemble accuracy": "ensemble",
}
# In greys: the colours are those of groups and layers.
MARKERS, GREYS = ("X", "P", "*", "h"), ("0.0", "0.35", "0.5", "0.65")
BARS = ("0.35", "0.75")


def plot(table: pd.DataFrame) -> Figure:
    """One group of runs: a look for each layer. Several: a look for each group, of all layers."""
    groups = list(table["group"].unique())
    runs = table[table["run"] != OVER_RUNS]
    end = latest(runs)
    # One of several checkpoints of the same step, such as last and best, is enough.
    runs = runs.drop_duplicates(["run", "layer", "quantity", "level", "at"])
    if len(groups) == 1:
        hue, names = "layer", [layer for layer in runs["layer"].unique() if layer != ALL]
        by_layer, title, what = runs[runs["layer"] != ALL], f"Sampled networks: {groups[0]}", "layers"
    else:
        hue, names, what = "group", groups, "groups"
        by_layer, title = runs[runs["layer"] == ALL], "Sampled networks"
    order, groups = shown(names), shown(groups)
    figure, grid = panels(3, 3, title)
    note(figure, left_out(names, what))
    note(figure, lengths(runs[runs["checkpoint"].notna()]))
    whole, end = (rows[(rows["layer"] == ALL) & rows["group"].isin(groups)] for rows in (runs, end))
    _error(grid[0, 0], whole, groups)
    readings = _at_the_end(grid[0, 1], end, groups)
    sources = _variance(grid[0, 2], table[table["run"] == OVER_RUNS], end, groups)
    _entropy(grid[1, 0], by_layer, hue, order)
    top = ("top probability", "the likeliest option ends at {} of the probability")
    _course(grid[1, 1], by_layer, hue, order, *top, "probability of the likeliest option (%)")
    _spread(grid[1, 2], by_layer, hue, order)
    noise = ("noise share", "{} of a sampled weight's mean square is noise at the end")
    _course(grid[2, 0], by_layer, hue, order, *noise, "noise, share of mean square (%)")
    _options(grid[2, 1], by_layer, hue, order)
    same = ("same prediction", "two samples agree on {} of the images at the end")
    _course(grid[2, 2], whole, "group", groups, *same, "images with the same prediction (%)")
    legend(figure, named(order, layer_words(table, order) if hue == "layer" else None), readings, sources)
    return figure


def _error(axes: Axes, whole: pd.DataFrame, groups: list[str]) -> None:
    from matplotlib.ticker import LogFormatter

    rows = whole[whole["level"].isna()].assign(value=lambda r: 100 * (1 - r["value"]))
    # A logarithmic axis has no place for 0, and yet the error may end there.
    positive = rows[rows["value"] > 0]
    if len(groups) == 1:
        named = rows[rows["quantity"].isin(READINGS)].assign(reading=lambda r: r["quantity"].map(READINGS))
        for words, marker, grey in zip(READINGS.values(), MARKERS, GREYS, strict=True):
            mine = named[(named["reading"] == words) & (named["value"] > 0)]
            course = mine.groupby("at")["value"].mean()
            axes.plot(course.index, course, color=grey, marker=marker, markersize=6, label=words)
        y, ends = "error (%)", at_end(named, "reading", list(READINGS.values()))
    else:
        sampled = rows[rows["quantity"] == "sampled accuracy"]
        curves(axes, positive[positive["quantity"] == "sampled accuracy"], "group", groups)
        curves(axes, positive[positive["quantity"] == "expected accuracy"], "group", groups, DASHED)
        y, ends = "error (%): one sample (line), expected weights (dashed)", at_end(sampled, "group", groups)
    if len(positive) and len(axes.lines):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.4)))
    finding = f"{'the error' if len(groups) == 1 else 'a sample errs'} {'is' if len(groups) == 1 else 'on'} "
    say(axes, f"{finding}{span(ends, plain, '%')} at the end", STEP, y)


def _at_the_end(axes: Axes, end: pd.DataFrame, groups: list[str]) -> Entries:
    """The four readings; bars are intervals over runs, or over the draws of one run."""
    found: Entries = []
    best: dict[str, float] = {}
    for i, (quantity, words) in enumerate(READINGS.items()):
        means, ends = [], []
        for group in groups:
            rows = end[(end["group"] == group) & (end["quantity"] == quantity)]
            mean, (low, high) = one(rows, quantity), interval_of(rows, quantity)
            means.append(100 * mean)
            ends.append((100 * (mean - low), 100 * (high - mean)))
        plotted = axes.errorbar(
            np.arange(len(groups)) + 0.15 * (i - 1.5),
            means,
            yerr=np.maximum(np.transpose(ends), 0),
            fmt=MARKERS[i],
            color=GREYS[i],
            markersize=6,
        )
        found.append((plotted, words))
        best[words] = float(np.mean(means))
    _by_group(axes, groups)
    told = {name: f"{name} ({value:.2f}\N{NO-BREAK SPACE}%)" for name, value in best.items()}
    first, last = max(best, key=best.__getitem__), min(best, key=best.__getitem__)
    say(axes, f"best at the end: {told[first]}, worst: {told[last]}", "", "accuracy (%)")
    return found


def _variance(axes: Axes, shared: pd.DataFrame, end: pd.DataFrame, groups: list[str]) -> Entries:
    """Components where there are several runs with one last checkpoint, else the spread over the draws."""
    found: Entries = []
    told: dict[str, float] = {}
    for i, (quantity, words) in enumerate((("sampling sd", "spread by sampling"), ("seed sd", "by seed"))):
        heights = []
        for group in groups:
            mine = end[end["group"] == group]
            names = set(mine["checkpoint"])
            at = shared[(shared["group"] == group) & shared["checkpoint"].isin(names)]
            known = one(at, quantity) if len(names) == 1 else np.nan
            if len(names) > 1 and quantity == "sampling sd":
                known = one(mine, "sampled spread")
            heights.append(100 * known)
        place = np.arange(len(groups)) + 0.38 * (i - 0.5)
        found.append((axes.bar(place, heights, 0.36, color=BARS[i]), words))
        for x, height in zip(place, heights, strict=True):
            if np.isnan(height):
                axes.text(x, 0, "not\nknown", ha="center", va="bottom", fontsize=7)
        told |= {name: one for name, one in zip(groups, heights, strict=True) if i == 0 and np.isfinite(one)}
    _by_group(axes, groups)
    finding = f"samples of a network differ by {span(told, plain)} points at the end"
    say(axes, finding, "", "standard deviation (points)")
    return found


def _entropy(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    medians = rows[(rows["quantity"] == "entropy quantile") & (rows["level"] == 0.5) & (rows["k"] > 1)]
    y = "mean entropy of a reel, share of ln K (%)"
    if len(medians):
        traced = medians.assign(value=100 * medians["value"] / np.log(medians["k"]))
        curves(axes, traced, hue, order, DASHED)
        y = "entropy of a reel, share of ln K (%): mean (line), median (dashed)"
    _course(axes, rows, hue, order, "entropy share", "the entropy ends at {} of ln K", y)


def _course(
    axes: Axes, rows: pd.DataFrame, hue: str, order: list[str], quantity: str, finding: str, y: str
) -> None:
    picked = _percent(rows[rows["quantity"] == quantity])
    curves(axes, picked, hue, order)
    say(axes, finding.format(span(at_end(picked, hue, order), _nearly, "%")), STEP, y)


def _spread(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    positive = rows[rows["value"] > 0]
    scores, initial = (positive[positive["quantity"] == f"{kind} spread"] for kind in ("score", "initial"))
    curves(axes, scores, hue, order)
    if len(initial):
        curves(axes, initial, hue, order, DASHED)
    if len(scores):
        axes.set_yscale("log")
        # Under L2 the initial part falls without end: it isn't shown where it is nothing beside the scores.
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-4 * scores["value"].min()))
    ends = at_end(rows[rows["quantity"] == "score spread"], hue, order)
    finding = f"the scores of a reel spread by {span(ends, plain)} at the end"
    y = "spread within a reel: scores (line), initial part (dashed)"
    say(axes, finding, STEP, y if len(initial) else "spread of the scores of a reel")


def _options(axes: Axes, rows: pd.DataFrame, hue: str, order: list[str]) -> None:
    same = _percent(rows[rows["quantity"] == "same option"])
    curves(axes, same, hue, order, line="")
    expected = _percent(rows[rows["quantity"] == "same option, expected"])
    curves(axes, expected, hue, order, DASHED)
    finding = f"two samples share {span(at_end(same, hue, order), _nearly, '%')} of their options at the end"
    say(axes, finding, STEP, "reels with the same option (%): counted (marks), expected (dashed)")


def _nearly(value: float) -> str:
    """Per cents: "99.97" is not called 100."""
    return f"{value:.2f}" if 99 < value < 100 else plain(value)


def _by_group(axes: Axes, groups: list[str]) -> None:
    labels = [group.replace(", ", ",\n") for group in groups]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    axes.set_xticks(range(len(groups)), labels, rotation=20 if longest * len(groups) > 50 else 0)
    axes.set_xlim(-0.6, len(groups) - 0.4)


def _percent(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(value=100 * rows["value"])
