"""The verdict of `weights`: are large magnitudes preferred, and what becomes of norms and spectra?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from slotkit.analyses.common.comparison import differ_by_k, largest_layer
from slotkit.analyses.common.findings import lacking
from slotkit.analyses.common.statistics import in_words, mean_and_interval, share_in_words
from slotkit.analyses.weights.choice import rank_groups

from slotkit.errors import many

if TYPE_CHECKING:
    import pandas as pd

# Preferences between 1 / (1 + PLAIN) and 1 + PLAIN are called none, and so are differences up to PLAIN. Where
# there are few connections, so is what a choice at random has in one case of 20.
PLAIN = 0.02
DEVIATIONS = 1.96

# The deviation of |W| over its mean, where W is uniform around 0.
SPREAD = 3**-0.5


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """A paragraph for each group; means over runs, with intervals where there are several."""
    for group, rows in table.groupby("group", sort=False):
        runs, last = rows["run"].nunique(), rows["step"].max()
        yield f"{group} ({many(runs, 'run')}, checkpoint of step {last:,.0f}):"
        for layer in rows.loc[rows["quantity"] == "connections", "layer"].unique():
            yield from _layer(_Layer(rows[rows["layer"] == layer]), layer)
        yield _sampled(rows)
    if differ_by_k(table):
        yield from _across_k(table)


class _Layer:
    """Numbers of one layer in words, at the end or at the start."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows
        self.k = int(rows["k"].iloc[0])
        # Runs of a group may end at steps of their own.
        steps = rows.groupby("run")["step"]
        self._at = {"start": steps.transform("min"), "end": steps.transform("max")}

    def values(self, quantity: str, when: str = "", at: float | None = None) -> NDArray[Any]:
        rows = self.rows[self.rows["quantity"] == quantity]
        if when:
            rows = rows[rows["step"] == self._at[when][rows.index]]
        if at is not None:
            rows = rows[np.isclose(rows["at"], at)]
        return np.asarray(rows["value"])

    def mean(self, quantity: str, when: str = "", at: float | None = None) -> float:
        return mean_and_interval(self.values(quantity, when, at))[0]

    def __call__(self, quantity: str, when: str = "", at: float | None = None, form: str = ".2f") -> str:
        return in_words(self.values(quantity, when, at), lambda value: f"{value:{form}}")

    def share(self, quantity: str, when: str = "", at: float | None = None) -> str:
        return share_in_words(self.values(quantity, when, at))

    @property
    def noise(self) -> float:
        """The standard error of a preference, if every connection chose one of its K options at random."""
        return float(SPREAD * np.sqrt((1 - 1 / self.k) / self.values("sampled").sum()))


def _layer(told: _Layer, layer: str) -> Iterator[str]:
    if told.k == 1:
        yield f"  {layer}: one option each, so there is nothing to prefer."
    else:
        yield (
            f"  {layer}: {_verdict(told)}: the mean magnitude of the weights is "
            f"{told('preference', 'end')} times that of the options ({told('preference', 'start')} at the "
            f"start; 1 at random, {told('preference, largest')} if the largest always won, "
            f"{told('preference, extreme')} if a coin chose between both ends)."
        )
        if len(told.values("preference, mirrored")):
            added = told.mean("preference", "end") - told.mean("preference, mirrored")
            direction = f"the direction of the latents {'adds to' if added > 0 else 'takes from'} it"
            # Both are of the same connections, which then choose twice.
            least = max(PLAIN, DEVIATIONS * np.sqrt(2) * told.noise)
            yield (
                f"    With all latents of the opposite sign it would be {told('preference, mirrored')}: "
                f"{direction if abs(added) > least else 'it comes with any movement'}."
            )
        if told.mean("moved", "end") > 0:
            yield (
                f"    {told.share('moved', 'end')} of the connections left their initial option; of these it "
                f"is {told('preference, moved', 'end')}, and {told.share(*_first(told, ', moved'))} have "
                f"{_top(told.k)} (of all {told.share(*_first(told, ''))}, at random "
                f"{100 * _of_first(told.k) / told.k:.1f} %)."
            )
    yield (
        f"    Norm {told('frobenius / random', 'end')} times that of a random choice; that of a unit from "
        f"{told('unit norm / random', 'end', 0)} over {told('unit norm / random', 'end', 0.5)} (median) to "
        f"{told('unit norm / random', 'end', 1)}."
    )
    yield (
        f"    Largest singular value {told('top / edge', 'end')} times the Marchenko-Pastur edge "
        f"({told('top / edge', 'start')} at the start), {told('above the edge', 'end', form='.3g')} above it "
        f"({told('above the edge', 'start', form='.3g')}); effective rank "
        f"{told('effective rank', 'end', form='.1f')} ({told('effective rank', 'start', form='.1f')})."
    )
    if len(told.values("dead units")):
        start = told.values("dead units", "start")
        before = f" ({told.share('dead units', 'start')} at the start)" if len(start) else ""
        units = told("units", "end", form=".0f")
        yield f"    Dead: {told.share('dead units', 'end')} of {units} units{before}."


def _first(told: _Layer, kind: str) -> tuple[str, str, float]:
    """The quantity, end of the course and `at` of the share with the highest rank of magnitude."""
    return f"rank of magnitude{kind}", "end", float(told.rows.loc[_ranks(told, kind), "at"].min())


def _ranks(told: _Layer, kind: str) -> pd.Series:
    return told.rows["quantity"] == f"rank of magnitude{kind}"


def _of_first(k: int) -> int:
    """How many ranks the first group of ranks has."""
    return len(rank_groups(k)[0])


def _top(k: int) -> str:
    first = _of_first(k)
    which = "the largest magnitude" if first == 1 else f"one of the {first} largest magnitudes"
    return f"{which} of their options"


def _verdict(told: _Layer) -> str:
    preference = told.mean("preference", "end")
    if 1 / (1 + PLAIN) <= preference <= 1 + PLAIN:
        return "no preference"
    if abs(preference - 1) <= DEVIATIONS * told.noise:
        return (
            f"no preference that {many(int(told.values('sampled').sum()), 'connection')} can tell from chance"
        )
    return f"{'large' if preference > 1 else 'small'} magnitudes are preferred"


def _sampled(rows: pd.DataFrame) -> str:
    totals = [
        rows[rows["quantity"] == name].groupby("run")["value"].sum() for name in ("sampled", "connections")
    ]
    sampled, connections = (float(total.iloc[0]) for total in totals)
    which = "all" if sampled == connections else f"{sampled:,.0f}, evenly spread, of"
    return (
        f"  Options and ranks are those of {which} {connections:,.0f} connections; norms and spectra are "
        "exact."
    )


def _across_k(table: pd.DataFrame) -> Iterator[str]:
    layer = largest_layer(table)
    if lacking(table, layer):
        return  # networks that have no layer in common are not compared by it
    found = []
    for k, rows in table[table["layer"] == layer].groupby("k"):
        told = _Layer(rows)
        moved = (
            f" ({told('preference, moved', 'end')} of those moved)" if told.mean("moved", "end") > 0 else ""
        )
        found.append(
            f"{k}: {told('preference', 'end')}{moved} of {told('preference, largest')}, effective rank "
            f"{told('effective rank / start', 'end')} times that of the start"
        )
    yield f"By K, {layer} at the end, preference of the possible one: " + "; ".join(found) + "."
