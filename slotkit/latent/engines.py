"""Engines of the latent form, by name. A named engine that can't run is an error; only "auto" chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.reel import Reel, UniformInit, find_init

if TYPE_CHECKING:
    from slotkit.latent.latent import Hyperparameters
    from slotkit.latent.weight import LatentWeight


Move = tuple["LatentWeight", Tensor, "Hyperparameters"]


class Engine(Protocol):
    """What an engine does for weights; it changes their state and parameters in place.

    It is given all the weights of one dtype at once, because a call can cost as much as a small step.
    A gradient is the dense one: the weight's shape, row-major memory, the dtype of the latents.
    """

    name: str
    keeps: bool  # what makes steps faster, where a weight allows it

    def step(self, moves: Sequence[Move]) -> list[int] | None:
        """For each weight: advance A and B of every connection by the gradient, then settle if the weight
        follows its scores. Returns the flips of each, or None, with nothing changed, if a number of a
        gradient is not finite.
        """

    def settle(self, weights: Sequence[LatentWeight]) -> list[int]:
        """Where u left [lower, upper]: choose anew, write weight and interval. Returns the flips of each."""

    def draw(self, weights: Sequence[LatentWeight], stream: int, number: int) -> list[int]:
        """Write a sample of the softmax of the scores into the weights (draw `number` of `stream`).

        Returns how many connections of each have another option than before.
        """


@dataclass(frozen=True)
class EngineEntry:
    """Where an engine is, what it is, and why it can't run (or None) for a weight, a reel and a policy."""

    module: str
    description: str
    refusal: Callable[[torch.device, torch.dtype, Reel, bool], str | None]


def _eager_refusal(device: torch.device, dtype: torch.dtype, reel: Reel, stored: bool) -> str | None:
    return None


def _numba_refusal(device: torch.device, dtype: torch.dtype, reel: Reel, stored: bool) -> str | None:
    if device.type != "cpu":
        return f"it works on the CPU and the weight is on {device}"
    if dtype not in (torch.float32, torch.float64):
        return f"it works on float32 and float64 and the weight is {dtype}"
    if not stored and not isinstance(find_init(reel.init), UniformInit):
        return (
            "it recomputes uniform options only; store the tables (tables='stored') for an init of your own"
        )
    return None


ENGINES: dict[str, EngineEntry] = {
    "numba": EngineEntry(
        "slotkit.latent.cpu", "compiled for the CPU, parallel, one pass over memory", _numba_refusal
    ),
    "eager": EngineEntry(
        "slotkit.latent.eager", "plain PyTorch, every device, the readable one", _eager_refusal
    ),
}


def find_engine(name: str, parameter: Tensor, reel: Reel, stored: bool) -> Engine:
    """The engine of that name, or under "auto" the first that can run.

    Raises SlotkitError for an unknown name, or with the reason why that engine can't run.
    """
    if name != "auto" and name not in ENGINES:
        raise SlotkitError(f"There is no engine {name!r}. Choose auto, {' or '.join(ENGINES)}.")
    for candidate, entry in ENGINES.items():
        reason = entry.refusal(parameter.device, parameter.dtype, reel, stored)
        if name == candidate and reason is not None:
            raise SlotkitError(
                f"The engine {name} can't run for {reel.name}: {reason}. engine='auto' chooses another."
            )
        if name == candidate or (name == "auto" and reason is None):
            engine: Engine = import_module(entry.module).ENGINE
            return engine
    raise AssertionError("the eager engine runs everywhere")
