"""What tells runs from each other: found once for a kind of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slotkit.config import Overrides, resolve
from slotkit.errors import SlotkitError
from slotkit.runs import listing
from slotkit.runs.folder import RunFolder
from slotkit.runs.listing import Listed, differing, listed


class Counted(dict[str, Any]):
    """Settings that count how often one of them is asked for."""

    asked = 0

    def get(self, key: str, default: Any = None) -> Any:
        Counted.asked += 1
        return super().get(key, default)


def runs_of(count: int) -> list[Counted]:
    fixed = {"method": "slot", "model.name": "lenet", "data.dataset": "mnist", "training.momentum": 0.9}
    seeds = ("seeds.reels", "seeds.data", "seeds.training")
    return [Counted(fixed | {"training.lr": at % 7 / 10} | dict.fromkeys(seeds, at)) for at in range(count)]


def asked(count: int) -> int:
    """How often differing asks for a setting of so many runs."""
    runs, before = runs_of(count), Counted.asked
    differing(runs)
    return Counted.asked - before


def test_the_work_grows_with_the_number_of_runs_and_not_with_its_square() -> None:
    assert asked(200) < 2.5 * asked(100)


def test_each_kind_of_runs_has_what_its_own_runs_differ_in() -> None:
    one, two = runs_of(2)
    other = Counted(one | {"model.name": "conv2", "training.lr": 0.5})
    assert differing([one, other, two]) == [{"lr": 0.0, "seed": 0}, {}, {"lr": 0.1, "seed": 1}]


def test_seeds_that_are_not_equal_are_told_one_by_one() -> None:
    one, two = runs_of(2)
    apart = Counted(two | {"seeds.data": 5, "training.lr": 0.0})
    told = differing([one, apart])
    assert [len(each) for each in told] == [3, 3]
    assert all("seed" not in each for each in told)


def test_a_setting_that_only_some_runs_have_is_told_of_all() -> None:
    one, two = runs_of(1)[0], runs_of(1)[0]
    two["model.options.padding"] = "same"
    assert [list(each.values()) for each in differing([one, two])] == [[None], ["same"]]


def test_no_run_is_nothing() -> None:
    assert differing([]) == []


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("k = 8", ["slot"]),  # the other run has learned weights, and no K
        ("selection = GS", ["slot"]),
        ("method=learned", ["learned"]),
        ("status = finished", ["slot", "learned"]),
        ("lr=.1", ["slot", "learned"]),
        ("lr = 1e-1", ["slot", "learned"]),
    ],
)
def test_a_condition_holds_however_it_is_typed_and_for_what_a_run_has(
    tmp_path: Path, where: str, found: list[str]
) -> None:
    for name in ("slot", "learned"):
        values = {"method": name, "slots.k": 8, "training.lr": 0.1}
        folder = RunFolder.create(tmp_path, name, resolve([Overrides("--set", values)]), {})
        best = {"best": {"greedy": {"accuracy": 0.9}}}
        folder.write_summary({"status": "finished", "test": best})
    assert sorted(row.name for row in listed(tmp_path, [where])) == sorted(found)
    assert [row.name for row in listed(tmp_path, sort="-k")] == ["slot", "learned"]


def test_two_signs_of_equality_are_told(tmp_path: Path) -> None:
    with pytest.raises(SlotkitError, match="--where k==8 is not of the form a=v, such as k=8 or status=fini"):
        listed(tmp_path, ["k==8"])


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("false", [False]), ("False", [False]), ("0", [0, 0.0]), ("true", [True]), ("1", [1])],
)
def test_a_number_is_no_yes_or_no(wanted: str, found: list[object]) -> None:
    holds = listing._condition(f"slots.symmetric={wanted}")
    rows = [Listed("r", "finished", {"slots.symmetric": value}, {}, "") for value in (False, True, 0, 1, 0.0)]
    given = [row.settings["slots.symmetric"] for row in rows if holds(row)]
    assert [(type(one), one) for one in given] == [(type(one), one) for one in found]
