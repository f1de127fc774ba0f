"""From a configuration to everything that a run needs: data, split, network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slotkit.config import Config, Overrides, Resolved, flatten, resolve
from slotkit.data.images import Dataset, ImageSet, Split, split
from slotkit.data.sources import find, load
from slotkit.errors import SlotkitError
from slotkit.runs.folder import RunFolder
from slotkit.training.trainee import Trainee, build, find_device


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs, on its device."""

    resolved: Resolved
    dataset: Dataset
    split: Split
    trainee: Trainee

    @property
    def config(self) -> Config:
        return self.resolved.config

    def images(self, part: str) -> ImageSet:
        """The images of "train", "validation" or "test"."""
        if part == "test":
            return self.dataset.test
        return self.dataset.train.subset(self.split.train if part == "train" else self.split.validation)


def prepare(resolved: Resolved) -> Prepared:
    """Load the data, fill in what the dataset decides, and build the network.

    Raises SlotkitError for missing or damaged data and for settings that can't be built.
    """
    resolved = fill_from_source(resolved)
    config = resolved.config
    device = find_device(config.training.device)
    data_dir = Path(config.data.dir) if config.data.dir else None
    dataset = load(config.data.dataset, data_dir, config.data.size, config.data.download)
    assert config.data.validation is not None
    parts = split(len(dataset.train), config.data.validation, config.seeds.data)
    trainee = build(config, (dataset.channels, *dataset.size), dataset.num_classes)
    return Prepared(resolved, dataset.to(device), parts, trainee)


def fill_from_source(resolved: Resolved) -> Resolved:
    """Settings left open that belong to the dataset: validation share, mean and std."""
    data = resolved.config.data
    source = find(data.dataset)
    defaults = {"data.validation": source.validation_share, "data.mean": source.mean, "data.std": source.std}
    if (data.mean is None) != (data.std is None):
        raise SlotkitError(
            "data.mean and data.std come together: give both, or neither for the dataset's own."
        )
    usual = dict(flatten(Config().model_dump()))
    open_paths = [path for path in defaults if getattr(data, path.removeprefix("data.")) is None]
    # Every setting that has a value, whether or not its origin is known: config.toml may have been edited.
    own = [
        Overrides(origin, {path: value})
        for path, value, origin in resolved.explain()
        if value is not None and (origin != "default" or value != usual.get(path))
    ]
    return resolve([Overrides(f"dataset {source.name}", {path: defaults[path] for path in open_paths}), *own])


def own_settings(folder: RunFolder) -> Overrides:
    """Every setting that a run was made with, to be overridden by what is given now."""
    explained = Resolved(folder.config(), {}).explain()
    return Overrides(f"run {folder.name}", {path: value for path, value, _ in explained if value is not None})
