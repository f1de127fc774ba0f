"""From a configuration to everything that a run needs: data, split, network.

There are two doors to the data of runs. `prepare` opens those of a new run. Whatever reads the data of a run
that is there goes through `reopen`, which compares them with what the run was made with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from slotkit.config import Config, Overrides, Resolved, flatten, resolve
from slotkit.data import sources
from slotkit.data.augmentations import parse
from slotkit.data.batches import check_normalisation
from slotkit.data.fitting import fitted
from slotkit.data.identity import Identity, differences, identity_of
from slotkit.data.images import Dataset, Images, Split, split
from slotkit.data.oddities import oddities
from slotkit.data.source import Loading
from slotkit.errors import SlotkitError
from slotkit.models import OWN
from slotkit.runs.folder import RunFolder
from slotkit.runs.schema import naming
from slotkit.settings import DataSettings
from slotkit.training.trainee import Trainee, build, find_device

# A run's own copy of its mask file.
MASK = "mask.safetensors"


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs, on its device. `identity` is that of the data as they were loaded."""

    resolved: Resolved
    dataset: Dataset
    identity: Identity
    split: Split
    trainee: Trainee

    @property
    def config(self) -> Config:
        return self.resolved.config

    def images(self, part: str) -> Images:
        """The images of "train", "validation" or "test"."""
        if part == "test":
            return self.dataset.test
        return self.dataset.train.subset(self.split.train if part == "train" else self.split.validation)


def prepare(resolved: Resolved, data: Identity | None = None) -> Prepared:
    """For a new run: load the data, fill in what the dataset decides, and build the network.

    Paths are made absolute, so that the run finds its data from another folder too.

    Args:
        data: what the data have to be, if that is known: those of the runs that it is compared with.

    Raises SlotkitError for missing or damaged data and for settings that can't be built.
    """
    resolved, dataset = open_data(_with_absolute_paths(resolved))
    if sources.find(resolved.config.data.dataset).is_there:
        dataset = replace(dataset, notes=(*dataset.notes, *oddities(dataset)))
    identity = identity_of(dataset)
    if data is not None:
        _check_same(data, identity, "the runs that this one is compared with", "")
    return _built(resolved, dataset, identity)


def mask_of(folder: RunFolder) -> Path | None:
    """A run's own copy of its mask file, if it has one."""
    path = folder.path / MASK
    return path if path.is_file() else None


def own_mask(folder: RunFolder) -> Path | None:
    """The mask file that a run is trained under, which is its own copy; None of a run without a mask.

    Raises SlotkitError if that is gone: where it was copied from another mask may lie by now.
    """
    path = mask_of(folder)
    if path is None and folder.config().mask is not None:
        raise SlotkitError(
            f"{folder.path / MASK} is gone, the mask that {folder.name} is trained under. Restore it, or "
            "train again."
        )
    return path


def reopen(
    folder: RunFolder,
    resolved: Resolved,
    way_on: str = "",
    other_data: bool = False,
    tell: Callable[[str], None] = lambda difference: None,
) -> Prepared:
    """The same for a run that is there, whose data have to be what they were. A run without a record of its
    data, from before there was one, can't be compared.

    Args:
        resolved: its own settings, and what is laid over them.
        way_on: what else can be done if the data have changed; a sentence, for the error.
        other_data: take data that have changed, if they fit the network. Labels are those of the run's
            classes by name.
        tell: called with each difference then.

    Raises SlotkitError as `prepare`, and with the differences if the data or the split have changed.
    """
    if resolved.config.data.dataset == OWN:
        raise SlotkitError(
            f"{folder.name} was recorded in a loop of one's own, so slotkit doesn't have its data. Name them "
            "with --dataset, and what makes its network with --model-factory package.module:function."
        )
    resolved = fill_from_source(resolved)
    dataset = _load(resolved.config.data)
    before, now = folder.data(), identity_of(dataset)
    if before is not None and other_data:
        for difference in differences(before, now):
            tell(difference)
        dataset = fitted(dataset, before)
    elif before is not None:
        _check_same(before, now, f"the run {folder.name}", way_on)
    prepared = _built(resolved, dataset, now, own_mask(folder))
    if not other_data:
        _check_split(folder, prepared.split)
    return prepared


def open_data(resolved: Resolved) -> tuple[Resolved, Dataset]:
    """Load the data of these settings, and fill in what the dataset decides. No network is built.

    Raises SlotkitError for missing or damaged data.
    """
    resolved = fill_from_source(resolved)
    return resolved, _load(resolved.config.data)


def is_there(data: DataSettings) -> bool:
    """Whether the files of a run's data are in place."""
    if data.dataset == OWN:
        return False
    return sources.is_present(*_place(data))


def fill_from_source(resolved: Resolved) -> Resolved:
    """Settings left open that belong to the dataset: validation share, mean and std."""
    data = resolved.config.data
    source = sources.find(data.dataset)
    defaults = {"data.validation": source.validation_share, "data.mean": source.mean, "data.std": source.std}
    if (data.mean is None) != (data.std is None):
        raise SlotkitError(
            "data.mean and data.std come together: give both, or neither for the dataset's own."
        )
    open_paths = [path for path in defaults if getattr(data, path.removeprefix("data.")) is None]
    return resolve(
        [
            Overrides(f"dataset {source.name}", {path: defaults[path] for path in open_paths}),
            *_given(resolved),
        ]
    )


def own_settings(folder: RunFolder) -> Overrides:
    """Every setting that a run was made with, to be overridden by what is given now."""
    values = {path: value for path, value, _ in Resolved(folder.config(), {}).explain() if value is not None}
    if values["data.dataset"] == OWN:
        return Overrides(f"run {folder.name}", values)
    with naming(folder.path / "config.toml", "Restore it, or train again."):
        source = sources.find(values["data.dataset"])
    if source.is_there and folder.data() is None:
        values.pop("data.dir", None)  # it had no meaning for a folder of one's own then
    return Overrides(f"run {folder.name}", values)


