"""slotkit bench: every contender once; what it says of memory and ratios is so."""

from __future__ import annotations

import json

import pytest
from commands import invoke

from slotkit.benchmark import contenders, measure
from slotkit.errors import SlotkitError


def test_a_table_of_every_form_and_engine() -> None:
    done = invoke("bench", "--k", "2,5", "--steps", "3", "--batch", "4", "--json")
    told = json.loads(done.stdout)
    rows = {(row["contender"], row["k"]): row for row in told["rows"]}
    kinds = ["dense form", "latent, numba", "latent, eager"]
    assert set(rows) == {("ordinary, foreach", 0), ("ordinary, fused", 0)} | {
        (kind, k) for kind in kinds for k in (2, 5)
    }
    fastest = min(row["step"] for row in told["rows"] if row["k"] == 0)
    for row in told["rows"]:
        assert row["ratio"] == pytest.approx(row["step"] / fastest)
        assert 0 < row["optimizer"] < row["step"]
    # Beside weight and gradient: momentum; A, B and the interval; K options, K scores and their momentum.
    assert rows[("ordinary, fused", 0)]["state_bytes"] == 4
    assert rows[("latent, eager", 5)]["state_bytes"] == 16
    assert rows[("latent, numba", 2)]["state_bytes"] == 16
    assert rows[("dense form", 5)]["state_bytes"] == pytest.approx(60, rel=1e-3)


def test_engines_are_chosen() -> None:
    names = [contender.name for contender in contenders([8, 1024], "greedy", 64, ["numba"])]
    assert names == [
        "ordinary, foreach",
        "ordinary, fused",
        "dense form",
        "latent, numba",
        "latent, numba",
    ]
    with pytest.raises(SlotkitError) as caught:
        measure("lenet", [2], engines=["triton"])
    assert str(caught.value) == "There is no engine 'triton'. Choose some of numba, eager."


def test_probabilistic_selection_has_draw_times() -> None:
    rows = measure("lenet", [2], "probabilistic", batch=4, steps=3, engines=["numba"])
    assert [row.draw is not None for row in rows] == [False, False, True, True]
