"""How numbers of masks go together, with 95 % intervals.

Pearson's r has Fisher's interval, tanh(atanh(r) +- 1.96 / sqrt(n - 3)); Spearman's that of Bonett and Wright
(2000), with sqrt((1 + r^2 / 2) / (n - 3)); a share has Wilson's; a difference of two means Welch's. All of
them take the masks for independent. Masks of one search share layers, so theirs are too narrow.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

# Of the normal distribution: 95 % lie within so many deviations.
NORMAL = 1.959963984540054

# Below so many masks Fisher's interval is undefined.
FEWEST = 4


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; None where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """Name -> value, for JSON."""
        return asdict(self)

    def words(self, form: str = ".2f", scale: float = 1.0) -> str:
        """ "0.31 [-0.05, 0.60]"; "-" if it is undefined."""
        if self.value is None:
            return "-"
        told = format(scale * self.value, form)
        if self.low is None or self.high is None:
            return told
        return f"{told} [{scale * self.low:{form}}, {scale * self.high:{form}}]"


def pearson(one: Sequence[float], other: Sequence[float]) -> Estimate:
    """Pearson's r. Undefined below two pairs, and where one of them is constant."""
    return _correlation(np.asarray(one, np.float64), np.asarray(other, np.float64), ranked=False)


def spearman(one: Sequence[float], other: Sequence[float]) -> Estimate:
    """The same of ranks; equal values share theirs."""
    from scipy.stats import rankdata

    return _correlation(rankdata(one), rankdata(other), ranked=True)


def _correlation(one: np.ndarray, other: np.ndarray, ranked: bool) -> Estimate:
    n = len(one)
    if n < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return Estimate(None)
    r = float(np.clip(np.corrcoef(one, other)[0, 1], -1, 1))
    if n < FEWEST:
        return Estimate(r)
    reach = NORMAL * math.sqrt((1 + r**2 / 2 if ranked else 1) / (n - 3))
    with np.errstate(divide="ignore"):
        z = np.arctanh(r)
    return Estimate(r, float(np.tanh(z - reach)), float(np.tanh(z + reach)))


def share(successes: int, of: int) -> Estimate:
    """A share. Undefined of nothing."""
    from scipy.stats import binomtest

    if of == 0:
        return Estimate(None)
    interval = binomtest(successes, of).proportion_ci(method="wilson")
    return Estimate(successes / of, float(interval.low), float(interval.high))


def difference(one: Sequence[float], other: Sequence[float]) -> Estimate:
    """The mean of the first less that of the second. Without two of each, and some spread, no interval."""
    from scipy.stats import ttest_ind

    if not (len(one) and len(other)):
        return Estimate(None)
    value = float(np.mean(one) - np.mean(other))
    if min(len(one), len(other)) < 2 or np.ptp(one) + np.ptp(other) == 0:
        return Estimate(value)
    with warnings.catch_warnings():
        # Values of one side may all be the same: the accuracies of networks that have learned nothing.
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        interval = ttest_ind(one, other, equal_var=False).confidence_interval()
    return Estimate(value, float(interval.low), float(interval.high))


def mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation (n - 1 in the denominator); None where undefined."""
    if not len(values):
        return None, None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
