"""What the tests of the latent form share: every engine, on the devices where it runs."""

from __future__ import annotations

import pytest
import torch

from slotkit.latent.engines.registry import ENGINES
from slotkit.reel import Reel


@pytest.fixture(scope="session", autouse=True)
def in_one_thread(one_thread: None) -> None:
    """All of these tests."""


@pytest.fixture(scope="session", params=list(ENGINES))
def engine(request: pytest.FixtureRequest, device: torch.device) -> str:
    """Every engine of the registry, on each device where it runs. That of CUDA is here on the CPU too where
    Triton's interpreter stands in for it: test_triton.py has a process of its own for that.
    """
    name: str = request.param
    return name


def runs(item: pytest.Item) -> bool:
    """Whether the engine of a case runs on its device. That numba and eager run on the CPU is a test."""
    given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if given.get("engine") not in ENGINES:
        return True
    device = torch.device(given.get("device", "cpu"))
    return ENGINES[given["engine"]].refusal(device, torch.float64, Reel("weight", (2, 2), 2), True) is None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if runs(item)]
