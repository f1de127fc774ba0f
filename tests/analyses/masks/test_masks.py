"""`analyze masks`: its numbers from made searches, its verdict from made numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import invoke, refuse  # type: ignore[import-not-found]
from made_masks import made_population  # type: ignore[import-not-found]
from made_runs import value  # type: ignore[import-not-found]
from slotkit.analyses.masks.compute import COLUMNS, analyze, overlap
from slotkit.analyses.masks.words import OVER, verdict

from slotkit.errors import SlotkitError
from slotkit.masks import file as mask_file
from slotkit.masks.members import BY_SCORE, FILES
from slotkit.masks.search_folder import SearchFolder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("masks")
    made_population(made)
    return made


def test_what_a_search_explored_shares_and_how_dense_its_layers_are(place: Path) -> None:
    table = analyze(place / "both").table
    folder = SearchFolder(place / "both").open()
    for row in folder.rows:
        assert value(table, "explored", at=row.draw) == row.explored
    first, _ = mask_file.load(place / "both" / folder.saved[0].file)
    last, _ = mask_file.load(place / "both" / folder.saved[-1].file)
    sizes = {name: mask.numel() for name, mask in first.items()}
    chance = sum(n * (1 - (1 - float(first[name].float().mean())) ** 9) for name, n in sizes.items())
    assert value(table, "explored by chance", at=8) == pytest.approx(chance / sum(sizes.values()))
    at = folder.saved[-1].draw
    assert value(table, "overlap", at=at) == overlap(last, first)[0]
    for name, mask in last.items():
        assert value(table, "density", at=at, layer=name) == pytest.approx(float(mask.float().mean()))
    erk = {name: value(table, "ERK density", at=at, layer=name) for name in last}
    total = sum(density * sizes[name] for name, density in erk.items()) / sum(sizes.values())
    assert total == pytest.approx(value(table, "density", at=at))


def test_overlap_is_one_of_equal_masks_and_that_of_chance_of_random_ones() -> None:
    chance = torch.Generator().manual_seed(0)
    one, other = ({"w": torch.rand(400, 400, generator=chance) < share} for share in (0.1, 0.3))
    assert overlap(one, one)[0] == 1
    found, expected = overlap(one, other)
    assert expected == pytest.approx(0.03 / 0.2, rel=0.02)
    assert found == pytest.approx(expected, rel=0.03)


def test_a_population_finds_its_searches_and_says_what_is_missing(place: Path) -> None:
    found = analyze(place / "trained")
    lines = found.summary.splitlines()
    assert lines[0].startswith("Whether a graph score beats its controls can't be said: acceptance loss is")
    assert {"both", "random"} <= set(found.table["search"])
    assert any(
        line.startswith("The control acceptance loss is missing: repeat the command") for line in lines
    )
    assert "The controls reinitialised, erk-random are missing" in found.summary
    trained = found.table[found.table["quantity"] == "accuracy"]
    assert {"first mask", "acceptance random", "shuffled"} <= set(trained["group"])


def test_a_damaged_search_is_named_and_hides_nothing(tmp_path: Path) -> None:
    made_population(tmp_path)
    history = tmp_path / "random" / "history.jsonl"
    history.write_text("{")
    for named in (["trained"], ["both", "random"]):
        found = analyze([tmp_path / name for name in named])
        assert "both" in set(found.table.loc[found.table["quantity"] == "explored", "search"])
        assert f"random is left out: {history} can't be read" in found.summary
        found.figure()
    with pytest.raises(SlotkitError, match=f"^{history} can't be read"):
        analyze(tmp_path / "random")


@pytest.mark.parametrize("change", ["another", "gone"])
def test_a_search_that_was_made_anew_is_not_that_of_the_trained_masks(place: Path, change: str) -> None:
    """Its draws would be told as those of masks that come from elsewhere."""
    both, random = (SearchFolder(place / name).open().saved[-1].file for name in ("both", "random"))
    file = place / "random" / random
    whole = file.read_bytes()
    try:
        file.unlink()
        if change == "another":
            file.write_bytes((place / "both" / both).read_bytes())
        found = analyze(place / "trained")
    finally:
        file.write_bytes(whole)
    assert f"random is left out: {file} is gone, or another mask than the one that was" in found.summary
    assert set(found.table.loc[found.table["quantity"] == "explored", "search"]) == {"both"}
    assert "acceptance random" in set(found.table["group"])


def test_without_a_training_it_says_what_makes_one(place: Path) -> None:
    summary = analyze([place / "both", place / "random"]).summary
    assert summary.startswith("Whether a graph score beats its controls can't be said: no mask that a score")
    assert f"`slotkit masks train {place / 'both'} {place / 'random'} --controls all` does it." in summary


def numbers(**ahead: tuple[float, float, float] | None) -> pd.DataFrame:
    """A table in which masks kept by a score are ahead of controls by so many points, with its interval."""
    rows: list[dict[str, Any]] = [{"group": BY_SCORE, "quantity": "accuracy", "value": 0.5, "mask": "x"}]
    for name, told in ahead.items():
        group = f"acceptance {name}" if name in ("random", "loss") else name
        rows.append({"group": group, "quantity": "accuracy", "value": 0.5, "mask": "x"})
        levels: Sequence[float] = (np.nan, 0.025, 0.975)
        for level, number in zip(levels, told or (), strict=False):
            estimate = {"quantity": "accuracy ahead", "level": level, "value": number / 100, "mask": OVER}
            rows.append({"group": group, **estimate})
    return pd.DataFrame(rows, columns=COLUMNS)


def test_a_score_that_is_ahead_of_all_controls_beats_them() -> None:
    told = verdict(numbers(random=(2, 1, 3), loss=(1, 0.5, 1.5), shuffled=(5, 4, 6)))
    assert told == (
        "The masks that a graph score kept beat every control here: they are +2.00 [+1.00, +3.00] points of "
        "accuracy ahead of acceptance random; +1.00 [+0.50, +1.50] points of accuracy ahead of acceptance "
        "loss; +5.00 [+4.00, +6.00] points of accuracy ahead of shuffled."
    )


def test_an_interval_with_zero_is_no_lead() -> None:
    told = verdict(numbers(random=(2, -1, 5), loss=(1, 0.5, 1.5)))
    assert told == (
        "No graph score is shown to beat its controls here: masks that one kept are +2.00 [-1.00, +5.00] "
        "points of accuracy ahead of acceptance random."
    )


def test_without_the_two_acceptances_nothing_is_said() -> None:
    assert verdict(numbers(random=(2, 1, 3))) == (
        "Whether a graph score beats its controls can't be said: acceptance loss is missing."
    )
    assert "acceptance random and acceptance loss are missing" in verdict(numbers(shuffled=(5, 4, 6)))


def test_a_control_without_an_interval_is_not_beaten() -> None:
    ahead = {"random": (2.0, 1.0, 3.0), "loss": (1.0, 0.5, 1.5)}
    assert verdict(numbers(**ahead, shuffled=None)) == (
        "Whether a graph score beats its controls can't be said: the lead over shuffled has no interval, "
        "which takes two masks of each kind and accuracies that differ."
    )
    assert verdict(numbers(random=None)) == (
        "Whether a graph score beats its controls can't be said: acceptance loss is missing; the lead over "
        "acceptance random has no interval, which takes two masks of each kind and accuracies that differ."
    )


def test_files_are_no_control() -> None:
    ahead = {"random": (2.0, 1.0, 3.0), "loss": (1.0, 0.5, 1.5)}
    assert verdict(numbers(**ahead, **{FILES: (-1.0, -2.0, -0.5)})).startswith(
        "The masks that a graph score kept beat every control here: they are +2.00"
    )


def test_other_folders_are_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refuse(monkeypatch, capsys, "analyze", "masks", "none")
    assert "There is no search and no population 'none', neither as a path nor in runs." in told
    done = invoke("analyze", "masks", "both", "--runs-dir", str(place))
    assert done.exit_code == 0
    assert str(place / "both/analyses/masks.svg") in done.stdout
