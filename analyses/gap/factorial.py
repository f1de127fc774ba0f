"""Two-level factorial designs: which cells to run, and from their results main effects with intervals.

Up to four factors the design is the full factorial. For more it is a Hadamard matrix H of order m, of which
each factor takes a column, and its fold-over -H: 2 m cells for 5 .. m factors. A product of three columns of
such a design changes its sign in the fold-over and one of two does not, so that main effects are orthogonal
to each other and to all two-factor interactions (resolution IV; Box and Wilson 1951). They are aliased with
interactions of three factors, and two-factor interactions with each other: with Sylvester's H the product of
columns i and j is a function of i xor j alone, so that pairs of the same i xor j share one estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Up to so many factors every combination is run.
FULL = 4

Pair = tuple[int, int]


@dataclass(frozen=True)
class Estimates:
    """Effects, in the unit of y; NaN where the cells at hand can't determine them.

    Attributes:
        mean: (3,) estimate, and the ends of its 95 % interval, of the mean over the design.
        main: (p, 3) of each factor: y at its high level less y at its low level, averaged over the others.
        pairs: (g, 3) of each group of two-factor interactions: half of what the effect of one factor grows
            by when the other goes from low to high, summed over the group.
        freedom: degrees of freedom of the noise; with 0 there are no intervals.
    """

    mean: NDArray[np.float64]
    main: NDArray[np.float64]
    pairs: NDArray[np.float64]
    freedom: int


def design(factors: int) -> NDArray[np.int64]:
    """The cells of the design: (cells, factors), -1 for the low and 1 for the high level."""
    from scipy.linalg import hadamard

    if factors <= FULL:
        return np.array(list(product((-1, 1), repeat=factors)), np.int64).reshape(-1, factors)
    order = 1 << (factors - 1).bit_length()
    half = hadamard(order, dtype=np.int64)[:, :factors]
    return np.vstack([-half, half])


def alias_groups(cells: NDArray[np.int64]) -> list[list[Pair]]:
    """Pairs of factors whose interactions have the same column in the design: one estimate for each group."""
    groups: dict[bytes, list[Pair]] = {}
    for i, j in combinations(range(cells.shape[1]), 2):
        groups.setdefault((cells[:, i] * cells[:, j]).tobytes(), []).append((i, j))
    return list(groups.values())


def estimate(
    levels: NDArray[np.int64],
    blocks: NDArray[np.int64],
    y: NDArray[np.float64],
    groups: list[list[Pair]],
) -> Estimates:
    """Least squares over runs, with t intervals.

    y = mean + blocks + sum of (effect / 2) * level + sum of (interaction / 2) * product of levels. The noise
    is the variance between repetitions of a cell, with the blocks (seeds) removed: what the model does not
    explain of the means of the cells does not count as noise. If cells are missing, some terms can't be
    separated: of such terms the first is estimated and the others are NaN. The order is blocks, main
    effects, groups of interactions.

    Args:
        levels: (n, p) -1 or 1, the cell of each run.
        blocks: (n,) the seed of each run.
        y: (n,) finite.
        groups: see `alias_groups`.
    """
    n, p = levels.shape
    dummies = _dummies(blocks)
    columns: list[NDArray[Any]] = [
        np.ones((n, 1)),
        dummies - dummies.mean(axis=0),
        levels,
        np.array([levels[:, i] * levels[:, j] for (i, j), *_ in groups]).reshape(len(groups), n).T,
    ]
    x = np.hstack(columns).astype(np.float64)
    kept = _independent(x)
    coefficients, errors = np.full(x.shape[1], np.nan), np.full(x.shape[1], np.nan)
    coefficients[kept] = np.linalg.lstsq(x[:, kept], y, rcond=None)[0]
    variance, freedom = _noise(levels, blocks, y)
    if freedom:
        errors[kept] = np.sqrt(variance * np.diag(np.linalg.inv(x[:, kept].T @ x[:, kept])))
    first = 1 + dummies.shape[1]
    return Estimates(
        mean=_intervals(coefficients[:1], errors[:1], freedom)[0],
        main=_intervals(2 * coefficients[first : first + p], 2 * errors[first : first + p], freedom),
        pairs=_intervals(2 * coefficients[first + p :], 2 * errors[first + p :], freedom),
        freedom=freedom,
    )


def _noise(levels: NDArray[np.int64], blocks: NDArray[np.int64], y: NDArray[np.float64]) -> tuple[float, int]:
    """Variance of a run around its cell and its block, and its degrees of freedom."""
    _, cells = np.unique(levels, axis=0, return_inverse=True)
    x = np.hstack([np.ones((len(y), 1)), _dummies(cells.ravel()), _dummies(blocks)])
    freedom = len(y) - int(np.linalg.matrix_rank(x))
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return (float(left @ left) / freedom if freedom else np.nan), freedom


def _dummies(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, labels - 1) indicators of all labels but the first."""
    return np.asarray(labels[:, None] == np.unique(labels)[None, 1:], np.float64)


def _independent(x: NDArray[np.float64]) -> list[int]:
    """The columns that are no linear combination of columns before them."""
    kept: list[int] = []
    for column in range(x.shape[1]):
        if np.linalg.matrix_rank(x[:, [*kept, column]]) > len(kept):
            kept.append(column)
    return kept


def _intervals(values: NDArray[np.float64], errors: NDArray[np.float64], freedom: int) -> NDArray[np.float64]:
    """(k,) estimates and standard errors -> (k, 3)."""
    from scipy.stats import t

    reach = (t.ppf(0.975, freedom) if freedom else np.nan) * errors
    return np.column_stack([values, values - reach, values + reach])
