"""The figure of `gap`, from its table alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from slotkit.analyses.result import COLOURS, panels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Interactions drawn below the effects: the largest.
INTERACTIONS = 3

BETWEEN, OTHER, INTERACTION = "between the ends", "in another source only", "interaction (aliased pairs)"
LOOKS = {BETWEEN: (COLOURS[0], "o"), OTHER: (COLOURS[5], "s"), INTERACTION: (COLOURS[6], "D")}


def draw(table: pd.DataFrame) -> Figure:
    """Left: effects in points with their intervals, the largest above. Right: the runs' accuracies."""
    figure, grid = panels(1, 2, "The gap, setting by setting")
    figure.set_size_inches(10.5, 1.6 + 0.42 * len(_effects(table)))
    effects, accuracies = grid[0]
    effects.get_gridspec().set_width_ratios([1.8, 1])
    _forest(effects, _effects(table))
    _ends(accuracies, table)
    return figure


def _effects(table: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    main = table[table["quantity"].isin(["effect", "reading"])].copy()
    between = main["between"].astype(bool)
    main["kind"] = np.where(between, BETWEEN, OTHER)
    main["label"] = main["name"] + "\n" + main["low_level"] + " → " + main["high_level"]
    main = main.iloc[np.argsort(-main["value"].abs().to_numpy(), kind="stable")]
    pairs = table[table["quantity"] == "interaction"].head(INTERACTIONS).copy()
    pairs["kind"] = INTERACTION
    pairs["label"] = [_shortened(str(name)) for name in pairs["name"]]
    both = pd.concat([main, pairs], ignore_index=True)
    return both[np.isfinite(both["value"].to_numpy(np.float64))]


def _forest(axes: Axes, rows: pd.DataFrame) -> None:
    for kind, (colour, marker) in LOOKS.items():
        mine = rows["kind"].to_numpy() == kind
        values, places = rows["value"].to_numpy(np.float64)[mine], np.flatnonzero(mine)
        low, high = rows["low"].to_numpy(np.float64)[mine], rows["high"].to_numpy(np.float64)[mine]
        if len(values):
            axes.errorbar(
                values,
                places,
                xerr=np.nan_to_num([values - low, high - values]),
                fmt=marker,
                color=colour,
                markersize=6,
                capsize=3,
                label=kind,
            )
    axes.axvline(0, color="0.45", linewidth=1)
    axes.set_yticks(range(len(rows)), rows["label"])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.legend(loc="best")
    axes.set(title="Effect, 95 % interval", xlabel="test accuracy gained (percentage points)")


def _ends(axes: Axes, table: pd.DataFrame) -> None:
    runs = table[table["quantity"] == "accuracy"]
    ends = table[table["quantity"] == "end"]
    # Spread sideways by cell, so that the seeds of a cell stand above each other.
    cells = {cell: place for place, cell in enumerate(sorted(runs["cell"].unique()))}
    places = [(cells[cell] - (len(cells) - 1) / 2) / len(cells) for cell in runs["cell"]]
    axes.scatter(places, runs["value"], s=12, color="0.55", linewidth=0)
    for x, (_, end) in zip((1.0, 2.0), ends.iterrows(), strict=True):
        reach = np.nan_to_num([[end["value"] - end["low"]], [end["high"] - end["value"]]])
        axes.errorbar([x], [end["value"]], yerr=reach, fmt="o", color=COLOURS[0], markersize=7, capsize=3)
        axes.annotate(
            f"{end['value']:.1f}", (x, end["value"]), xytext=(8, 0), textcoords="offset points", va="center"
        )
    axes.set_xticks([0, 1, 2], ["every run", "reference", "reproduction"])
    axes.set_xlim(-0.6, 2.8)
    axes.set(title="Accuracies", ylabel="test accuracy (%)")
    axes.set_xlabel("\n".join(str(name) for name in ends["name"]))


def _shortened(name: str) -> str:
    """The first pair of a group, and how many are aliased with it."""
    first, *others = name.split(" = ")
    return f"{first}\n(and {len(others)} aliased pairs)" if others else first
