"""What the next step of a training loop of one's own depends on, as one state."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.optim import Optimizer

from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine
from slotkit.runs.residuals import optimizer_state, with_reels
from slotkit.states import check_ordinary_state


class Stateful(Protocol):
    """A scheduler, a GradScaler, a sampler: what torch gives a state_dict."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class LoopState:
    """A machine, the optimizers (its own first), what else has a state, and the random numbers drawn."""

    def __init__(
        self, machine: SlotMachine, optimizers: Sequence[Optimizer], also: Mapping[str, Stateful]
    ) -> None:
        self.machine, self.optimizers, self.also = machine, list(optimizers), also

    def to_save(self, step: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """For `slotkit.runs.checkpoint.save`: the machine's state and, under "training", the rest."""
        own = {
            "step": step,
            # Such a run has no epochs that slotkit knows of.
            "validated": 0,
            "best_epoch": 0,
            "optimizers": [optimizer_state(optimizer, self.machine) for optimizer in self.optimizers],
            "also": {name: one.state_dict() for name, one in self.also.items()},
            "random": _random(self.machine),
            "values": dict(values),
        }
        return with_reels(self.machine.state_dict(), self.machine) | {"training": own}

    def load(self, state: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Take over what `to_save` gave and a checkpoint held. Returns its step and values.

        Raises SlotkitError, the part of a sentence, if it is of another number of optimizers or other names.
        """
        own = state["training"]
        if len(own["optimizers"]) != len(self.optimizers) or own["also"].keys() != self.also.keys():
            there, here = (
                f"{len(optimizers)} optimizers and also={', '.join(also) or 'nothing'}"
                for optimizers, also in ((own["optimizers"], own["also"]), (self.optimizers, self.also))
            )
            raise SlotkitError(f"it was written with {there}, and this loop has {here}")
        for optimizer, saved in zip(self.optimizers, own["optimizers"], strict=True):
            if not hasattr(optimizer, "trains_latents"):  # which looks itself
                check_ordinary_state(saved, optimizer.param_groups)
        self.machine.load_state_dict(state)
        for optimizer, saved in zip(self.optimizers, own["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name, one in self.also.items():
            one.load_state_dict(own["also"][name])
        _restore_random(own["random"])
        return own["step"], dict(own["values"])


def _random(machine: SlotMachine) -> dict[str, Any]:
    """The generators of torch, numpy and Python as tensors and plain values, and of the machine's GPUs."""
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


def _restore_random(state: Mapping[str, Any]) -> None:
    """Go on from a `_random`."""
    torch.set_rng_state(state["torch"])
    for device, told in state["cuda"].items():
        torch.cuda.set_rng_state(told, device)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    key = state["numpy"]["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, *state["numpy"]["rest"]))
