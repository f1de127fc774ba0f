"""The figure of `masks`: scores against accuracy beside controls, and what searches covered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from slotkit.analyses.common.findings import left_out
from slotkit.analyses.common.style import (
    DASHED,
    DOTTED,
    GREY,
    Look,
    legend,
    logarithmic,
    looks,
    note,
    panels,
    reference,
    say,
    shown,
)
from slotkit.analyses.masks.words import (
    ALL,
    FIRST,
    ahead_of,
    estimate,
    groups_of,
    number,
    searches_of,
)

from slotkit.masks.correlations import Estimate
from slotkit.masks.members import BY_SCORE
from slotkit.masks.outcomes import SCORES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Scores that searches decide by, and the density, which critics say that they restate.
AGAINST = ("imdb", "spectrum", "density")

WORDS = {"imdb": "IMDB", "imsg": "IMSG", "narc": "NaRC", "spectral_gap": "lambda"}


def plot(table: pd.DataFrame) -> Figure:
    """Below what was searched; above it, if masks were trained, what their scores say of accuracy."""
    groups, searches = groups_of(table), searches_of(table)
    visible = shown(searches)[: 12 - len(groups)]
    found = looks([*groups, *visible])
    rows = (2 if groups else 0) + (1 if searches else 0)
    figure, grid = panels(rows, 3, "Masks: graph scores, accuracies and controls" if groups else "Masks")
    note(figure, left_out(searches, "searches") if len(visible) < len(searches) else "")
    if groups:
        for axes, score in zip(grid[0], AGAINST, strict=True):
            _against(axes, table, score, groups, found)
        _correlations(grid[1, 0], table, groups, found)
        _ahead(grid[1, 1], table, found)
        _by_draw(grid[1, 2], table, groups, found)
    if searches:
        _explored(grid[-1, 0], table, visible, found)
        _overlap(grid[-1, 1], table, visible, found)
        _densities(grid[-1, 2], table, visible, found)
    rows_of_legend = _entries(groups, found, ""), _entries(visible, found, "search ")
    legend(figure, *rows_of_legend, _references(groups, searches))
    return figure


def _entries(names: list[str], found: dict[str, Look], before: str) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    style: Any = "-" if before else ""
    return [
        (Line2D([], [], color=look.colour, marker=look.marker, linestyle=style), f"{before}{name}")
        for name, look in found.items()
        if name in names
    ]


def _references(groups: Sequence[str], searches: Sequence[str]) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    told: list[tuple[bool, Any, str]] = [
        (bool(groups), DOTTED, "first mask"),
        (bool(searches), DASHED, "random masks; densities of ERK"),
    ]
    return [(Line2D([], [], color=GREY, linestyle=style), words) for there, style, words in told if there]


def _by_mask(table: pd.DataFrame, quantity: str, group: str) -> pd.Series[float]:
    """Of each mask, the mean over seeds."""
    rows = table[(table["quantity"] == quantity) & (table["group"] == group)]
    return rows.groupby("mask", sort=False)["value"].mean()


def _against(axes: Axes, table: pd.DataFrame, score: str, groups: list[str], found: dict[str, Look]) -> None:
    for name in groups:
        x, y = _by_mask(table, f"score {score}", name), 100 * _by_mask(table, "accuracy", name)
        look = found[name]
        axes.plot(x, y.loc[x.index], look.marker, color=look.colour, alpha=0.8, label=name)
    first = 100 * _by_mask(table, "accuracy", FIRST)
    if len(first):
        reference(axes, float(first.iloc[0]))
    word = WORDS.get(score, score)
    told = estimate(table, f"pearson {score}", BY_SCORE)
    r = f"r = {told.words()}" if told.value is not None else "no r of 0 or 1 masks"
    x_words = f"{word} of the network" if score == "density" else f"{word}, mean over layers"
    say(axes, f"{word}: {r}", x_words, "test accuracy (%)")


def _ends(one: Estimate) -> tuple[float, float]:
    """Of its interval; without one, the number itself."""
    value = one.value or 0.0
    return (value if one.low is None else one.low, value if one.high is None else one.high)


def _correlations(axes: Axes, table: pd.DataFrame, groups: list[str], found: dict[str, Look]) -> None:
    apart = 0.8 / max(len(groups), 1)
    for i, name in enumerate(groups):
        told = [estimate(table, f"pearson {score}", name) for score in SCORES]
        there = [(at, one) for at, one in enumerate(told) if one.value is not None]
        y = np.array([at for at, _ in there]) + (i - (len(groups) - 1) / 2) * apart
        x = np.array([one.value for _, one in there], float)
        ends = np.array(
            [[one.value if e is None else e for e in (one.low, one.high)] for _, one in there], float
        )
        look = found[name]
        if len(x):
            axes.hlines(y, *ends.reshape(-1, 2).T, color=look.colour, linewidth=1)
        axes.plot(x, y, look.marker, color=look.colour, label=name)
    axes.axvline(0, color=GREY, linewidth=1, linestyle=DOTTED)
    axes.set_yticks(range(len(SCORES)), [WORDS.get(score, score) for score in SCORES])
    axes.set(xlim=(-1.05, 1.05), ylim=(len(SCORES) - 0.5, -0.5))
    ours = [estimate(table, f"pearson {score}", BY_SCORE) for score in SCORES]
    apart_from_zero = sum(one.low is not None and not one.low <= 0 <= (one.high or 0) for one in ours)
    say(
        axes,
        f"{apart_from_zero} of {len(SCORES)} intervals of masks kept by a score are without 0",
        "Pearson r with test accuracy, 95 % interval",
        "",
    )


def _ahead(axes: Axes, table: pd.DataFrame, found: dict[str, Look]) -> None:
    told = {name: one for name, one in ahead_of(table).items() if one.value is not None}
    for at, (name, one) in enumerate(told.items()):
        look = found[name]
        low, high = _ends(one)
        axes.hlines(at, 100 * low, 100 * high, color=look.colour, linewidth=1)
        axes.plot([100 * (one.value or 0.0)], [at], look.marker, color=look.colour, label=name)
    axes.axvline(0, color=GREY, linewidth=1, linestyle=DOTTED)
    axes.set_yticks(range(len(told)), [name.removeprefix("acceptance ") for name in told])
    axes.set_ylim(max(len(told), 1) - 0.5, -0.5)
    above = sum((one.low or 0.0) > 0 for one in told.values())
    say(
        axes,
        f"masks kept by a score are ahead of {above} of {len(told)} controls",
        "points of accuracy ahead, 95 % interval",
        "",
    )


def _by_draw(axes: Axes, table: pd.DataFrame, groups: list[str], found: dict[str, Look]) -> None:
    rows = table[(table["quantity"] == "accuracy") & table["at"].notna()]
    for name in groups:
        means = 100 * rows[rows["group"] == name].groupby("at")["value"].mean()
        look = found[name]
        axes.plot(means.index, means, look.marker, color=look.colour, alpha=0.8, label=name)
    first = 100 * _by_mask(table, "accuracy", FIRST)
    if len(first):
        reference(axes, float(first.iloc[0]))
    ours = _by_mask(table, "accuracy", BY_SCORE)
    better = float((ours > first.iloc[0] / 100).mean()) if len(first) and len(ours) else float("nan")
    finding = f"{100 * better:.0f} % of the masks kept by a score are better than the first"
    say(
        axes,
        finding if np.isfinite(better) else "0 masks to compare",
        "draw",
        "test accuracy (%)",
    )


def _line(axes: Axes, x: Any, y: Any, look: Look, name: str, i: int, of: int) -> None:
    every = max(1, -(-len(x) // 5))
    axes.plot(x, y, look.marker + "-", color=look.colour, markevery=(i * every // of, every), label=name)


def _rows(table: pd.DataFrame, search: str, quantity: str) -> pd.DataFrame:
    return table[(table["search"] == search) & (table["quantity"] == quantity) & (table["layer"] == ALL)]


def _explored(axes: Axes, table: pd.DataFrame, searches: list[str], found: dict[str, Look]) -> None:
    for i, name in enumerate(searches):
        rows = _rows(table, name, "explored")
        chance = _rows(table, name, "explored by chance")
        axes.plot(chance["at"], 100 * chance["value"], color=GREY, linestyle=DASHED, label=f"_{name}")
        _line(axes, rows["at"], 100 * rows["value"], found[name], name, i, len(searches))
    rows = table[table["search"] == searches[0]]
    last = rows.loc[rows["quantity"] == "explored", "at"].max()
    told, chance = (100 * number(rows, quantity, last) for quantity in ("explored", "explored by chance"))
    axes.set_ylim(0)
    say(
        axes,
        f"{last:.0f} draws explore {told:.1f} %, random masks {chance:.1f} %",
        "draw",
        "explored share of the connections (%)",
    )


def _overlap(axes: Axes, table: pd.DataFrame, searches: list[str], found: dict[str, Look]) -> None:
    for i, name in enumerate(searches):
        rows, chance = _rows(table, name, "overlap"), _rows(table, name, "overlap by chance")
        axes.plot(chance["at"], 100 * chance["value"], color=GREY, linestyle=DASHED, label=f"_{name}")
        _line(axes, rows["at"], 100 * rows["value"], found[name], name, i, len(searches))
    ends = [_rows(table, name, "overlap")["value"].iloc[-1] for name in searches]
    axes.set_ylim(0)
    say(
        axes,
        f"the last mask shares {100 * min(ends):.0f} to {100 * max(ends):.0f} % with the first",
        "draw",
        "overlap with the first mask (%)",
    )


def _densities(axes: Axes, table: pd.DataFrame, searches: list[str], found: dict[str, Look]) -> None:
    from matplotlib.ticker import MaxNLocator

    ratios: list[float] = []
    names: list[str] = []
    for i, search in enumerate(searches):
        rows = table[(table["search"] == search) & (table["layer"] != ALL)]
        last = rows[rows["at"] == rows["at"].max()]
        own, erk = (last[last["quantity"] == quantity] for quantity in ("density", "ERK density"))
        names = [layer.removesuffix(".weight") for layer in own["layer"]]
        x = np.arange(1, len(names) + 1)
        axes.plot(x, erk["value"], color=GREY, linestyle=DASHED, label=f"_{search}")
        _line(axes, x, own["value"], found[search], search, i, len(searches))
        ratios += list(own["value"].to_numpy() / erk["value"].to_numpy())
    if all(line.get_ydata().min() > 0 for line in axes.lines):  # type: ignore[union-attr]
        logarithmic(axes, "y")
    if len(names) <= 6:
        axes.set_xticks(range(1, len(names) + 1), names)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    say(
        axes,
        f"layers have {min(ratios):.2g} to {max(ratios):.2g} times the density of ERK",
        "layer, from the image to the classes",
        "density of the last saved mask",
    )
