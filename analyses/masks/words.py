"""The verdict of `masks` in words, and what figure and words both need of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slotkit.errors import are, many, typed
from slotkit.masks.controls import CONTROLS
from slotkit.masks.correlations import Estimate
from slotkit.masks.members import BY_SCORE, GROUPS, NO_CONTROLS
from slotkit.masks.outcomes import SCORES
from slotkit.masks.population import Group, Report

if TYPE_CHECKING:
    import pandas as pd

ALL, OVER, FIRST = "all", "over masks", "first mask"
LOW, HIGH = 0.025, 0.975

# Scores of graphs alone: what is compared with density.
GRAPH_SCORES = tuple(score for score in SCORES if score != "density")

# What a verdict needs beside the masks that a score kept: chance, and a look at held-out data.
NEEDED = ("acceptance random", "acceptance loss")


def sentences(table: pd.DataFrame, told: Report, searches: Mapping[str, Path]) -> Iterator[str]:
    """The verdict first, then what a search covered, then what is missing and how to get it."""
    yield verdict(table)
    yield from _best_of_scores(table)
    yield from _accuracies(told)
    for name in searches:
        yield from _search(table[table["search"] == name], name)
    yield from _missing(table, told, searches)


def groups_of(table: pd.DataFrame) -> list[str]:
    """The kinds of trained masks, in the order of GROUPS, without the first mask."""
    there = set(table.loc[table["quantity"] == "accuracy", "group"])
    return [name for name in GROUPS if name in there]


def estimate(table: pd.DataFrame, quantity: str, group: str) -> Estimate:
    """A number over masks, with its interval."""
    rows = table[(table["mask"] == OVER) & (table["quantity"] == quantity) & (table["group"] == group)]

    def at(level: float | None) -> float | None:
        found = rows.loc[rows["level"].isna() if level is None else rows["level"] == level, "value"]
        return float(found.iloc[0]) if len(found) else None

    return Estimate(at(None), at(LOW), at(HIGH))


def ahead_of(table: pd.DataFrame) -> dict[str, Estimate]:
    """Control -> by how much the masks that a graph score kept are more accurate, a fraction."""
    controls = [name for name in groups_of(table) if name not in NO_CONTROLS]
    return {name: estimate(table, "accuracy ahead", name) for name in controls}


def verdict(table: pd.DataFrame) -> str:
    """Whether the masks that graph scores kept are more accurate than controls, in one sentence."""
    if BY_SCORE not in groups_of(table):
        return "Whether a graph score beats its controls can't be said: no mask that a score kept is trained."
    ahead = ahead_of(table)
    known = {name: one for name, one in ahead.items() if one.low is not None}
    lost = {name: one for name, one in known.items() if one.low is not None and one.low <= 0}
    missing = [name for name in NEEDED if name not in ahead]
    unknown = [name for name in ahead if name not in known]
    if lost:
        told = "; ".join(_ahead(name, one) for name, one in lost.items())
        return f"No graph score is shown to beat its controls here: masks that one kept are {told}."
    if missing or unknown:
        why = [f"{' and '.join(missing)} {are(len(missing))} missing"] if missing else []
        if unknown:
            why.append(
                f"the lead over {', '.join(unknown)} has no interval, which takes two masks of each kind "
                "and accuracies that differ"
            )
        return f"Whether a graph score beats its controls can't be said: {'; '.join(why)}."
    told = "; ".join(_ahead(name, one) for name, one in known.items())
    return f"The masks that a graph score kept beat every control here: they are {told}."


def _ahead(name: str, one: Estimate) -> str:
    return f"{one.words('+.2f', 100)} points of accuracy ahead of {name}"


def strongest(table: pd.DataFrame, group: str = BY_SCORE) -> tuple[str, Estimate] | None:
    """The graph score that goes with accuracy the most, up or down, among the masks of a group, if they are
    enough for an interval.
    """
    found = {score: estimate(table, f"pearson {score}", group) for score in GRAPH_SCORES}
    known = {score: one for score, one in found.items() if one.low is not None}
    if not known:
        return None
    score = max(known, key=lambda name: abs(known[name].value or 0.0))
    return score, known[score]


def _best_of_scores(table: pd.DataFrame) -> Iterator[str]:
    found = strongest(table)
    if found is None:
        return
    score, one = found
    apart = [name for name in GRAPH_SCORES if _without_zero(estimate(table, f"pearson {name}", BY_SCORE))]
    others = [
        f"{estimate(table, f'pearson {score}', name).words()} among {name}"
        for name in groups_of(table)
        if name != BY_SCORE and estimate(table, f"pearson {score}", name).value is not None
    ]
    yield (
        f"Among masks that a graph score kept, {score} goes with accuracy the most: Pearson r = "
        f"{one.words()}; density alone has {estimate(table, 'pearson density', BY_SCORE).words()}. Of "
        f"{len(GRAPH_SCORES)} scores {len(apart)} have an interval without 0."
        + (f" The same score has {', '.join(others)}." if others else "")
    )


def _without_zero(one: Estimate) -> bool:
    return one.low is not None and one.high is not None and not one.low <= 0 <= one.high


def _accuracies(told: Report) -> Iterator[str]:
    if told.best is None:
        return
    if told.baseline is None:
        yield f"The first mask, {told.first}, is not trained to the end: no mask is compared with it."
    first = [] if told.baseline is None else [f"the first mask {100 * told.baseline.accuracy:.2f} %"]
    means = "; ".join([*first, *map(_mean, told.groups)])
    yield (
        f"Test accuracy ({many(told.seeds, 'training')} a mask): {means}. The best by "
        f"validation, {told.best.name}, has {100 * told.best.accuracy:.2f} %."
    )
    yield (
        "Masks of one search share layers, and intervals take them for independent: they are too narrow "
        "rather than too wide."
    )


def _mean(group: Group) -> str:
    spread = "" if group.spread is None else f" ± {100 * group.spread:.2f}"
    better = (
        "" if group.better.value is None else f", {group.better.words('.0f', 100)} % better than the first"
    )
    return f"{group.name} {100 * (group.mean or 0.0):.2f}{spread} % (n = {group.n}{better})"


def _search(rows: pd.DataFrame, name: str) -> Iterator[str]:
    last = int(rows.loc[rows["quantity"] == "explored", "at"].max())
    shares = [100 * number(rows, quantity, last) for quantity in ("explored", "explored by chance")]
    saved = rows.loc[rows["quantity"] == "overlap", "at"].max()
    both = [100 * number(rows, quantity, saved) for quantity in ("overlap", "overlap by chance")]
    yield (
        f"{name}: {last} draws explored {shares[0]:.1f} % of the connections; random masks of the same layer "
        f"densities would explore {shares[1]:.1f} %. The last saved mask (draw {saved:.0f}) shares "
        f"{both[0]:.0f} % of its connections with the first; random ones would share {both[1]:.1f} %."
    )
    by_layer = rows[(rows["quantity"] == "density") & (rows["layer"] != ALL) & (rows["at"] == saved)]
    erk = rows[(rows["quantity"] == "ERK density") & (rows["at"] == saved)]
    ratios = by_layer["value"].to_numpy() / erk["value"].to_numpy()
    names = by_layer["layer"].str.removesuffix(".weight").tolist()
    low, high = int(np.argmin(ratios)), int(np.argmax(ratios))
    yield (
        f"{name}: layer densities are {ratios[low]:.2g} times ({names[low]}) to {ratios[high]:.2g} times "
        f"({names[high]}) those of ERK."
    )


def _missing(table: pd.DataFrame, told: Report, searches: Mapping[str, Path]) -> Iterator[str]:
    trained = set(table.loc[table["quantity"] == "accuracy", "search"])
    without = [path for name, path in searches.items() if name not in trained]
    if without:
        paths = " ".join(map(typed, without))
        yield f"Not trained yet: {paths}. `slotkit masks train {paths} --controls all` does it."
    if told.left or told.diverged:
        yield (
            f"{many(told.left, 'mask')} {are(told.left)} not trained to the end yet, and {told.diverged} "
            "diverged."
        )
    yield from told.left_out
    there = groups_of(table)
    if BY_SCORE not in there:
        return
    for name in [one for one in NEEDED if one not in there]:
        accept = name.rpartition(" ")[2]
        yield (
            f"The control {name} is missing: repeat the command of the search with --accept {accept} --name "
            f"{accept}, and name {accept} to `slotkit masks train` too."
        )
    kinds = [kind for kind in CONTROLS if kind not in there]
    if kinds:
        told_of = ", ".join(kinds)
        yield f"The controls {told_of} are missing: `slotkit masks train` makes them with --controls all."


def number(rows: pd.DataFrame, quantity: str, at: float, layer: str = ALL) -> float:
    """The one number of a search's rows."""
    found = rows[(rows["quantity"] == quantity) & (rows["at"] == at) & (rows["layer"] == layer)]
    return float(found["value"].iloc[0])


def searches_of(table: pd.DataFrame) -> Sequence[str]:
    """The searches, in the order of the table."""
    return list(dict.fromkeys(table.loc[table["quantity"] == "explored", "search"]))
