"""Singular values of matrices that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from slotkit.analyses.weights.choice import rank_shares
from slotkit.analyses.weights.spectra import as_matrix, edge, effective_rank, singular_values


def test_singular_values_are_those_of_torch() -> None:
    for shape in ((30, 70), (70, 30), (5, 5)):
        matrix = torch.randn(shape, dtype=torch.float64)
        assert singular_values(matrix) == pytest.approx(torch.linalg.svdvals(matrix).numpy())


@pytest.mark.parametrize(
    ("values", "rank"), [([2, 2, 2, 2], 4), ([3, 0, 0], 1), ([1, 1, 0], 2), ([0, 0], 0)], ids=str
)
def test_effective_ranks(values: list[float], rank: float) -> None:
    assert effective_rank(np.array(values, float)) == pytest.approx(rank)


def test_random_matrices_end_at_the_edge() -> None:
    matrix = torch.empty(300, 800, dtype=torch.float64).uniform_(-0.1, 0.1)
    values = singular_values(matrix)
    limit = edge(values, (300, 800))
    assert limit == pytest.approx(0.1 / 3**0.5 * (300**0.5 + 800**0.5), rel=0.02)
    # Fluctuations are of relative size min(m, n)^(-2/3).
    assert values[0] == pytest.approx(limit, rel=300 ** (-2 / 3) * 2)
    structure = matrix + 0.05 * torch.outer(torch.ones(300), torch.randn(800)).double()
    values = singular_values(structure)
    assert (values > edge(values, (300, 800))).sum() == 1


def test_convolutions_are_matrices_by_output_channel() -> None:
    weight = torch.arange(4 * 3 * 2 * 2).reshape(4, 3, 2, 2).float()
    assert torch.equal(as_matrix(weight, 0), weight.reshape(4, 12).double())
    assert torch.equal(as_matrix(weight, 1)[2], weight[:, 2].reshape(-1).double())


def test_groups_of_ranks_are_fair_whatever_k_is() -> None:
    ranks = np.arange(1, 21)  # each of 20 once
    shares = rank_shares(ranks, 20)
    assert len(shares) == 16
    assert sum(share for _, share, _ in shares) == pytest.approx(1)
    assert [ratio for _, _, ratio in shares] == pytest.approx([1] * 16)
    assert rank_shares(np.array([1, 1, 1, 2]), 2) == [(1, 0.75, 1.5), (2, 0.25, 0.5)]
