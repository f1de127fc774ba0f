"""What trained populations say: each mask once, after equal trainings, beside the first mask or none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import invoke
from slotkit.analyses.masks.compute import analyze
from slotkit.analyses.masks.words import FIRST

from slotkit.errors import SlotkitError, are, many
from slotkit.masks.members import BY_SCORE, FILES
from slotkit.masks.outcomes import trained
from slotkit.masks.population import report
from slotkit.sweeps.sweep import Sweep

FILES_MADE = ("one", "two", "three")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three mask files, trained with the seeds 3 and 5."""
    place = tmp_path_factory.mktemp("population")
    names = [str(place / name) for name in FILES_MADE]
    for method, name in zip(("random", "er-random", "magnitude"), names, strict=True):
        assert invoke("masks", "make", "--method", method, "--out", name).exit_code == 0
    done = invoke(
        *("masks", "train", *names, "--seeds", "3,5", "--epochs", "1", "--set", "training.limit_batches=1"),
        *("--device", "cpu", "--executor", "inline", "--runs-dir", str(place), "--name", "p"),
    )
    assert done.exit_code == 0
    return place


@pytest.fixture
def population(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made / "p", tmp_path / "p"))


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    edit(told)
    path.write_text(json.dumps(told), encoding="utf-8")


def summaries(population: Path, name: str = "*") -> list[Path]:
    return sorted(population.glob(f"{name}-*/summary.json"))


def refused(*populations: Path) -> str:
    with pytest.raises(SlotkitError) as caught:
        analyze(populations)
    return str(caught.value)


def test_a_row_has_the_seed_of_its_run_and_the_first_file_is_the_first_mask(population: Path) -> None:
    table = analyze(population).table
    rows = table[table["quantity"] == "accuracy"]
    assert set(rows["seed"]) == {3, 5}
    assert rows.groupby("group")["mask"].unique().map(list).to_dict() == {
        FIRST: ["one"],
        FILES: ["two", "three"],
    }
    assert not (table["quantity"] == "accuracy ahead").any()  # files are no control
    told = report(Sweep.open(population)).as_dict()
    assert (told["first"], told["baseline"]["seeds"]) == ("one", [3, 5])


@pytest.mark.parametrize("status", ["diverged", "interrupted"])
def test_no_other_mask_takes_the_place_of_the_first(population: Path, status: str) -> None:
    change(summaries(population, "one")[1], lambda told: told.update(status=status))
    told = report(Sweep.open(population))
    assert (told.first, told.baseline) == ("one", None)
    assert [(group.name, group.n, group.better.value) for group in told.groups] == [(FILES, 2, None)]
    lines = analyze(population).summary.splitlines()
    assert "The first mask, one, is not trained to the end: no mask is compared with it." in lines
    left, diverged = (0, 1) if status == "diverged" else (1, 0)
    assert f"{many(left, 'mask')} {are(left)} not trained to the end yet, and {diverged} diverged." in lines
    assert FIRST not in set(analyze(population).table["group"])


def test_a_mask_of_several_populations_counts_once(made: Path, population: Path) -> None:
    link = population.parent / "link"
    link.symlink_to(population)
    alone = analyze(population)
    for several in ((population, link), (population, made / "p")):
        found = analyze(several)
        assert found.summary == alone.summary
        assert found.table.equals(alone.table)


def test_other_trainings_are_not_compared(made: Path, tmp_path: Path) -> None:
    short = ("--epochs", "1", "--set", "training.limit_batches=2", "--device", "cpu", "--executor", "inline")
    names = [str(made / name) for name in FILES_MADE[:2]]
    done = invoke(
        "masks", "train", *names, "--seeds", "3", *short, "--runs-dir", str(tmp_path), "--name", "q"
    )
    assert done.exit_code == 0
    first, other = (next(place.glob("one-*s3*")) for place in (made / "p", tmp_path / "q"))
    assert refused(made / "p", tmp_path / "q") == (
        f"{first} and {other} were trained otherwise: training.limit_batches is 1 there and 2 here. Masks "
        "are compared after equal trainings only: name populations of one network, start, data and training."
    )


