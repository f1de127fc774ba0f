"""Designs have the properties that are claimed, and known effects come back."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from slotkit.analyses.gap.factorial import alias_groups, design, estimate
from slotkit.analyses.gap.plan import Cell


def repeated(cells: NDArray[np.int64], seeds: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Levels and blocks of every cell, once a seed."""
    return np.tile(cells, (seeds, 1)), np.repeat(np.arange(seeds), len(cells))


@pytest.mark.parametrize("factors", range(1, 17))
def test_main_effects_are_orthogonal_to_each_other_and_to_pairs(factors: int) -> None:
    cells = design(factors)
    assert len(cells) == {1: 2, 2: 4, 3: 8, 4: 16}.get(factors, 16 if factors <= 8 else 32)
    assert len(np.unique(cells, axis=0)) == len(cells)
    assert (cells.sum(axis=0) == 0).all()
    assert (cells.T @ cells == len(cells) * np.eye(factors)).all()
    for i, j in combinations(range(factors), 2):
        assert (cells.T @ (cells[:, i] * cells[:, j]) == 0).all()


@pytest.mark.parametrize("factors", [5, 8, 9, 13])
def test_aliases_are_the_pairs_of_the_same_exclusive_or(factors: int) -> None:
    documented: dict[int, list[Cell]] = {}
    for i, j in combinations(range(factors), 2):
        documented.setdefault(i ^ j, []).append((i, j))
    assert alias_groups(design(factors)) == list(documented.values())
    cells = design(factors)
    for group in alias_groups(cells):
        columns = {tuple(cells[:, i] * cells[:, j]) for i, j in group}
        assert len(columns) == 1


def test_pairs_of_a_full_factorial_are_aliased_with_none() -> None:
    assert alias_groups(design(3)) == [[(0, 1)], [(0, 2)], [(1, 2)]]
    assert alias_groups(design(1)) == []


@pytest.mark.parametrize(("factors", "seeds"), [(1, 2), (2, 1), (4, 3), (8, 2), (11, 2)])
def test_known_effects_come_back(factors: int, seeds: int) -> None:
    levels, blocks = repeated(design(factors), seeds)
    groups = alias_groups(design(factors))
    effects = np.arange(1.0, factors + 1)
    y = 90 + levels @ effects / 2 + 0.7 * blocks
    pairs = np.zeros(len(groups))
    if groups:
        i, j = groups[0][0]
        y = y + levels[:, i] * levels[:, j] * 0.25
        pairs[0] = 0.5
    found = estimate(levels, blocks, y, groups)
    assert found.main[:, 0] == pytest.approx(effects)
    assert found.pairs[:, 0] == pytest.approx(pairs, abs=1e-9)
    assert found.mean[0] == pytest.approx(90 + 0.7 * (seeds - 1) / 2)
    assert found.freedom == (len(design(factors)) - 1) * (seeds - 1)
    assert np.isnan(found.main[:, 1:]).all() == (seeds == 1)


def test_aliased_pairs_are_summed() -> None:
    cells = design(6)
    y = 0.5 * cells[:, 0] * cells[:, 1] + 0.25 * cells[:, 2] * cells[:, 3]  # 0 xor 1 = 2 xor 3
    found = estimate(cells, np.zeros(16, np.int64), y, alias_groups(cells))
    at = next(i for i, group in enumerate(alias_groups(cells)) if (0, 1) in group)
    assert found.pairs[at, 0] == pytest.approx(1.5)
    assert np.abs(found.main[:, 0]).max() < 1e-12


def test_an_interval_worked_out_by_hand() -> None:
    # Cells 1, 2 and 4, 7: the noise is the interaction of cell and seed, (7 - 4) - (2 - 1) = 2, of which the
    # four residuals are 1/2 each: variance 1 with one degree of freedom, where t is 12.706. The effect is
    # a difference of two means of two.
    found = estimate(
        np.array([[-1], [1], [-1], [1]]), np.array([0, 0, 1, 1]), np.array([1.0, 4.0, 2.0, 7.0]), []
    )
    assert found.main[0] == pytest.approx([4, 4 - 12.706, 4 + 12.706], abs=1e-3)
    assert found.freedom == 1


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    levels, blocks = repeated(design(8), 2)
    draws = np.random.default_rng(0)
    held = []
    for _ in range(200):
        y = (
            levels @ np.arange(8.0) / 2
            + draws.standard_normal(2)[blocks]
            + draws.standard_normal(len(levels))
        )
        low, high = estimate(levels, blocks, y, alias_groups(design(8))).main[:, 1:].T
        held.append(((low <= np.arange(8)) & (np.arange(8) <= high)).mean())
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_a_lost_repetition_costs_freedom_only() -> None:
    levels, blocks = repeated(design(8), 2)
    effects = np.arange(8.0)
    found = estimate(levels[:-1], blocks[:-1], (levels @ effects / 2)[:-1], alias_groups(design(8)))
    assert found.main[:, 0] == pytest.approx(effects)
    assert found.freedom == 14


def test_a_lost_cell_costs_the_last_interaction() -> None:
    cells = design(8)
    groups, effects = alias_groups(cells), np.arange(8.0)
    y = cells @ effects / 2
    found = estimate(cells[1:], np.zeros(15, np.int64), y[1:], groups)
    assert found.main[:, 0] == pytest.approx(effects)
    assert np.isnan(found.pairs[:, 0]).tolist() == [False] * 6 + [True]


def test_what_the_cells_do_not_tell_is_nan() -> None:
    cells = design(2)
    found = estimate(cells[:2], np.zeros(2, np.int64), np.array([1.0, 3.0]), alias_groups(cells))
    assert np.isnan(found.main[0, 0])  # its high level was never run
    assert found.main[1, 0] == pytest.approx(2)
    assert np.isnan(found.pairs).all()
