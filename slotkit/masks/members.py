"""The masks of a population that is to be trained: those of searches, mask files, and their controls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from slotkit.config import Overrides
from slotkit.errors import SlotkitError
from slotkit.files import make_folder
from slotkit.masks import file as mask_file
from slotkit.masks.acceptance import WITHOUT_SCORES
from slotkit.masks.controls import CONTROLS, find_control
from slotkit.masks.file import About
from slotkit.masks.keeping import digest
from slotkit.masks.making import data_of, settings_under
from slotkit.masks.search_folder import SETTINGS, SearchFolder
from slotkit.settings import DataSettings

# Where the controls of a search's masks are written, in its folder.
CONTROLS_FOLDER = "controls"

ENDING = ".mask.safetensors"

# The groups that are no controls: masks of searches by a graph score, and files that no search has made.
BY_SCORE, FILES = NO_CONTROLS = "kept by a graph score", "mask files"

# In the order that they are told in.
GROUPS = (
    *(BY_SCORE, FILES, *(f"acceptance {name}" for name in WITHOUT_SCORES)),
    *CONTROLS,
)


def begins_search(told: Mapping[str, Any]) -> bool:
    """Whether a mask is the one that a search began with. `told` is that of a `Member`."""
    return told.get("draw") == 0 and "control" not in told


def group_of(told: Mapping[str, Any]) -> str:
    """The kind of control that a mask is, "acceptance random" or "acceptance loss", BY_SCORE or FILES."""
    if "control" in told:
        return str(told["control"])
    accept = told.get("accept")
    if accept in WITHOUT_SCORES:
        return f"acceptance {accept}"
    return FILES if accept is None else BY_SCORE


def drawn_anew(about: About) -> bool:
    """Whether a mask is a control with other initial weights than the population's."""
    return about.method.startswith("reinitialised ")


@dataclass(frozen=True)
class Member:
    """A mask of a population. The masks themselves stay in the file: a population may have many large ones.

    Attributes:
        path: of its file, whole.
        content: a digest of the masks.
        told: what tells it from the others: `search`, `accept` and `draw`, or `file`; and `control`.
        data: settings of the data that it was made for, as far as they are known.
    """

    path: Path
    content: str
    about: About
    told: Mapping[str, Any]
    data: Mapping[str, Any]

    @property
    def dataset(self) -> str | None:
        """The one that it was made for, without the folder of one's own pictures; None if it isn't said."""
        if "search" in self.told:
            return str(self.data.get("data.dataset", DataSettings().dataset)).partition(":")[0]
        said = self.about.settings.get("data")
        return said if isinstance(said, str) else None

    def layers(self) -> tuple[Overrides, ...]:
        """Settings of a training under it, without those of the training itself."""
        return (
            Overrides("the search" if "search" in self.told else "the mask file", dict(self.data)),
            Overrides("slotkit masks train", {"method": "learned"}),
            Overrides("the mask file", settings_under(self.path, self.about)),
        )


def find_members(
    named: Sequence[str], runs_dir: Path, controls: Sequence[str] = ()
) -> tuple[list[Member], list[str]]:
    """The masks of search folders and mask files, and their controls, all for the same data.

    Args:
        named: folders, names of searches in `runs_dir`, or files.
        controls: kinds of controls that are made of each mask of the searches by a graph score; their files
            lie in the folder of the search.

    Returns:
        The masks, equal ones of a group once, and a sentence for each that was left out.

    Raises SlotkitError for what is neither, for masks of different networks, initial weights or data, and for
    searches that have no mask yet, that have one name, or that began with different masks.
    """
    found: list[Member] = []
    searches: dict[str, Path] = {}
    for one in named:
        path = Path(one)
        place = next((p for p in (path, runs_dir / one) if (p / SETTINGS).is_file()), None)
        if place is not None:
            check_name(searches, place)
            found += _of_search(place, controls)
        elif path.is_file():
            if controls:
                raise SlotkitError(
                    f"--controls makes controls of the masks of searches, and {path} is a file. Make its own "
                    "with `slotkit masks control`, and name them."
                )
            found.append(of_file(path))
        else:
            raise SlotkitError(
                f"{one} is no mask file, and no search: neither as a path nor in {runs_dir}. `slotkit masks "
                "search` makes one."
            )
    _check_networks(found)
    kept, notes = _without_equal(_with_one_data(found))
    _check_first(kept)
    apart = zip(kept, told_apart(kept), strict=True)
    return [replace(one, told=told) for one, told in apart], notes


def check_name(searches: dict[str, Path], place: Path) -> None:
    """Add a search to others, by its name. Raises SlotkitError if another one is called so too."""
    whole = place.resolve()
    other = searches.setdefault(whole.name, whole)
    if other != whole:
        raise SlotkitError(
            f"Two searches are called {whole.name}: {other} and {whole}. Name one of them alone, or give its "
            "folder another name."
        )


def of_file(path: Path) -> Member:
    """A mask file. Raises SlotkitError if it doesn't say what its network and initial weights are."""
    masks, about = mask_file.load(path)
    mask_file.network_of(path, about)
    told = {"file": path.name.removesuffix(ENDING)}
    return Member(path.resolve(), digest(masks), about, told, data_of(about))