def at_its_place(resolved: Resolved) -> Resolved:
    """`data.dir` of a run on one's own pictures says where their folder lies now: put it into the dataset's
    name, for a new run."""
    data = resolved.config.data
    if data.dir is None or not sources.find(data.dataset).is_there:
        return resolved
    moved = {"data.dataset": _place(data)[0], "data.dir": None}
    return resolve([*_given(resolved), Overrides(resolved.origins.get("data.dir", "data.dir"), moved)])


def as_of_new_run(resolved: Resolved) -> Resolved:
    """The same without `data.dir` where the dataset names its folder itself: then that says nothing to a new
    run. (To one that is there it says where that folder lies now.)
    """
    data = resolved.config.data
    if data.dir is None or not sources.find(data.dataset).is_there:
        return resolved
    given = [*_given(resolved), Overrides(resolved.origins.get("data.dir", "data.dir"), {"data.dir": None})]
    return resolve(given)


def whole_path(file: str) -> str:
    """The path of a file, such as a mask, that holds in another folder too."""
    return str(Path(file).resolve())


def with_whole_paths(changes: Overrides) -> Overrides:
    """The same with `data.dir` as a whole path: what is written down has to hold in another folder too."""
    given = changes.values.get("data.dir")
    if not isinstance(given, str) or not given:
        return changes
    return replace(changes, values={**changes.values, "data.dir": str(sources.resolve_data_dir(Path(given)))})


def _with_absolute_paths(resolved: Resolved) -> Resolved:
    """A new run's dataset and data folder as whole paths."""
    resolved = as_of_new_run(resolved)
    data = resolved.config.data
    values: dict[str, str | None] = {"data.dataset": sources.absolute(data.dataset)}
    values["data.dir"] = str(sources.resolve_data_dir(Path(data.dir))) if data.dir else None
    mask = resolved.config.mask
    values["mask"] = None if mask is None else whole_path(mask)
    changed = {path: value for path, value in values.items() if path in resolved.origins}
    return resolve(
        [
            *_given(resolved),
            *(Overrides(resolved.origins[path], {path: value}) for path, value in changed.items()),
        ]
    )


def _given(resolved: Resolved) -> list[Overrides]:
    """The settings that are not defaults, each from where it came, even if that is not known: config.toml may
    have been edited.
    """
    usual = dict(flatten(Config().model_dump()))
    return [
        Overrides(origin, {path: value})
        for path, value, origin in resolved.explain()
        if path in resolved.origins or (value is not None and value != usual.get(path))
    ]


def _place(data: DataSettings) -> tuple[str, Path | None]:
    """The name to load a dataset by, and the data folder."""
    if data.dir and sources.find(data.dataset).is_there:
        kind = data.dataset.partition(":")[0]
        return sources.absolute(f"{kind}:{data.dir}"), None
    return data.dataset, Path(data.dir) if data.dir else None


def _load(data: DataSettings) -> Dataset:
    name, data_dir = _place(data)
    return sources.load(name, data_dir, data.size, data.download, _loading(data))


def crops(data: DataSettings) -> bool:
    """Whether the middle of pictures is taken, with "auto" decided."""
    whole = parse(data.augment).takes_whole_pictures
    return data.fit == "crop" or (data.fit == "auto" and whole and data.size is not None)


def _loading(data: DataSettings) -> Loading:
    """Raises SlotkitError for settings that pictures can't be read with."""
    whole = parse(data.augment).takes_whole_pictures
    if data.fit == "crop" and data.size is None:
        raise SlotkitError("data.fit is crop, which needs a size. Give data.size, such as 224.")
    if data.fit == "crop" and not sources.find(data.dataset).is_there:
        raise SlotkitError(
            f"data.fit is crop, which is for pictures of one's own, and {data.dataset} has images of one "
            "size. Leave it out."
        )
    return Loading(crops(data), data.memory * 2**30, whole, data.workers)


def _built(resolved: Resolved, dataset: Dataset, identity: Identity, mask: Path | None = None) -> Prepared:
    config = resolved.config
    for name, values in (("data.mean", config.data.mean), ("data.std", config.data.std)):
        check_normalisation(name, values, dataset.channels)
    device = find_device(config.training.device)
    assert config.data.validation is not None
    parts = split(len(dataset.train), config.data.validation, config.seeds.data)
    trainee = build(config, (dataset.channels, *dataset.size), dataset.num_classes, mask)
    return Prepared(resolved, dataset.to(device), identity, parts, trainee)


def _check_same(before: Identity, now: Identity, whose: str, way_on: str) -> None:
    found = differences(before, now)
    if found:
        raise SlotkitError(
            f"{now.dataset} is not what it was for {whose}: {'; '.join(found)}. Put it back as it was, or "
            f"say with --data-dir where the data lie.{' ' if way_on else ''}{way_on}"
        )


def _check_split(folder: RunFolder, parts: Split) -> None:
    """Raise SlotkitError if other images are held out than when the run was made."""
    path = folder.path / "split.safetensors"
    if not path.is_file():
        return
    try:
        kept = load_file(path)
        same = all(torch.equal(kept[part], getattr(parts, part)) for part in ("train", "validation"))
    except Exception as fault:  # safetensors raises its own type, OSError, KeyError
        raise SlotkitError(f"{path} can't be read: {fault}. Restore it, or train again.") from fault
    if not same:
        raise SlotkitError(
            f"The split of {folder.name} is not the one in {path}: other images would be held out than were. "
            "Go on with the versions of torch and slotkit that the run was made with."
        )
