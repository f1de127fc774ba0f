"""How much of a variance comes from groups, and how much from repetitions: one-way random effects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Components:
    """Standard deviations of a group effect and of repetitions within a group.

    Attributes:
        between: of the group effect (unit of the values); 0 where the estimate of its square is negative.
        within: of repetitions within a group.
        share: between**2 / (between**2 + within**2), the intraclass correlation.
        low, high: exact 95 % interval of the share for normal values.
        p: of the F test that there is no group effect.
    """

    between: float
    within: float
    share: float
    low: float
    high: float
    p: float


def components(values: NDArray[np.float64]) -> Components:
    """The ANOVA estimator for y_ij = mean + group_i + repetition_ij, values (a groups, n repetitions each).

    within**2 = MSW, between**2 = max(0, (MSB - MSW) / n), with the mean squares between and within groups.
    (MSB / MSW) / (1 + n between**2 / within**2) has the F distribution with a - 1 and a (n - 1) degrees
    of freedom, which gives the test and the interval (Searle, Casella and McCulloch, Variance Components,
    1992, sections 3.5 and 3.6).

    What needs two groups is NaN if there is one group, what needs two repetitions if there is one repetition.
    """
    from scipy.stats import f

    values = np.asarray(values, np.float64)
    a, n = values.shape
    means = values.mean(axis=1)
    squares = ((values - means[:, None]) ** 2).sum()
    if n < 2:
        return Components(*[np.nan] * 6)
    within = squares / (a * (n - 1))
    if a < 2:
        return Components(np.nan, float(np.sqrt(within)), *[np.nan] * 4)
    among = n * means.var(ddof=1)
    between = max(0.0, (among - within) / n)
    if among == 0 and within == 0:
        return Components(0.0, 0.0, *[np.nan] * 4)
    if within == 0:
        return Components(float(np.sqrt(between)), 0.0, 1.0, 1.0, 1.0, 0.0)
    ratio, free = among / within, (a - 1, a * (n - 1))
    low, high = (max(0.0, _share(ratio / f.ppf(level, *free), n)) for level in (0.975, 0.025))
    share = between / (between + within)
    return Components(
        float(np.sqrt(between)), float(np.sqrt(within)), share, low, high, float(f.sf(ratio, *free))
    )


def _share(ratio: float, n: int) -> float:
    """The share for which `ratio` is the expected ratio of the mean squares."""
    return float((ratio - 1) / (ratio - 1 + n))
