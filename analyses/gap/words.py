"""The verdict of `gap`: what explains that the reproduction fell short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from slotkit.analyses.gap.plan import Plan

from slotkit.errors import are, many

if TYPE_CHECKING:
    import pandas as pd


def sentences(plan: Plan, table: pd.DataFrame, faults: Sequence[str] = ()) -> Iterator[str]:
    """What was trained, the gap, each effect, the interactions, and what is missing.

    `faults` has a sentence for each run that is damaged, or is another one than the sweep asks for.
    """
    n = len(plan.seeds)
    yield (
        f"{plan.model} on {plan.dataset}, K = {plan.k}, {many(plan.epochs, 'epoch')}: {_design(plan)}, "
        f"{many(n, 'seed')}."
    )
    yield from _ends(table)
    effects = table[table["quantity"].isin(["effect", "reading"])]
    between, others = (effects[effects["between"].astype(bool) == value] for value in (True, False))
    yield from _verdict(table)
    yield "Points gained, on average over all combinations of the others (main effects):"
    yield from (f"  {_effect(row)}" for _, row in between.iterrows())
    if len(others):
        yield "The same of settings that the ends share and another source has otherwise:"
        yield from (f"  {_effect(row)}" for _, row in others.iterrows())
    yield from _sum(table)
    yield from _interactions(table)
    yield from _reservations(plan, table, len(faults))
    yield from faults


def _design(plan: Plan) -> str:
    p, cells = len(plan.factors), len(plan.cells)
    if cells == 2**p:
        return f"all {cells} combinations of {many(p, 'setting')}"
    return (
        f"{cells} of the {2**p} combinations of {p} settings (resolution IV: an effect of one setting is "
        "aliased with interactions of three, and pairs of settings with each other)"
    )


def _ends(table: pd.DataFrame) -> Iterator[str]:
    ends, gap = table[table["quantity"] == "end"], table[table["quantity"] == "gap"].iloc[0]
    told = [f"{row['name']} {_number(row, '.2f')} %" for _, row in ends.iterrows()]
    yield f"Test accuracy: {'; '.join(told)}. The gap is {_number(gap, '.2f')} points."


def _verdict(table: pd.DataFrame) -> Iterator[str]:
    """What one setting does at either end; the largest first."""
    up, down = (
        table[table["quantity"] == quantity].set_index("name") for quantity in ("step up", "step down")
    )
    ranked = [name for name in table.loc[table["quantity"] == "effect", "name"] if name in up.index]
    known = [name for name in ranked if np.isfinite([up["value"][name], down["value"][name]]).all()]
    if known:
        # A setting that makes the reference worse can't explain the gap, however large its effect is.
        best = max(known, key=lambda name: up["value"][name] + down["value"][name])
        yield _most(best, up.loc[best], down.loc[best])
    yield "Points gained by changing one setting alone, in the reproduction; in the reference:"
    for name in ranked:
        yield (
            f"  {name} ({up['low_level'][name]} → {up['high_level'][name]}): "
            f"{_number(up.loc[name], '+.2f')}; {_number(down.loc[name], '+.2f')}"
        )


def _most(name: str, up: Any, down: Any) -> str:
    if up["value"] + down["value"] <= 0:
        return (
            "No setting explains the gap: at both ends together each of them costs points, or is worth none."
        )
    return (
        f"The {name} explains most at the ends: {up['high_level']} instead of {up['low_level']} is worth "
        f"{_number(up, '+.2f')} points to the reproduction and {_number(down, '+.2f')} to the reference."
    )


def _sum(table: pd.DataFrame) -> Iterator[str]:
    """The sum of the main effects, and the range of accuracies that they are averages over."""
    explained = table[table["quantity"] == "explained"].assign(low=np.nan).iloc[0]
    runs = table[(table["quantity"] == "accuracy") & (table["name"] == "finished")]
    lowest = runs.loc[runs["value"].idxmin()]
    yield (
        f"Main effects between the ends add up to {_number(explained, '.2f')} points. They are averages over "
        f"combinations that end at {lowest['value']:.1f} % ({lowest['run']}) to {runs['value'].max():.1f} %."
    )


def _effect(row: Any) -> str:
    return (
        f"{row['name']} ({row['low_level']} → {row['high_level']}): {_number(row, '+.2f')} points"
        f"{_clear_of_zero(row)}"
    )


def _clear_of_zero(row: Any) -> str:
    return ", not told from 0" if row["low"] <= 0 <= row["high"] else ""


def _interactions(table: pd.DataFrame) -> Iterator[str]:
    pairs = table[table["quantity"] == "interaction"]
    pairs = pairs[np.isfinite(pairs["value"].to_numpy(np.float64))].head(3)
    if len(pairs):
        yield "Strongest interactions (half of what one effect grows by with the other's level):"
        yield from (f"  {row['name']}: {_number(row, '+.2f')} points" for _, row in pairs.iterrows())


def _reservations(plan: Plan, table: pd.DataFrame, faulty: int) -> Iterator[str]:
    runs = table[table["quantity"] == "accuracy"]
    wanted = len(plan.trained()) * len(plan.seeds)
    if missing := wanted - len(runs) - faulty:
        yield f"{missing} of {many(wanted, 'run')} {are(missing)} not finished: estimated from the others."
    for status, why in (("diverged", ""), ("collapsed", " to chance")):
        named = list(runs.loc[runs["name"] == status, "run"])
        if named:
            yield (
                f"{len(named)} {status}{why} and {are(len(named))} left out of the "
                f"effects: {', '.join(named)}."
            )
    effects = table[table["quantity"].isin(["effect", "interaction"])]
    lost = list(effects.loc[effects["value"].isna(), "name"])
    if lost:
        yield f"The runs at hand don't tell, and the others assume to be 0: {'; '.join(lost)}."
    if effects["low"].isna().all():
        # The noise is that around both cells and seeds: one cell with two of them does not tell it.
        yield (
            "No cell has two seeds, so there are no intervals: give more --seeds."
            if len(plan.seeds) < 2
            else "Too few cells have two finished seeds, so there are no intervals: train what is missing, "
            "or give more --seeds."
        )
    if plan.held:
        yield (
            f"Held at the setting of {plan.reference}, though the ends differ in it: {', '.join(plan.held)}."
        )
    for factor in plan.factors:
        first = min(factor.high.get("training.restart_epochs") or (0,))
        if first >= plan.epochs:
            yield (
                f"The restarts of the schedule begin at epoch {first}, and training ends with epoch "
                f"{plan.epochs}: it is one cosine here."
            )


def _number(row: Any, form: str) -> str:
    """ "97.21 [97.10, 97.32]", or without the interval where there is none."""
    if np.isnan(row["value"]):
        return "unknown"
    interval = "" if np.isnan(row["low"]) else f" [{row['low']:{form}}, {row['high']:{form}}]"
    return f"{row['value']:{form}}{interval}"
