"""Flips as arrays: what became of every reel, and how long selections lasted.

A *spell* is the time that a reel uses one option: from a flip (or the start) to the next flip, or to the
end of the trace, where it is cut off (censored).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slotkit.analyses.common.recorded import Events, Recorded

from slotkit.recording.replay import start_selections

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class LayerCounts:
    """Counts of one layer over n steps; those of several layers add up. Arrays of n + 1 are by step or age.

    Attributes:
        connections: reels.
        flips: by step.
        returns: flips back to the option just left, within the time asked for, by step of the return.
        times: reels by number of flips: none, one, more.
        visited: reels by number of different options used, (K + 1,).
        last: reels by step of their last flip; 0 is never.
        agreeing: reels that use, after so many steps, the option that they end with.
        first_ended, first_cut: ages at which initial selections were flipped away, or cut off by the end.
        taken_ended, taken_cut: the same of selections that a flip brought.
    """

    connections: int
    flips: Counts
    returns: Counts
    times: Counts
    visited: Counts
    last: Counts
    agreeing: Counts
    first_ended: Counts
    first_cut: Counts
    taken_ended: Counts
    taken_cut: Counts

    def __add__(self, other: LayerCounts) -> LayerCounts:
        return LayerCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def count_layers(recorded: Recorded, within: int) -> list[LayerCounts]:
    """The counts of every layer of a run with recorded flips; `within` in steps."""
    assert recorded.events is not None
    events = recorded.events
    # Stable: the flips of one connection stay in the order of time.
    order = np.argsort(events.connection, kind="stable")
    ordered = Events(*(getattr(events, f.name)[order] for f in fields(events)))
    ends, start = np.cumsum(recorded.sizes), start_selections(recorded.folder)
    found = []
    for name, size, end in zip(recorded.layers, recorded.sizes, ends, strict=True):
        part = slice(*np.searchsorted(ordered.connection, [end - size, end]))
        layer = Events(ordered.step[part], ordered.connection[part] - (end - size), ordered.option[part])
        initial = start[name].numpy().astype(np.int32)
        found.append(_count(layer, initial, recorded.steps, recorded.reels["k"], within))
    return found


def _count(events: Events, initial: NDArray[Any], n: int, k: int, within: int) -> LayerCounts:
    # 32 bits: there may be millions of flips.
    connection, step, option = events.connection, events.step, events.option.astype(np.int32)
    opens = np.diff(connection, prepend=-1) != 0  # first flip of its connection
    closes = np.diff(connection, append=-1) != 0  # last one
    before = np.where(opens, initial[connection], np.roll(option, 1))
    since = step - np.roll(step, 1)
    returning = ~opens & (option == np.roll(before, 1)) & (since <= within)
    ends = np.where(closes, n, np.roll(step, -1))
    final = initial.copy()
    final[connection[closes]] = option[closes]
    by_reel = np.bincount(connection, minlength=len(initial))
    last = np.zeros(len(initial), np.int32)
    last[connection[closes]] = step[closes]
    first_end = np.full(len(initial), n)
    first_end[connection[opens]] = step[opens]
    kept = by_reel == 0
    # A spell with the final option begins to agree where it starts and stops where it ends.
    matching, started_right = option == final[connection], initial == final
    begin = _by(step[matching], n)
    stop = _by(ends[matching & ~closes], n) + _by(first_end[started_right & ~kept], n)
    change = begin - stop
    change[0] += int(started_right.sum())
    pairs = np.unique(
        np.concatenate([np.arange(len(initial)) * k + initial, connection.astype(np.int64) * k + option])
    )
    return LayerCounts(
        connections=len(initial),
        flips=_by(step, n),
        returns=_by(step[returning], n),
        times=np.bincount(np.minimum(by_reel, 2), minlength=3),
        visited=np.bincount(np.bincount(pairs // k, minlength=len(initial)), minlength=k + 1),
        last=_by(last, n),
        agreeing=np.cumsum(change),
        first_ended=_by(first_end[~kept], n),
        first_cut=_by(first_end[kept], n),
        taken_ended=_by((ends - step)[~closes], n),
        taken_cut=_by((ends - step)[closes], n),
    )


def _by(steps: NDArray[Any], n: int) -> Counts:
    return np.bincount(steps, minlength=n + 1)


def kaplan_meier(ended: Counts, cut: Counts) -> NDArray[np.float64]:
    """Share of spells that outlive each age 0 .. n, where those cut off count as long as they are seen.

    The product-limit estimate of Kaplan and Meier (1958). NaN from the age on that no spell reaches.
    """
    at_risk = np.cumsum((ended + cut)[::-1])[::-1]
    with np.errstate(invalid="ignore"):
        hazard = np.where(at_risk > 0, ended / np.maximum(at_risk, 1), np.nan)
    return np.asarray(np.cumprod(1 - hazard))


def half_life(survival: NDArray[np.float64]) -> float:
    """The age in steps at which half of the spells are over; infinite if more outlive the trace."""
    reached = np.flatnonzero(survival <= 0.5)
    return float(reached[0]) if len(reached) else (np.inf if np.isfinite(survival[0]) else np.nan)