def _of_search(place: Path, controls: Sequence[str]) -> Iterator[Member]:
    folder = SearchFolder(place).open()
    settings = folder.settings()
    told = {"search": place.resolve().name, "accept": settings.get("accept")}
    data = _data(settings)
    found = []
    for saved in folder.saved:
        path = (place / saved.file).resolve()
        masks, about = mask_file.load(path)
        found.append(Member(path, digest(masks), about, {**told, "draw": saved.draw}, data))
    yield from found
    # A search that looks at no graph is a control itself.
    for kind in () if told["accept"] in WITHOUT_SCORES else controls:
        yield from (_control(place, kind, one) for one in found)


def _control(place: Path, kind: str, of: Member) -> Member:
    """The control of a saved mask. Each draw has another seed: else those of two draws would overlap."""
    masks, about = mask_file.load(of.path)
    assert about.start is not None
    made, says = find_control(kind).make(masks, about, about.start.seed + 1 + of.told["draw"])
    folder = place / CONTROLS_FOLDER
    path = (folder / f"{kind}-{of.told['draw']:06}{ENDING}").resolve()
    if not folder.is_dir():
        make_folder(folder)
    mask_file.save(path, made, says)
    return Member(path, digest(made), says, {**of.told, "control": kind}, of.data)


def _data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a search said of its data, without what is usual."""
    usual = DataSettings().model_dump(mode="json")
    told = settings.get("data") or {}
    return {f"data.{name}": value for name, value in told.items() if value != usual.get(name)}


def _check_networks(members: Sequence[Member]) -> None:
    first, *others = members
    mask_file.network_of(first.path, first.about)
    for one in others:
        same_start = drawn_anew(one.about) or one.about.start == first.about.start
        if one.about.network != first.about.network or not same_start:
            raise SlotkitError(
                f"{one.path} is of another network, or of other initial weights, than {first.path}. A "
                "population has one network and one start; train the others with a command of their own."
            )


def _with_one_data(members: Sequence[Member]) -> list[Member]:
    """All with the data of the searches; without one, with those of the files. A file names its dataset only.

    Raises SlotkitError if one was made for others.
    """
    searches = [one for one in members if "search" in one.told]
    first = next(iter([*searches, *(one for one in members if one.dataset is not None), *members]))
    for one in members:
        if one.dataset not in (None, first.dataset):
            different = {"data.dataset": (one.dataset, first.dataset)}
        elif "search" in one.told:
            different = differing(one.data, first.data)
        else:
            different = {}
        if different:
            raise SlotkitError(
                f"{one.path} was made for other data than {first.path}: {worded(different)}. A population "
                "has one dataset, split and augmentation; train the others with a command of their own."
            )
    return [replace(one, data=first.data) for one in members]


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that two have otherwise: path -> both values, where None is the default."""
    paths = sorted(one.keys() | other.keys())
    return {path: (one.get(path), other.get(path)) for path in paths if one.get(path) != other.get(path)}


def worded(different: Mapping[str, tuple[Any, Any]]) -> str:
    """Such settings in words: "training.lr is 0.1 there and its default here"."""
    both = {path: ["its default" if one is None else one for one in pair] for path, pair in different.items()}
    return "; ".join(f"{path} is {there} there and {here} here" for path, (there, here) in both.items())


def _without_equal(members: Sequence[Member]) -> tuple[list[Member], list[str]]:
    """Equal masks of a group once. One that is in two groups counts in both: else which of them has it
    would be a matter of the order in which they are named.
    """
    kept: dict[tuple[Any, ...], Member] = {}
    notes = []
    for one in members:
        same = kept.setdefault(group_and_content(one.told, one.about, one.content), one)
        if same is not one:
            notes.append(f"{one.path} has the masks and start of {same.path}: they are trained once.")
    return list(kept.values()), notes


def group_and_content(told: Mapping[str, Any], about: About, content: str) -> tuple[Any, ...]:
    """What equal masks of a group share; all masks that searches began with are of one group."""
    return ("first" if begins_search(told) else group_of(told), about.start, content)


def _check_first(members: Sequence[Member]) -> None:
    starts = [one for one in members if begins_search(one.told)]
    if len(starts) > 1:
        raise SlotkitError(
            f"The searches of {starts[0].path} and {starts[1].path} began with different masks, so there "
            "is no one mask to compare with. Train each search with a command of its own."
        )


class Named(Protocol):
    """What has a mask file, and is told from others."""

    @property
    def told(self) -> Mapping[str, Any]:
        """What tells it from the others, by name; `file` is its file's name."""

    @property
    def path(self) -> Path:
        """Its mask file."""


def told_apart(found: Sequence[Named]) -> list[Mapping[str, Any]]:
    """What tells each from the others: files of one name are told by their whole path."""
    names = Counter(one.told.get("file") for one in found)
    return [
        {"file": str(one.path)} if "file" in one.told and names[one.told["file"]] > 1 else one.told
        for one in found
    ]
