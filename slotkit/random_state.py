"""The random numbers of torch, numpy and Python that a training loop draws: how far they are."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from slotkit.machine import SlotMachine


def now(machine: SlotMachine) -> dict[str, Any]:
    """Their states as tensors and plain values; of the machine's CUDA devices too."""
    version, numbers, gauss = random.getstate()
    words: dict[str, Any] = dict(np.random.get_state(legacy=False))
    devices = sorted({p.device.index or 0 for p in machine.parameters() if p.device.type == "cuda"})
    return {
        "torch": torch.get_rng_state(),
        "cuda": {device: torch.cuda.get_rng_state(device) for device in devices},
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": {
            "key": torch.from_numpy(words["state"]["key"].astype(np.int64)),
            "rest": [int(words["state"]["pos"]), int(words["has_gauss"]), float(words["gauss"])],
        },
    }


def restore(state: Mapping[str, Any]) -> None:
    """Go on from a state of `now`."""
    torch.set_rng_state(state["torch"])
    for device, told in state["cuda"].items():
        torch.cuda.set_rng_state(told, device)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    key = state["numpy"]["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, *state["numpy"]["rest"]))
