"""Correlations and shares with their intervals, against scipy and numbers of books."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from slotkit.masks.correlations import difference, mean_and_spread, pearson, share, spearman

X = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.0]
Y = [2.0, 1.0, 4.0, 3.0, 7.0, 5.0, 6.0, 9.0]


def test_pearson_has_the_interval_of_fisher() -> None:
    found = pearson(X, Y)
    wanted = stats.pearsonr(X, Y)
    assert found.value == pytest.approx(wanted.statistic)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval()))


def test_spearman_has_that_of_bonett_and_wright() -> None:
    found = spearman(X, Y)
    r = stats.spearmanr(X, Y).statistic
    reach = 1.959964 * np.sqrt((1 + r**2 / 2) / 5)
    assert found.value == pytest.approx(r)
    assert (found.low, found.high) == pytest.approx(
        (np.tanh(np.arctanh(r) - reach), np.tanh(np.arctanh(r) + reach))
    )


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_what_is_undefined(correlation: object) -> None:
    assert callable(correlation)
    assert correlation([1.0], [2.0]).value is None
    assert correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).value is None
    three = correlation([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    assert three.value == pytest.approx(1, abs=0.1)
    assert (three.low, three.high) == (None, None)
    whole = correlation(X[:7], X[:7])
    assert (whole.value, whole.low, whole.high) == pytest.approx((1, 1, 1))
    assert correlation(X, Y[::-1]).value < 0


def test_shares_have_the_interval_of_wilson() -> None:
    found = share(8, 10)
    assert found.words(".3f") == "0.800 [0.490, 0.943]"
    assert share(0, 0).value is None
    assert share(0, 0).words() == "-"


def test_differences_have_the_interval_of_welch() -> None:
    found = difference(X, Y[:5])
    assert found.value == pytest.approx(np.mean(X) - np.mean(Y[:5]))
    wanted = stats.ttest_ind(X, Y[:5], equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert difference([1.0], [2.0]).words() == "-1.00"
    assert difference([1.0, 1.0], [2.0, 2.0]).low is None
    assert difference([], [2.0]).value is None


@pytest.mark.filterwarnings("error")
def test_values_that_are_all_the_same_on_one_side_are_no_warning() -> None:
    """As of networks that have learned nothing: scipy warns of a precision that is not needed."""
    found = difference([98.1, 98.2, 98.3], [9.8] * 3)
    assert found.value == pytest.approx(88.4)
    assert (found.low, found.high) == pytest.approx((88.152, 88.648), abs=1e-3)


def test_means_and_spreads() -> None:
    assert mean_and_spread([]) == (None, None)
    assert mean_and_spread([2.0]) == (2.0, None)
    assert mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
