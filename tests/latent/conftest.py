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
    """Every engine of the registry. What can't run on a device says so itself."""
    name: str = request.param
    reason = ENGINES[name].refusal(device, torch.float64, Reel("weight", (2, 2), 2), True)
    if reason is not None:
        # That numba and eager run on the CPU is a test of its own.
        pytest.skip(f"{name}: {reason}")
    return name
