"""The table of `thresholds`, from the traces of runs; its quantities are in the package's docstring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from slotkit.analyses.common.comparison import reading_labels
from slotkit.analyses.common.findings import lengths
from slotkit.analyses.common.recorded import Recorded, Run, open_runs, read
from slotkit.analyses.common.result import Result, in_lines
from slotkit.analyses.common.several import look_at

from slotkit.errors import SlotkitError
from slotkit.recording.replay import reels_of
from slotkit.runs.folder import RunFolder

ALL, ANY = "all", "any"

QUANTITIES = ("margin", "speed", "steps_to_flip")
PREDICTING = (0.05, 0.1, 0.25)

# A restart: from one step to the next the learning rate doubles, at least, having fallen to a half or less. A
# warm-up doubles it, too, and a rate of 0 is twice itself.
RESTART = 2.0

KS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

COLUMNS = ["run", "group", "reading", "k", "seed", "layer", "quantity", "level", "at", "value"]

Row = tuple[str, str, float, float, float]  # layer, quantity, level, at, value


def analyze(runs: Run | Sequence[Run], runs_dir: Path | None = None) -> Result:
    """Distances to thresholds, speeds and flip rates of one or many runs; of those under probabilistic
    selection, of their greedy reading.

    A trace "summary" is enough.

    Args:
        runs: folders, paths, or names in `runs_dir`.

    Runs that are no slot machines, or have no whole trace or no measurement, are left out.

    Raises SlotkitError if no run is left.
    """
    import pandas as pd
    from slotkit.analyses.thresholds.figure import plot
    from slotkit.analyses.thresholds.words import sentences

    reachable: dict[Any, list[Row]] = {}

    def of_run(folder: RunFolder, name: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """The rows of a run, all but their group, and its reservations."""
        recorded = read(folder, events=False)
        _check_measured(recorded)
        reels = recorded.reels
        kind = tuple(value for name, value in reels.items() if name != "seed")
        if reels["sharing"] != "none":  # then they are the few options of one seed, and of one tensor
            kind = (*kind, reels["seed"], _largest(recorded))
        if kind not in reachable:
            reachable[kind] = list(_reachable(recorded))
        rows = [
            *_connections(recorded),
            *_distributions(recorded),
            *_rates(recorded),
            *_lines(recorded),
            *_restarts(recorded),
            # On a line only some options can ever win; scores of the dense form need not be on one.
            *([] if recorded.about.get("form") == "dense" else reachable[kind]),
        ]
        frame = pd.DataFrame(rows, columns=["layer", "quantity", "level", "at", "value"])
        about = {"run": name, "reading": recorded.reading, "k": reels["k"], "seed": reels["seed"]}
        return frame.assign(**about), recorded.reservations

    counted = look_at(open_runs(runs, runs_dir), of_run)
    labels = reading_labels(counted.folders, [str(frame["reading"].iloc[0]) for frame, _ in counted.found])
    frames = [frame.assign(group=label) for (frame, _), label in zip(counted.found, labels, strict=True)]
    table = pd.concat(frames, ignore_index=True)[COLUMNS]
    reservations = [lengths(table[table["quantity"] == "margin"]), *counted.notes]
    reservations += (told for _, ones in counted.found for told in ones)
    return Result("thresholds", table, in_lines([*sentences(table), *reservations]), plot)


def _check_measured(recorded: Recorded) -> None:
    if not len(recorded.measured) or any(name not in recorded.quantiles for name in QUANTITIES):
        every = recorded.about["every"]
        raise SlotkitError(
            f"The trace of {recorded.folder.name} has no measurement of thresholds in its {recorded.steps} "
            f"steps: one is made every {every} steps. Train longer, or measure more often with "
            "--set recording.every=10."
        )


def _connections(recorded: Recorded) -> Iterator[Row]:
    for layer, size in zip(recorded.layers, recorded.sizes, strict=True):
        yield layer, "connections", np.nan, np.nan, float(size)


def _distributions(recorded: Recorded) -> Iterator[Row]:
    levels = recorded.about["levels"]
    for name in QUANTITIES:
        values = recorded.quantiles[name]  # (m, t, q)
        for i, j, q in np.ndindex(values.shape):
            yield recorded.layers[j], name, levels[q], float(recorded.measured[i]), float(values[i, j, q])


def _rates(recorded: Recorded) -> Iterator[Row]:
    """Observed flip rates around each measurement, and predicted ones."""
    levels = list(recorded.about["levels"])
    total = np.vstack([np.zeros((1, len(recorded.sizes))), np.cumsum(recorded.changed, axis=0)])
    half = max(1, recorded.about["every"] // 2)
    low = np.maximum(recorded.measured - half, 0)
    high = np.minimum(recorded.measured + half, recorded.steps)
    observed = 1e6 * (total[high] - total[low]) / (high - low)[:, None] / recorded.sizes  # (m, t)
    for j, layer in enumerate(recorded.layers):
        for at, value in zip(recorded.measured, observed[:, j], strict=True):
            yield layer, "flip rate", np.nan, float(at), float(value)
        for level in PREDICTING:
            with np.errstate(divide="ignore"):
                predicted = 1e6 * level / recorded.quantiles["steps_to_flip"][:, j, levels.index(level)]
            # No more than all reels can flip in a step.
            predicted = np.minimum(predicted, 1e6)
            for at, value in zip(recorded.measured, predicted, strict=True):
                yield layer, "predicted rate", level, float(at), float(value)
            seen = (observed[:, j] > 0) & (predicted > 0)
            ratio = np.median(predicted[seen] / observed[seen, j]) if seen.any() else np.nan
            yield layer, "predicted / observed", level, np.nan, float(ratio)


def _lines(recorded: Recorded) -> Iterator[Row]:
    """c over training: it scales the initial scores, and with them all thresholds of A = c * u. The dense
    form has none.
    """
    dense = recorded.about.get("form") == "dense"
    for j, layer in enumerate(() if dense else recorded.layers):
        c = np.abs(recorded.c[:, j])
        for at, value in zip(recorded.measured, recorded.c[:, j], strict=True):
            yield layer, "c", np.nan, float(at), float(value)
        there = np.flatnonzero(c)  # c may underflow
        if len(there):
            falls = -np.log(c[there[-1]])
            forgotten = recorded.measured[there[-1]] / falls if falls > 1e-9 else np.inf
            yield layer, "c forgotten", np.nan, np.nan, float(forgotten)
    for at in recorded.measured:
        yield ALL, "lr", np.nan, float(at), float(recorded.lr[at - 1])


def _restarts(recorded: Recorded) -> Iterator[Row]:
    """Flip rate in the steps before and after each restart of the learning rate, and the median speed."""
    lr, highest = recorded.lr, np.maximum.accumulate(recorded.lr)
    back = np.minimum(lr[1:], highest[:-1])
    steps = np.flatnonzero((back > lr[:-1]) & (back >= RESTART * lr[:-1])) + 2  # the first at the new rate
    every = recorded.about["every"]
    middle = list(recorded.about["levels"]).index(0.5)
    for step in steps:
        before, after = slice(max(0, step - 1 - every), step - 1), slice(step - 1, step - 1 + every)
        last = np.flatnonzero(recorded.measured < step)
        first = np.flatnonzero(recorded.measured >= step)
        for j, layer in enumerate(recorded.layers):
            for name, part in (("before", before), ("after", after)):
                rate = 1e6 * recorded.changed[part, j].mean() / recorded.sizes[j]
                yield layer, f"rate {name} restart", np.nan, float(step), float(rate)
            for name, row in (("before", last[-1:]), ("after", first[:1])):
                for i in row:
                    speed = recorded.quantiles["speed"][i, j, middle]
                    yield layer, f"speed {name} restart", 0.5, float(step), float(speed)


def _largest(recorded: Recorded) -> str:
    return recorded.layers[int(np.argmax(recorded.sizes))]


def _reachable(recorded: Recorded) -> Iterator[Row]:
    """Expected number of reachable options by K, for reels like those of the run's largest tensor."""
    from slotkit.analyses.thresholds.envelope import expected_reachable, reachable_law

    reel = reels_of(recorded.folder)[_largest(recorded)]
    for count, value in expected_reachable(reel, sorted({*KS, reel.k})).items():
        yield ANY, "reachable options", np.nan, float(count), value
        if reel.bound is not None:  # the law is that of uniform options
            yield ANY, "reachable, by law", np.nan, float(count), reachable_law(count)
