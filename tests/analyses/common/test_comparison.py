"""Groups of runs and what they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from slotkit.analyses.common.comparison import group_labels, run_names, untold
from slotkit.analyses.common.statistics import mean_and_interval
from torch import nn

import slotkit
from slotkit.config import Overrides, resolve
from slotkit.data.identity import identity_of
from slotkit.data.sources import load
from slotkit.runs.folder import RunFolder


def run(place: Path, name: str, origin: str = "--set", **settings: object) -> RunFolder:
    values = {path.replace("__", "."): value for path, value in settings.items()}
    return RunFolder.create(place, name, resolve([Overrides(origin, values)]), {})


def test_runs_that_differ_by_seed_are_one_group(tmp_path: Path) -> None:
    folders = [run(tmp_path, f"r{seed}", seeds__reels=seed, recording__trace="full") for seed in range(3)]
    assert group_labels(folders) == ["lenet on digits, K = 8"] * 3


def test_groups_are_called_by_the_least_that_tells_them_apart(tmp_path: Path) -> None:
    one = run(tmp_path, "one", slots__k=2)
    two = run(tmp_path, "two", slots__k=8, training__lr=0.2)
    three = run(tmp_path, "three", slots__k=8, training__lr=0.1, training__momentum=0.5)
    assert group_labels([one, two]) == ["K = 2", "K = 8"]
    assert group_labels([one, two, three]) == ["K = 2, lr = 0.1", "K = 8, lr = 0.2", "K = 8, lr = 0.1"]


def test_settings_have_their_short_names(tmp_path: Path) -> None:
    one = run(tmp_path, "one", training__weight_decay=1e-4)
    two = run(tmp_path, "two", slots__update="selected")
    three = run(tmp_path, "three")
    labels = ["L2 = 0.0001, update = all", "L2 = 0.0, update = selected", "L2 = 0.0, update = all"]
    assert group_labels([one, two, three]) == labels


def test_recipes_tell_runs_apart(tmp_path: Path) -> None:
    one = run(tmp_path, "one", "recipe plain", training__lr=0.2)
    two = run(tmp_path, "two", "recipe fancy", training__lr=0.3, training__momentum=0.8)
    assert group_labels([one, two]) == ["plain", "fancy"]
    assert group_labels([one]) == ["plain, K = 8"]


def test_data_of_one_name_that_have_changed_are_told_apart(tmp_path: Path) -> None:
    folders = [run(tmp_path, f"r{seed}", seeds__reels=seed) for seed in range(4)]
    data = identity_of(load("digits", None))
    for folder in folders[:3]:
        folder.write_data(data)  # the last one is from before runs recorded their data
    assert group_labels(folders) == ["lenet on digits, K = 8"] * 4
    changed = data.train.model_copy(update={"labels": "others"})
    folders[1].write_data(data.model_copy(update={"train": changed, "dataset": "elsewhere"}))
    assert group_labels(folders) == ["data = 1", "data = 2", "data = 1", "data = 1"]


class Wide(nn.Sequential):
    """A network that no registry has."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


class Bent(Wide):
    """The same shapes, another class."""


def recorded(path: Path, network: nn.Module, seed: int = 0, trace: str = "full") -> RunFolder:
    machine = slotkit.slotify(network, k=4, seed=seed)
    optimizer = machine.optimizer(lr=0.5)
    with slotkit.record(machine, optimizer, path, trace=trace):
        machine.model(torch.ones(2, 6)).sum().backward()
        optimizer.step()
    return RunFolder(path)


@pytest.mark.parametrize("trace", ["full", "off"])
def test_networks_of_ones_own_are_told_apart(tmp_path: Path, trace: str) -> None:
    """A mean over networks of other sizes or classes is that of nothing."""

    def group(name: str, network: nn.Module, seed: int = 0) -> RunFolder:
        return recorded(tmp_path / name, network, seed, trace)

    one, again = group("one", Wide(8)), group("again", Wide(8), seed=1)
    wider, bent = group("wider", Wide(40)), group("bent", Bent(8))
    turned = group("turned", nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 6)))
    other = group("other", nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 10)))
    assert group_labels([one, again]) == ["a recorded machine, K = 4"] * 2
    assert group_labels([one, again, wider]) == ["connections = 72", "connections = 72", "connections = 360"]
    assert group_labels([one, bent]) == ["network = Wide", "network = Bent"]
    assert group_labels([turned, other]) == ["shapes = 1", "shapes = 2"]
    assert untold([one, bent]) == untold([one, wider]) == untold([turned, other]) == ""


def test_traces_alone_of_other_networks_are_told_apart(tmp_path: Path) -> None:
    folders = [recorded(tmp_path / str(width), Wide(width)) for width in (8, 40)]
    for folder in folders:
        (folder.path / "config.toml").unlink()
    assert group_labels(folders) == ["connections = 72", "connections = 360"]


def test_names_that_are_the_same_become_paths(tmp_path: Path) -> None:
    folders = [run(tmp_path / place, "same") for place in ("a", "b")]
    assert run_names(folders) == [str(tmp_path / "a" / "same"), str(tmp_path / "b" / "same")]


def test_intervals_over_runs() -> None:
    mean, low, high = mean_and_interval(np.array([1.0, 2.0, 3.0, np.nan]))
    assert mean == 2
    assert 1 <= low < 2 < high <= 3
    assert mean_and_interval(np.array([4.0])) == (4, 4, 4)
    assert mean_and_interval(np.array([np.inf, 1.0]))[0] == np.inf
    assert np.isnan(mean_and_interval(np.array([]))).all()


def test_intervals_are_the_same_every_time() -> None:
    values = np.array([1.0, 5.0, 2.0, 7.0])
    assert mean_and_interval(values) == pytest.approx(mean_and_interval(values), abs=0)


def test_datasets_of_ones_own_go_by_their_folders_name(tmp_path: Path) -> None:
    """A whole path has no room in a figure; two of the same name are told by it."""

    def labels(*datasets: str) -> list[str]:
        folders = [
            run(tmp_path, f"{len(datasets)}-{i}", data__dataset=name, slots__k=4, model__name="net")
            for i, name in enumerate(datasets)
        ]
        return group_labels(folders)

    assert labels("imagefolder:/data/birds") == ["net on imagefolder:birds, K = 4"]
    assert labels("imagefolder:/data/birds", "digits") == ["dataset = imagefolder:birds", "dataset = digits"]
    assert labels("imagefolder:/a/birds", "imagefolder:/b/birds", "digits")[:2] == [
        "dataset = imagefolder:/a/birds",
        "dataset = imagefolder:/b/birds",
    ]
