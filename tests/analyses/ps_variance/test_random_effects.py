"""The split of a variance: numbers worked out by hand, scipy's test, and the coverage of the interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import f_oneway
from slotkit.analyses.ps_variance.random_effects import components


def test_two_groups_by_hand() -> None:
    found = components(np.array([[1.0, 3.0], [5.0, 7.0]]))
    # Means 2 and 6: MSB = 2 * 8 = 16; MSW = (2 + 2) / 2 = 2.
    assert found.within == pytest.approx(np.sqrt(2))
    assert found.between == pytest.approx(np.sqrt((16 - 2) / 2))
    assert found.share == pytest.approx(7 / 9)


def test_the_f_test_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(size=(5, 7)) + np.arange(5)[:, None] / 3
    assert components(values).p == pytest.approx(f_oneway(*values).pvalue)


def test_a_negative_estimate_is_zero() -> None:
    found = components(np.array([[1.0, 3.0], [3.0, 1.0]]))
    assert (found.between, found.share, found.low) == (0, 0, 0)
    assert found.within == pytest.approx(np.sqrt(2))


def test_the_interval_covers_as_often_as_it_says() -> None:
    draws, share = np.random.default_rng(1), 0.6
    covered = 0
    for _ in range(1000):
        groups = draws.normal(size=(6, 1)) * np.sqrt(share)
        found = components(groups + draws.normal(size=(6, 4)) * np.sqrt(1 - share))
        covered += found.low <= share <= found.high
    assert abs(covered / 1000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 1000)


def test_what_one_group_and_one_repetition_can_tell() -> None:
    one_group = components(np.array([[1.0, 3.0]]))
    assert one_group.within == pytest.approx(np.sqrt(2))
    assert np.isnan([one_group.between, one_group.share, one_group.p]).all()
    one_each = components(np.array([[1.0], [2.0]]))
    assert np.isnan([one_each.between, one_each.within, one_each.share]).all()


def test_without_any_noise() -> None:
    found = components(np.array([[1.0, 1.0], [2.0, 2.0]]))
    assert (found.within, found.share, found.low, found.high, found.p) == (0, 1, 1, 1, 0)
    still = components(np.ones((2, 2)))
    assert (still.between, still.within) == (0, 0)
    assert np.isnan(still.share)