@pytest.mark.parametrize(("file", "status"), [("summary.json", "damaged"), ("config.toml", "other")])
def test_a_run_that_counts_nowhere_is_left_out_and_named(population: Path, file: str, status: str) -> None:
    (path,) = population.glob(f"two-*s3*/{file}")
    text = path.read_text(encoding="utf-8")
    longer = text.replace("limit_batches = 1", "limit_batches = 2")
    path.write_text(longer if status == "other" else "nothing", encoding="utf-8")
    told = report(Sweep.open(population))
    assert [(group.name, group.n) for group in told.groups] == [(FILES, 1)]
    assert told.left == 1
    (sentence,) = told.left_out
    assert sentence.startswith(f"{path.parent.name} is left out ({status}): {path.parent}")
    assert sentence in analyze(population).summary.splitlines()
    assert told.as_dict()["left out"] == [sentence]


def test_searches_that_began_with_different_masks_are_refused(population: Path) -> None:
    def search(told: dict[str, Any]) -> None:
        for run in told["runs"].values():
            name = run["varied"]["file"]
            run["varied"] = {"search": name, "accept": "both", "draw": 0 if name != "three" else 10}

    change(population / "sweep.json", search)
    masks = {run.entry.varied["search"]: run.entry.settings["mask"] for run in Sweep.open(population).runs()}
    assert refused(population) == (
        f"The searches of {masks['one']} and {masks['two']} began with different masks, so there is no one "
        "mask to compare with. Name populations of one of them."
    )


def test_the_first_masks_of_two_populations_are_one(population: Path) -> None:
    def search(told: dict[str, Any], name: str) -> None:
        draws = {"one": 0, "two": 2, "three": 4}
        for run in told["runs"].values():
            run["varied"] = {"search": name, "accept": name, "draw": draws[run["varied"]["file"]]}

    other = Path(shutil.copytree(population, population.parent / "other"))
    for place, name in ((population, "imdb"), (other, "random")):
        change(place / "sweep.json", lambda told, name=name: search(told, name))
    found = analyze((population, other))
    rows = found.table[found.table["quantity"] == "accuracy"]
    assert rows.groupby("group")["mask"].unique().map(list).to_dict() == {
        FIRST: ["imdb draw 0"],
        "acceptance random": ["random draw 2", "random draw 4"],
        BY_SCORE: ["imdb draw 2", "imdb draw 4"],
    }
    assert "(n = 2, " in found.summary
    assert "(n = 3, " not in found.summary


def test_another_sweep_is_no_population(population: Path) -> None:
    def plain(told: dict[str, Any]) -> None:
        for run in told["runs"].values():
            run["varied"] = {"mask": run["varied"]["file"]}

    change(population / "sweep.json", plain)
    words = f"{population} is a sweep, but no population of masks. `slotkit masks train` makes one."
    assert refused(population) == words
    with pytest.raises(SlotkitError, match="no population of masks"):
        report(Sweep.open(population))


def test_where_nothing_is_trained_a_sentence_says_how_to_go_on(population: Path) -> None:
    command = Sweep.open(population).manifest.command
    for path in summaries(population, "two") + summaries(population, "three"):
        path.unlink()
    assert refused(population) == (
        f"No mask but the first of {population} is trained to the end: 2 left, 0 diverged. Repeat "
        f"`{command}`, which goes on."
    )
    for path in summaries(population):
        path.unlink()
    assert refused(population) == (
        f"No mask of {population} is trained to the end: 3 left, 0 diverged. Repeat `{command}`, which goes "
        "on."
    )


def test_where_all_diverged_a_sentence_says_so(population: Path) -> None:
    for path in summaries(population):
        change(path, lambda told: told.update(status="diverged"))
    assert refused(population) == (
        f"No mask of {population} is trained to the end: 0 left, 3 diverged. Train them with a lower --lr, "
        "under another --name."
    )


def test_files_of_one_name_are_two_masks(population: Path) -> None:
    """Populations of before called them alike."""

    def alike(told: dict[str, Any]) -> None:
        for run in told["runs"].values():
            run["varied"] = {"file": "x"}

    change(population / "sweep.json", alike)
    found = trained([Sweep.open(population)])
    assert [one.name for one in found.outcomes] == [str(one.path) for one in found.outcomes]
    assert found.baseline is found.outcomes[0]
