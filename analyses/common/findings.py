"""Words that figures share: a finding over layers or groups, and what a reader has to know of the runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from slotkit.analyses.common.comparison import at_its_own
from slotkit.analyses.common.statistics import typical
from slotkit.analyses.common.style import MOST

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"

# Where one layer has this share of the connections, a line of all layers together would repeat its line.
NEARLY_ALL = 0.8

# Names of more letters are left out of titles: the legend has them.
LONG = 16


def short(name: str) -> str:
    """ "fc1.weight" -> "fc1", "all" -> "all layers"."""
    return "all layers" if name == ALL else name.removesuffix(".weight")


def layers(table: pd.DataFrame) -> list[str]:
    """The layers to show; "all" is left out beside a layer alone, or one of NEARLY_ALL of the connections."""
    found = list(table["layer"].unique())
    shares = sizes(table)
    single = len(found) == 2 or max(shares.values(), default=0.0) >= NEARLY_ALL
    return [name for name in found if not (name == ALL and single)]


def sizes(table: pd.DataFrame) -> dict[str, float]:
    """Layer -> its share of the connections; nothing of a table without them."""
    rows = table[(table["quantity"] == "connections") & (table["layer"] != ALL)]
    by_layer = rows.groupby("layer", sort=False)["value"].mean()
    return {str(layer): float(value / by_layer.sum()) for layer, value in by_layer.items()}


def layer_words(table: pd.DataFrame, order: Sequence[str]) -> dict[str, str]:
    """Layer -> its words in a legend: "fc1 (88 % of the connections)" of the largest, "fc2" of others."""
    words = {name: short(name) for name in order}
    shares = sizes(table)
    if len(shares) > 1:
        largest = max(shares, key=lambda name: shares[name])
        words[largest] = f"{short(largest)} ({100 * shares[largest]:.0f} % of the connections)"
    return words


def by_name(rows: pd.DataFrame, hue: str, order: Sequence[str]) -> dict[str, float]:
    """Name -> mean value of its rows, in the order of names; none of those without a value. Where a value is
    infinite, as no mean is, the median stands for them.
    """
    means = rows.groupby(hue)["value"].agg(typical)
    return {name: float(means[name]) for name in order if name in means.index and not np.isnan(means[name])}


def at_end(rows: pd.DataFrame, hue: str, order: Sequence[str], bound: str = "max") -> dict[str, float]:
    """Name -> mean value at each run's own last ("max") or first ("min") step."""
    return by_name(at_its_own(rows, bound), hue, order)


def span(values: Mapping[str, float], form: Callable[[float], str], unit: str = "") -> str:
    """ "57 (fc1) to 73 % (fc3)", the least and the most, or "57 %" if they are alike.

    No line is broken within a name or before a unit.
    """
    if not values:
        return "an unknown number" + (f" ({unit})" if unit else "")
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    least, most = form(values[low]), form(values[high])
    unit = f"\N{NO-BREAK SPACE}{unit}" if unit else ""
    if least == most:
        return f"{most}{unit}"
    return f"{least}{_whose(low)} to {most}{unit}{_whose(high)}"


def _whose(name: str) -> str:
    words = short(name).replace(" ", "\N{NO-BREAK SPACE}")
    return f"\N{NO-BREAK SPACE}({words})" if len(words) <= LONG else ""


def percent(value: float) -> str:
    """A fraction as a number of per cents: "57", "0.4", "98.53"."""
    share = 100 * value
    if 0 < share < 1:
        return f"{share:.1g}"
    return f"{share:.2f}" if 99 < share < 100 else f"{share:.0f}"


def whole(value: float) -> str:
    """ "1,200", "3.4", "2.02 million"; "no end of" what has no bound."""
    if value < 10 or np.isinf(value):
        return "no end of" if np.isinf(value) else f"{value:.3g}"
    return f"{value:,.0f}" if value < 1e6 else f"{float(f'{value:.3g}') / 1e6:,.10g} million"


def plain(value: float) -> str:
    return f"{value:.3g}"


def axis_start(low: float, high: float) -> str:
    """Where an axis starts, to about a hundredth of its length: "99.47" of 99.474 to 100."""
    return f"{low:.{max(0, 1 - math.floor(math.log10(high - low)))}f}"


def lengths(rows: pd.DataFrame, hue: str = "group") -> str:
    """A sentence if runs end at different steps, by what `hue` says; else nothing.

    Args:
        rows: with the steps of all runs in column `at`.
    """
    ends = rows.groupby([hue, "run"], sort=False)["at"].max()
    if ends.nunique() < 2:
        return ""
    told = []
    for name, steps in ends.groupby(level=0, sort=False):
        low, high = steps.min(), steps.max()
        several = f"steps {low:,.0f} to {high:,.0f} (a mean over fewer runs after {low:,.0f})"
        told.append(f"{name} at {f'step {high:,.0f}' if low == high else several}")
    if len(told) > 6:
        told = [f"from step {ends.min():,.0f} to step {ends.max():,.0f}"]
    return f"Runs end at different steps: {'; '.join(told)}."


def lacking(table: pd.DataFrame, layer: str) -> str:
    """A sentence if some groups have no such layer, in a figure of several groups of it; else nothing."""
    groups = [
        str(group) for group, rows in table.groupby("group", sort=False) if layer not in set(rows["layer"])
    ]
    if not groups:
        return ""
    return f"This figure lacks {', '.join(groups)}, where there is no {layer}; the table has all layers."


def left_out(order: Sequence[str], what: str) -> str:
    """A sentence if there are more names than a figure can show; else nothing."""
    return f"{MOST} of {len(order)} {what} are shown; the table has all." if len(order) > MOST else ""
