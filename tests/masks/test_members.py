"""Which masks a population has: one network, one start, one set of data, and each mask once in each group."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from slotkit.analyses.masks.compute import analyze

from slotkit.config import Overrides, resolve
from slotkit.errors import SlotkitError
from slotkit.masks import file as mask_file
from slotkit.masks.file import About, Masks, Start
from slotkit.masks.keeping import digest
from slotkit.masks.members import BY_SCORE, Member, find_members, group_of
from slotkit.masks.population import planned
from slotkit.masks.search import Row
from slotkit.masks.search_folder import HISTORY, MASKS, SETTINGS, STATE, Saved
from slotkit.settings import DataSettings
from slotkit.slotfile.architecture import Architecture

NETWORK = Architecture(model="lenet", image=(1, 8, 8), classes=10)
DRAWN = [
    {
        name: torch.rand(weight.shape, generator=torch.Generator().manual_seed(number)) < 0.1
        for name, weight in NETWORK.outline().entries.items()
        if weight.ndim > 1
    }
    for number in range(4)
]


def file(path: str | Path, masks: Masks, data: str | None = "digits") -> str:
    settings = {} if data is None else {"data": data}
    start = Start(init="glorot-uniform", seed=0)
    mask_file.save(Path(path), masks, About(method="x", settings=settings, network=NETWORK, start=start))
    return str(path)


def search(name: str, drawn: Sequence[Masks], accept: str = "both", **data: Any) -> str:
    """A folder as `slotkit masks search` leaves it, with a mask saved at every draw."""
    place = Path(name)
    (place / MASKS).mkdir(parents=True)
    told = {"accept": accept, "data": DataSettings(**data).model_dump(mode="json")}
    (place / SETTINGS).write_text(json.dumps(told), encoding="utf-8")
    lines: list[Any] = []
    for draw, masks in enumerate(drawn):
        at = f"{MASKS}/mask-{draw}.mask.safetensors"
        file(place / at, masks)
        lines += [Row(draw, 1, 0.1, 0.1)] if draw else []
        lines.append(Saved(draw, at, 1.0, 1.0, 0.1, 0.1))
    (place / HISTORY).write_text("".join(f"{json.dumps(asdict(line))}\n" for line in lines), encoding="utf-8")
    state = {f"{part}/{layer}": mask for part in ("best", "explored") for layer, mask in drawn[-1].items()}
    mask_file.save(place / STATE, state, About(method="state", settings={"draw": len(drawn) - 1}))
    return name


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def members(*named: str) -> list[Member]:
    return find_members(named, Path("runs"))[0]


def refused(*named: str) -> str:
    with pytest.raises(SlotkitError) as caught:
        members(*named)
    return str(caught.value)


ADVICE = "A population has one dataset, split and augmentation; train the others with a command of their own."


def test_files_made_for_other_data_are_refused(here: Path) -> None:
    one, other = file("one", DRAWN[0], "mnist"), file("other", DRAWN[1], "fashion-mnist")
    assert refused(one, other) == (
        f"{here / 'other'} was made for other data than {here / 'one'}: data.dataset is fashion-mnist there "
        f"and mnist here. {ADVICE}"
    )
    unknown = file("unknown", DRAWN[2], None)
    assert [one.data for one in members(unknown, one)] == [{"data.dataset": "mnist", "data.size": 8}] * 2


def test_searches_with_other_data_are_refused(here: Path) -> None:
    search("a", DRAWN[:1], validation=0.3)
    search("b", DRAWN[:2])
    assert refused("a", "b") == (
        f"{here / 'b/masks/mask-0.mask.safetensors'} was made for other data than "
        f"{here / 'a/masks/mask-0.mask.safetensors'}: data.validation is its default there and 0.3 "
        f"here. {ADVICE}"
    )


def test_a_file_is_trained_with_the_data_of_the_search_beside_it(here: Path) -> None:
    search("s", DRAWN[:2], validation=0.3, augment="flip")
    expected = {"data.validation": 0.3, "data.augment": "flip"}
    for order in ((file("x", DRAWN[2]), "s"), ("s", "x")):
        assert all(one.data == expected for one in members(*order))
    assert (
        f"{here / 'y'} was made for other data than {here / 's/masks/mask-0.mask.safetensors'}: data.dataset "
        "is mnist there and digits here. "
    ) in refused(file("y", DRAWN[2], "mnist"), "s")


def test_equal_masks_are_trained_once_a_group_in_any_order() -> None:
    search("s", [DRAWN[0], DRAWN[1], DRAWN[0], DRAWN[1]])
    search("r", DRAWN[:3], accept="random")
    counts = []
    for order in (("s", "r"), ("r", "s")):
        found, notes = find_members(order, Path("runs"))
        groups = ["first" if one.told["draw"] == 0 else group_of(one.told) for one in found]
        counts.append({group: groups.count(group) for group in set(groups)})
        # A search that comes back to its first mask has kept that one by a score too.
        assert len(notes) == 2
        assert all("they are trained once." in note for note in notes)
    assert counts == [{"first": 1, BY_SCORE: 2, "acceptance random": 2}] * 2


def test_two_searches_of_one_name_are_refused(here: Path) -> None:
    search("a/s", DRAWN[:1])
    search("b/s", DRAWN[:1])
    assert len(members("a/s", "./a/s")) == 1
    words = (
        f"Two searches are called s: {here / 'a/s'} and {here / 'b/s'}. Name one of them alone, or give its "
        "folder another name."
    )
    assert refused("a/s", "b/s") == words
    with pytest.raises(SlotkitError) as caught:
        analyze(["a/s", "b/s"])
    assert str(caught.value) == words
    with_one = analyze(["a/s", "./a/s"]).table
    assert with_one.equals(analyze("a/s").table)


def test_a_search_that_has_no_mask_yet_is_refused() -> None:
    search("begun", DRAWN[:1])
    for name in (STATE, HISTORY):
        (Path("begun") / name).unlink()
    for named in (["begun"], [search("both", DRAWN[:2]), "begun"]):
        with pytest.raises(SlotkitError) as caught:
            find_members(named, Path("runs"))
        assert str(caught.value) == (
            "The search begun has no mask yet. The `slotkit masks search` that began it goes on with it."
        )
    with pytest.raises(SlotkitError, match=r"^The search begun has no mask yet\."):
        analyze("begun")


def test_files_of_one_name_are_told_by_their_path(here: Path) -> None:
    for folder in "ab":
        Path(folder).mkdir()
    found = members(file("a/x", DRAWN[0]), file("b/x", DRAWN[1]), file("y", DRAWN[2]))
    assert [one.told["file"] for one in found] == [str(here / "a/x"), str(here / "b/x"), "y"]


def test_a_digest_is_that_of_names_shapes_and_connections() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    alike = digest({"a": mask, "b": ~mask})
    assert alike == digest({"b": ~mask, "a": mask.clone()})
    others = ({"a": mask, "b": mask}, {"a": mask, "c": ~mask}, {"a": mask, "b": ~mask.reshape(1, 4)})
    assert len({alike, *map(digest, others)}) == 4


def test_flags_are_over_a_recipe_and_seeds_over_flags() -> None:
    (one,) = members(file("x", DRAWN[0]))
    below, above = Overrides("recipe", {"training.lr": 0.1}), Overrides("flags", {"training.lr": 0.2})
    (run,) = planned([one], [7], [below], [above])
    config = resolve(run.layers).config
    assert (config.training.lr, config.seeds.data, config.seeds.training, config.seeds.reels) == (
        0.2,
        7,
        7,
        0,
    )
    with pytest.raises(SlotkitError) as caught:
        planned([one], [7], [], [Overrides("--set", {"seeds.data": 1})])
    assert str(caught.value) == (
        "seeds.data does nothing here: --seed or --seeds say which seeds data and training have. Give one of "
        "these."
    )


def test_pictures_of_ones_own_have_to_be_named(here: Path) -> None:
    """A mask file doesn't name folders; the default would be other data, in silence."""
    (one,) = members(file("one", DRAWN[0], data="parquet"))
    with pytest.raises(SlotkitError) as told:
        planned([one], [0], [], [])
    assert str(told.value) == (
        f"The mask of {one.path} was made for pictures of one's own, and a mask file doesn't say where they "
        "lie. Give --dataset parquet:DIR."
    )
    (run,) = planned([one], [0], [], [Overrides("flags", {"data.dataset": "parquet:here"})])
    assert resolve(run.layers).config.data.dataset == "parquet:here"
