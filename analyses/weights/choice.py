"""What is chosen out of what is offered: the weights in use against the K options of their connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.reel import ROWS, Reel

# Edges of the histograms, in units of the bound of the options.
EDGES = np.linspace(-1.0, 1.0, 41)

# Ranks are shown one by one up to this K, and in so many groups of about the same size above it.
RANKS = 16


@dataclass(frozen=True)
class Choice:
    """n connections of one tensor, which have K options each, at m snapshots.

    Attributes:
        values: float32 (m, n), the weights in use.
        magnitude, square: float64 (n,), means of |W| and W^2 over the options of a connection.
        largest: float64 (n,), the largest |W| of a connection.
        extreme: float64 (n,), mean of the magnitudes of its largest and its smallest W.
        offered: float64 (len(EDGES) - 1,), shares of the options between EDGES.
        by_value, by_magnitude: int64 (r, n), ranks 1 .. K of the weights, 1 the largest, in the snapshots
            `ranked` (r,). Of options that are equal in magnitude the larger value comes first.
    """

    values: NDArray[Any]
    magnitude: NDArray[np.float64]
    square: NDArray[np.float64]
    largest: NDArray[np.float64]
    extreme: NDArray[np.float64]
    offered: NDArray[np.float64]
    by_value: NDArray[np.int64]
    by_magnitude: NDArray[np.int64]


def sample_of(connections: int, sample: int) -> Tensor:
    """Up to `sample` connections, evenly spread: int64, rising."""
    return torch.linspace(0, connections - 1, min(sample, connections), dtype=torch.float64).long()


def compare(reel: Reel, chosen: Tensor, values: Tensor, ranked: list[int], bound: float) -> Choice:
    """Look at the options of connections `chosen` (n,), whose weights at m snapshots are `values` (m, n).

    Never more than some million options are held at once.

    Args:
        ranked: the snapshots whose weights are ranked.
        bound: the unit of EDGES.

    Raises SlotkitError if a weight is not among the options of its connection.
    """
    parts: list[tuple[Any, ...]] = []
    offered = np.zeros(len(EDGES) - 1)
    for some in torch.split(torch.arange(len(chosen)), max(1, ROWS // reel.k)):
        options, _ = reel.rows(chosen[some])
        magnitudes = options.abs()
        for snapshot in values[:, some]:
            if not (options == snapshot[:, None]).any(dim=-1).all():
                raise SlotkitError(
                    f"Some weights of {reel.name} are none of their options: the files of this run don't "
                    "belong together. Restore them, or train again."
                )
        offered += np.histogram((options / bound).numpy(), EDGES)[0]
        mine = [snapshot[:, None] for snapshot in values[ranked][:, some]]
        by_value = [1 + (options > w).sum(dim=-1) for w in mine]
        by_magnitude = [
            1 + ((magnitudes > w.abs()) | ((magnitudes == w.abs()) & (options > w))).sum(dim=-1) for w in mine
        ]
        double = magnitudes.double()
        parts.append(
            (
                double.mean(dim=-1),
                double.square().mean(dim=-1),
                double.amax(dim=-1),
                (options.amax(dim=-1).abs() + options.amin(dim=-1).abs()).double() / 2,
                torch.stack(by_value, dim=-1),
                torch.stack(by_magnitude, dim=-1),
            )
        )
    magnitude, square, largest, extreme, value_ranks, magnitude_ranks = (
        torch.cat(column).numpy() for column in zip(*parts, strict=True)
    )
    return Choice(
        values.numpy(),
        magnitude,
        square,
        largest,
        extreme,
        offered / offered.sum(),
        value_ranks.T,
        magnitude_ranks.T,
    )


def rank_groups(k: int) -> list[NDArray[np.int64]]:
    """The ranks that are shown as one, counted from 0: each alone up to K = RANKS."""
    return np.array_split(np.arange(k), min(k, RANKS))


def rank_shares(ranks: NDArray[np.int64], k: int) -> list[tuple[float, float, float]]:
    """Ranks (n,) of 1 .. K -> (rank, share of connections, that over the share of a random choice).

    One entry a rank up to K = RANKS; above, RANKS entries, each the mean of its ranks.
    """
    counts = np.bincount(ranks, minlength=k + 1)[1:]
    total = max(len(ranks), 1)
    return [
        (
            float(group.mean() + 1),
            float(counts[group].sum() / total),
            float(counts[group].mean() * k / total),
        )
        for group in rank_groups(k)
    ]
