"""The table of `flips`, from the traces of runs; its quantities are in the package's docstring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from slotkit.analyses.common.comparison import at_its_own, reading_labels
from slotkit.analyses.common.findings import lengths
from slotkit.analyses.common.recorded import Recorded, Run, open_runs, read
from slotkit.analyses.common.result import Result, in_lines
from slotkit.analyses.common.several import look_at
from slotkit.analyses.common.statistics import in_words, share_in_words
from slotkit.analyses.flips.spells import LayerCounts, count_layers, half_life, kaplan_meier

from slotkit.errors import SlotkitError, many
from slotkit.recording.trace import DECIDED
from slotkit.runs.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

WITHIN = 50
WINDOWS = 50

ALL = "all"

# Of a PS run, over time: the column of the trace, and the quantity.
COURSES = {"mean_entropy": "mean entropy", "drift": "weight drift", "decided": "decided reels"}

COLUMNS = ["run", "group", "reading", "k", "seed", "layer", "quantity", "at", "value"]

Row = tuple[str, float, float]  # quantity, at, value


def analyze(
    runs: Run | Sequence[Run], within: int = WITHIN, windows: int = WINDOWS, runs_dir: Path | None = None
) -> Result:
    """Flips of one or many runs; of those under probabilistic selection, of their greedy reading.

    Runs with a trace "full" give every quantity, those with a "summary" rates and counts by layer only.

    Args:
        runs: folders, paths, or names in `runs_dir`.
        within: longest time in steps between the two flips of a flip-flop.
        windows: pieces that the steps are divided into, for what is shown over time.

    Runs that are no slot machines or have no whole trace are left out.

    Raises SlotkitError if no run is left.
    """
    import pandas as pd
    from slotkit.analyses.flips.figure import plot

    for name, value in (("within", within), ("windows", windows)):
        if value < 1:
            raise SlotkitError(f"{name} is {value}. Give an integer from 1 up.")
    counted = look_at(open_runs(runs, runs_dir), lambda folder, name: _of_run(folder, name, within, windows))
    labels = reading_labels(counted.folders, [one.reading for one in counted.found])
    frames = [one.frame.assign(group=label) for one, label in zip(counted.found, labels, strict=True)]
    table = pd.concat(frames, ignore_index=True)[COLUMNS]
    reservations = [lengths(table[table["quantity"] == "flip rate"]), *counted.notes]
    reservations += (told for one in counted.found for told in one.reservations)
    partial = [name for name, one in zip(counted.names, counted.found, strict=True) if one.partial]
    if partial:
        reservations.append(
            f"The trace of {', '.join(partial)} has counts only (--trace summary), so this is a partial "
            "answer: flip rates, nothing on single reels. Train with --trace full for the rest."
        )
    return Result("flips", table, in_lines([*_sentences(table, within), *reservations]), plot)


class _OfRun(NamedTuple):
    """The rows of a run, all but their group."""

    frame: pd.DataFrame
    reading: str
    partial: bool
    reservations: tuple[str, ...]


def _of_run(folder: RunFolder, name: str, within: int, windows: int) -> _OfRun:
    import pandas as pd

    recorded = read(folder, events=True)
    frames: list[pd.DataFrame] = []
    about = {
        "run": name,
        "reading": recorded.reading,
        "k": recorded.reels["k"],
        "seed": recorded.reels["seed"],
    }
    for layer, rows in _layers(recorded, within, windows):
        frame = pd.DataFrame(rows, columns=["quantity", "at", "value"])
        frames.append(frame.assign(**about, layer=layer))
    whole = pd.concat(frames, ignore_index=True)
    return _OfRun(whole, recorded.reading, recorded.events is None, recorded.reservations)


def _layers(recorded: Recorded, within: int, windows: int) -> Iterator[tuple[str, list[Row]]]:
    """(layer, rows) of every tensor and of all together."""
    edges = np.unique(np.linspace(0, recorded.steps, windows + 1).astype(np.int64))
    changed = np.vstack([np.zeros((1, len(recorded.sizes)), np.int64), recorded.changed])
    counts = count_layers(recorded, within) if recorded.events is not None else []
    for i, layer in enumerate(recorded.layers):
        yield (
            layer,
            [
                *_rates(changed[:, i], int(recorded.sizes[i]), edges),
                *(_reel_rows(counts[i], edges) if counts else []),
                *_courses(recorded, np.eye(len(recorded.sizes))[i]),
            ],
        )
    yield (
        ALL,
        [
            *_rates(changed.sum(axis=1), int(recorded.sizes.sum()), edges),
            *(_reel_rows(reduce(add, counts), edges) if counts else []),
            *_courses(recorded, recorded.sizes / recorded.sizes.sum()),
        ],
    )


def _courses(recorded: Recorded, weights: NDArray[np.float64]) -> Iterator[Row]:
    """Of a PS run, at each measurement: means over tensors, weighted."""
    for name, quantity in COURSES.items():
        if name in recorded.means:
            values = recorded.means[name] @ weights
            yield from (
                (quantity, float(at), float(value))
                for at, value in zip(recorded.measured, values, strict=True)
            )


def _rates(flips: NDArray[Any], connections: int, edges: NDArray[np.int64]) -> Iterator[Row]:
    """Flip rates between the edges, and flips a reel; `flips` (n + 1,) are the counts by step."""
    per_window = np.diff(np.cumsum(flips)[edges])
    rates = per_window / np.diff(edges) / connections * 1e6
    yield from (("flip rate", float(at), float(rate)) for at, rate in zip(edges[1:], rates, strict=True))
    yield "flips", np.nan, float(flips.sum() / connections)
    yield "connections", np.nan, float(connections)


def _reel_rows(counts: LayerCounts, edges: NDArray[np.int64]) -> Iterator[Row]:
    reels, n = counts.connections, len(counts.flips) - 1
    yield from (("reels by flips", i, float(count / reels)) for i, count in enumerate(counts.times))
    yield "still flipping", np.nan, float(counts.last[n - max(1, n // 10) + 1 :].sum() / reels)
    settled, agreement = np.cumsum(counts.last) / reels, counts.agreeing / reels
    for name, share in (("settled", settled), ("agreement", agreement)):
        yield from ((name, float(at), float(share[at])) for at in edges)
    for level in (0.5, 0.9, 0.99):
        below = np.flatnonzero(agreement < level)
        yield "agreed", level, float(below[-1] + 1 if len(below) else 0)
    yield from (("options visited", i, float(c / reels)) for i, c in enumerate(counts.visited) if i)
    returned, flipped = (np.diff(np.cumsum(x)[edges]) for x in (counts.returns, counts.flips))
    yield from (
        ("flip-flops", float(at), float(a / b) if b else np.nan)
        for at, a, b in zip(edges[1:], returned, flipped, strict=True)
    )
    flips = int(counts.flips.sum())
    yield "flip-flop share", np.nan, float(counts.returns.sum() / flips) if flips else np.nan
    ages = np.unique(np.geomspace(1, max(n, 1), 60).astype(np.int64))
    for kind, ended, cut in (
        ("initial", counts.first_ended, counts.first_cut),
        ("taken", counts.taken_ended, counts.taken_cut),
    ):
        survival = kaplan_meier(ended, cut)
        yield from ((f"survival, {kind}", float(age), float(survival[age])) for age in ages)
        yield f"half-life, {kind}", np.nan, half_life(survival)


def _sentences(table: pd.DataFrame, within: int) -> Iterator[str]:
    for group, rows in table[table["layer"] == ALL].groupby("group", sort=False):
        told = _Told(rows)
        runs, steps = rows["run"].nunique(), int(rows.loc[rows["quantity"] == "flip rate", "at"].max())
        rates = rows[rows["quantity"] == "flip rate"]
        start, end = (at_its_own(rates, bound)["value"].mean() for bound in ("min", "max"))
        never, once, more = (told.share("reels by flips", i) for i in range(3))
        half, most, nearly_all = (told("agreed", level) for level in (0.5, 0.9, 0.99))
        yield (
            f"{group} ({many(runs, 'run')}, {many(steps, 'step')}): {told('flips', decimals=2)} "
            f"flips a reel; {start:,.0f} a step and million reels at the start, {end:,.0f} at the end."
        )
        yield from _softmax(rows)
        if "settled" not in set(rows["quantity"]):
            continue
        yield (
            f"  {never} of the reels never flipped, {once} once, {more} more often; "
            f"{told.share('still flipping')} flipped in the last tenth."
        )
        yield (
            f"  Half of the reels use the option they end with from step {half} on, 90 % from step {most}, "
            f"99 % from step {nearly_all}."
        )
        visited = rows[rows["quantity"] == "options visited"]
        mean = (visited["at"] * visited["value"]).sum() / visited["run"].nunique()
        k = "/".join(str(k) for k in sorted(rows["k"].unique()))
        yield (
            f"  A reel used {mean:.2f} of its {k} options on average; "
            f"{told.share('flip-flop share')} of the flips went back within {within} steps (flip-flops)."
        )
        yield (
            f"  Half-life of a selection, in steps: {told('half-life, initial')}, of an initial one; "
            f"{told('half-life, taken')}, of one that a flip brought (Kaplan-Meier)."
        )


def _softmax(rows: pd.DataFrame) -> Iterator[str]:
    """How far the probabilities of a PS run have come, at its first and its last measurement."""
    first, last = (
        {name: at_its_own(rows[rows["quantity"] == name], bound)["value"].mean() for name in COURSES.values()}
        for bound in ("min", "max")
    )
    if not np.isfinite(last["mean entropy"]):
        return
    k = int(rows["k"].max())
    yield (
        f"  The softmax of a reel has {last['mean entropy']:.3g} nats of entropy on average at the last "
        f"measurement ({first['mean entropy']:.3g} at the first, {np.log(k):.3g} if all {k} options were "
        f"equally likely); {100 * last['decided reels']:.1f} % of the reels are decided (an option has a "
        f"probability of {DECIDED:g} or more), {100 * first['decided reels']:.1f} % at the first. From one "
        f"measurement to the next the expected weight drifts by {100 * last['weight drift']:.2g} % of its "
        f"bound ({100 * first['weight drift']:.2g} % at the first)."
    )


class _Told:
    """Numbers of a group in words: the mean over runs, and its bootstrap interval where there are several."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows

    def __call__(self, quantity: str, at: float | None = None, decimals: int = 0) -> str:
        return in_words(self._values(quantity, at), lambda value: _number(value, decimals))

    def share(self, quantity: str, at: float | None = None) -> str:
        return share_in_words(self._values(quantity, at))

    def _values(self, quantity: str, at: float | None) -> NDArray[np.float64]:
        rows = self.rows[self.rows["quantity"] == quantity]
        if at is not None:
            rows = rows[rows["at"] == at]
        return np.asarray(rows["value"])


def _number(value: float, decimals: int) -> str:
    return "more than there were" if np.isinf(value) else f"{value:,.{decimals}f}"
