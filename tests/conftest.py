"""What every test shares: the devices and the way hypothesis runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
from forks import Forks  # type: ignore[import-not-found]
from hypothesis import settings
from timm.models.vgg import cfgs

import slotkit
from slotkit.latent.engines.cpu_compiling import SOURCES
from slotkit.models import conv, resnet, vgg_cd

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

# Derandomized: what fails on one machine fails on every machine. No deadline: a busy machine is no fault.
settings.register_profile("slotkit", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("slotkit")


def pytest_configure(config: pytest.Config) -> None:
    """numba's cache on disk looks at a function's own file only: what it calls from others may be old."""
    if hasattr(config, "workerinput"):
        return
    cached = list(Path(slotkit.__file__).parent.rglob("*.nb[ic]"))
    newest = max(source.stat().st_mtime for source in SOURCES)
    if any(file.stat().st_mtime < newest for file in cached):
        for file in cached:
            file.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-xdist sets the width of one, and tables that go into a pipe are as wide as they are."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`-n 2`: each worker has one half of the tests, and takes some of the other's when it has none left.

    The tests of a file stay together, with what they share and have compiled, and the workers end at the same
    time.
    """
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The second half begins with the tests of datasets, which need no compiled loop.

    While one worker is at them, the other one compiles what both would otherwise compile at the same time.
    """
    data = [item for item in items if item.path.parent.name == "data"]
    others = [item for item in items if item.path.parent.name != "data"]
    half = len(items) // 2
    items[:] = others[:half] + data + others[half:]


@pytest.fixture(scope="session", params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device of this machine. Session scope, so that tests under hypothesis may ask for it."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other at every tiny tensor take twenty times as long on a busy machine."""
    before = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    numba.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Processes of their own without the import of torch."""
    server = Forks()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def seed_torch() -> None:
    """Ordinary layers start from the same weights in every run of the suite."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here survives a power cut, so nothing in this process waits until the disk has it.

    Whether and when slotkit asks for it is seen by the tests that replace `slotkit.files.disk`.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def narrow_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONV-N, VGG and ResNet with a few channels: the same layers at a thousandth of the weights and time."""
    monkeypatch.setattr(conv, "WIDTHS", (4, 6, 8))
    monkeypatch.setattr(conv, "HIDDEN", 16)
    vgg = [2, 2, "M", 2, 2, "M", 3, 3, 3, 3, "M", 4, 4, 4, 4, "M", 4, 4, 4, 4, "M"]
    monkeypatch.setitem(cfgs, "vgg19", vgg)
    blocks = {
        name: tuple(tuple((2, kernel) for _, kernel in block) for block in vgg_cd.BLOCKS[name])
        for name in "cd"
    }
    monkeypatch.setattr(vgg_cd, "BLOCKS", blocks)
    monkeypatch.setattr(vgg_cd, "HIDDEN", 4)
    monkeypatch.setattr(resnet, "WIDTHS", (2, 2, 3, 3))
