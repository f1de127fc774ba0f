"""How many of its K options a reel can ever use under greedy selection.

The option in use is that of the highest line S_k + u * W_k. Whatever u is, only the corners of the upper
convex hull of the points (W_k, S_k) are ever highest: the *reachable* options.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from slotkit.reel import Reel

# Reels that the expectation is taken over: its standard error is then below 0.04 options.
REELS = 2000


def reachable_options(options: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.int64]:
    """Options on the upper envelope of each reel: options and scores (n, K) -> (n,)."""
    # Of equal options the highest score comes last, and is the only one that ever wins.
    order = np.lexsort((scores, options), axis=-1)
    x = np.take_along_axis(options.astype(np.float64), order, -1)
    y = np.take_along_axis(scores.astype(np.float64), order, -1)
    return np.asarray(_corners(x, y))


@numba.njit(cache=True)
def _corners(x: Any, y: Any) -> Any:
    """Corners of the upper hulls of n sets of K points, sorted: Andrew's monotone chain."""
    n, k = x.shape
    counts = np.zeros(n, np.int64)
    stack = np.zeros(k, np.int64)
    for i in range(n):
        height = 0
        for j in range(k):
            while height > 0:
                top = stack[height - 1]
                dx, dy = x[i, j] - x[i, top], y[i, j] - y[i, top]
                if dx > 0:
                    if height == 1:
                        break
                    under = stack[height - 2]
                    if (x[i, top] - x[i, under]) * dy < dx * (y[i, top] - y[i, under]):
                        break
                height -= 1
            stack[height] = j
            height += 1
        counts[i] = height
    return counts


def expected_reachable(reel: Reel, ks: list[int], reels: int = REELS) -> dict[int, float]:
    """Mean number of reachable options of a reel's connections, by K: Monte Carlo over its own options.

    The options of a smaller K are the first of a larger one, so all K are counted on the same options.
    """
    largest = next(k for k in itertools.count(max(ks)) if reel.rule.refusal(k) is None)
    count = int(np.prod(reel.shape))
    # A tensor of too few connections is made longer in its first dimension.
    shape = reel.shape if count >= reels else (-(-reels // count) * reel.shape[0], *reel.shape[1:])
    wide = replace(reel, k=largest, shape=shape)
    chosen = torch.linspace(0, int(np.prod(shape)) - 1, reels, dtype=torch.float64).long()
    options, scores = (rows.numpy() for rows in wide.rows(chosen))
    return {k: float(reachable_options(options[:, :k], scores[:, :k]).mean()) for k in ks}


def reachable_law(k: float) -> float:
    """The number expected of K uniform points in a rectangle, K large.

    The hull of n uniform points in a polygon of r corners has (2 r / 3) ln n + O(1) corners (Renyi and
    Sulanke 1963); in a rectangle (8 / 3) (ln n + gamma - ln 2). The upper envelope has half of them, and
    both ends, which the two halves share: (4 / 3) (ln K + gamma - ln 2) + 1 = (4 / 3) ln K + 0.845.
    """
    return float(4 / 3 * (np.log(k) + np.euler_gamma - np.log(2)) + 1)
