"""One number of several runs: its mean, an interval, and both in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean_and_interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of one number of several runs, and a 95 % bootstrap interval of it over the runs.

    Runs without the number (no number is NaN) are left out; a single run is its own interval.
    """
    from scipy.stats import bootstrap

    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    mean = float(values.mean())
    if len(values) == 1 or values.min() == values.max() or not np.isfinite(mean):
        return mean, mean, mean
    # The percentile interval: the corrected one (BCa) can be undefined for a handful of runs.
    interval = bootstrap((values,), np.mean, n_resamples=999, method="percentile", random_state=0)
    return mean, float(interval.confidence_interval.low), float(interval.confidence_interval.high)


def typical(values: Any) -> float:
    """Mean of the numbers there are (no number is NaN), NaN of none; their median if one is infinite."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return float("nan")
    return float(np.median(known) if np.isinf(known).any() else known.mean())


UNKNOWN = "no number"


def in_words(values: NDArray[np.float64], word: Callable[[float], str]) -> str:
    """The mean of one number of several runs, and its interval unless both ends read the same.

    Where it is infinite in some of the runs, it is the mean of the others, and how many these are is said.
    """
    known = values[~np.isnan(values)]
    endless = np.isinf(known)
    if endless.any() and not endless.all():
        ended = in_words(known[~endless], word)
        return f"{ended} in {(~endless).sum()} of {len(known)} runs and {word(np.inf)} in the others"
    mean, low, high = mean_and_interval(values)
    if np.isnan(mean):
        return UNKNOWN
    same = word(low) == word(mean) == word(high)
    return word(mean) if same else f"{word(mean)} [{word(low)}, {word(high)}]"


def share_in_words(values: NDArray[np.float64]) -> str:
    """The mean of one fraction of several runs in per cents, as `in_words` has it."""
    told = in_words(values, lambda value: f"{100 * value:.1f}")
    return told if told == UNKNOWN else f"{told} %"
