"""The masks of a population that is to be trained: those of searches, mask files, and their controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotkit.config import Overrides
from slotkit.errors import SlotkitError
from slotkit.files import make_folder
from slotkit.masks import file as mask_file
from slotkit.masks.acceptance import WITHOUT_SCORES
from slotkit.masks.controls import find_control
from slotkit.masks.file import About, Masks
from slotkit.masks.keeping import are_equal
from slotkit.masks.making import dataset_of, settings_under
from slotkit.masks.search_folder import SETTINGS, SearchFolder
from slotkit.settings import DataSettings

# Where the controls of a search's masks are written, in its folder.
CONTROLS_FOLDER = "controls"

ENDING = ".mask.safetensors"


@dataclass(frozen=True)
class Member:
    """A mask of a population.

    Attributes:
        path: of its file, whole.
        told: what tells it from the others: `search`, `accept` and `draw`, or `file`; and `control`.
        data: settings of the data that it was made for, as far as they are known.
    """

    path: Path
    masks: Masks
    about: About
    told: Mapping[str, Any]
    data: Mapping[str, Any]

    @property
    def is_first(self) -> bool:
        """Whether it is the mask that a search began with."""
        return self.told.get("draw") == 0 and "control" not in self.told

    def layers(self) -> tuple[Overrides, ...]:
        """Settings of a training under it, without those of the training itself."""
        return (
            Overrides("the search", dict(self.data)),
            Overrides("slotkit masks train", {"method": "learned"}),
            Overrides("the mask file", settings_under(self.path, self.about)),
        )


def find_members(
    named: Sequence[str], runs_dir: Path, controls: Sequence[str] = ()
) -> tuple[list[Member], list[str]]:
    """The masks of search folders and mask files, the first of them being what others are compared with.

    Args:
        named: folders, names of searches in `runs_dir`, or files.
        controls: kinds of controls that are made of each mask of the searches by a graph score; their files
            lie in the folder of the search.

    Returns:
        The masks, equal ones once, and a sentence for each that was left out.

    Raises SlotkitError for what is neither, for masks of different networks or initial weights, and for
    searches that began with different masks.
    """
    found: list[Member] = []
    for one in named:
        path = Path(one)
        place = next((p for p in (path, runs_dir / one) if (p / SETTINGS).is_file()), None)
        if place is not None:
            found += _of_search(place, controls)
        elif path.is_file():
            if controls:
                raise SlotkitError(
                    f"--controls makes controls of the masks of searches, and {path} is a file. Make its own "
                    "with `slotkit masks control`, and name them."
                )
            found.append(_of_file(path))
        else:
            raise SlotkitError(
                f"{one} is no mask file, and no search: neither as a path nor in {runs_dir}. `slotkit masks "
                "search` makes one."
            )
    kept, notes = _without_equal(found)
    _check(kept)
    return kept, notes


def _of_search(place: Path, controls: Sequence[str]) -> Iterator[Member]:
    folder = SearchFolder(place).open()
    settings = folder.settings()
    told = {"search": place.resolve().name, "accept": settings.get("accept")}
    data = _data(settings)
    found = []
    for saved in folder.saved:
        path = (place / saved.file).resolve()
        found.append(Member(path, *mask_file.load(path), {**told, "draw": saved.draw}, data))
    yield from found
    # A search that looks at no graph is a control itself.
    for kind in () if told["accept"] in WITHOUT_SCORES else controls:
        yield from (_control(place, kind, one) for one in found)


def _control(place: Path, kind: str, of: Member) -> Member:
    """The control of a saved mask. Each draw has another seed: else those of two draws would overlap."""
    assert of.about.start is not None
    made, says = find_control(kind).make(of.masks, of.about, of.about.start.seed + 1 + of.told["draw"])
    folder = place / CONTROLS_FOLDER
    path = (folder / f"{kind}-{of.told['draw']:06}{ENDING}").resolve()
    if not folder.is_dir():
        make_folder(folder)
    mask_file.save(path, made, says)
    return Member(path, made, says, {**of.told, "control": kind}, of.data)


def _of_file(path: Path) -> Member:
    masks, about = mask_file.load(path)
    dataset = dataset_of(about)
    data = {} if dataset is None else {"data.dataset": dataset}
    return Member(path.resolve(), masks, about, {"file": path.name.removesuffix(ENDING)}, data)


def _data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a search said of its data, without what is usual."""
    usual = DataSettings().model_dump(mode="json")
    told = settings.get("data") or {}
    return {f"data.{name}": value for name, value in told.items() if value != usual.get(name)}


def _without_equal(members: Sequence[Member]) -> tuple[list[Member], list[str]]:
    kept: list[Member] = []
    notes = []
    for one in members:
        same = next((other for other in kept if _are_equal(one, other)), None)
        if same is None:
            kept.append(one)
        else:
            notes.append(f"{one.path} has the masks and start of {same.path}: they are trained once.")
    return kept, notes


def _are_equal(one: Member, other: Member) -> bool:
    return one.about.start == other.about.start and are_equal(one.masks, other.masks)


def _check(members: Sequence[Member]) -> None:
    first, *others = members
    first.about.build()
    for one in others:
        drawn_anew = one.about.method.startswith("reinitialised ")
        if one.about.network != first.about.network or not (
            drawn_anew or one.about.start == first.about.start
        ):
            raise SlotkitError(
                f"{one.path} is of another network, or of other initial weights, than {first.path}. A "
                "population has one network and one start; train the others with a command of their own."
            )
    starts = [one for one in members if one.is_first]
    if len(starts) > 1:
        raise SlotkitError(
            f"The searches of {starts[0].path} and {starts[1].path} began with different masks, so there "
            "is no one mask to compare with. Train each search with a command of its own."
        )
