"""The engines by name. A named engine that can't run is an error; only "auto" chooses."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.latent.engines.contract import Engine
from slotkit.reel import Reel


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
    return _unknown_reel(reel, stored)


def _triton_refusal(device: torch.device, dtype: torch.dtype, reel: Reel, stored: bool) -> str | None:
    if device.type != "cuda" and not (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"it works on CUDA and the weight is on {device}"
    if find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    if dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        return f"it works on float32, float64, bfloat16 and float16 and the weight is {dtype}"
    return _unknown_reel(reel, stored)


def _unknown_reel(reel: Reel, stored: bool) -> str | None:
    if stored or reel.compiled_spec() is not None:
        return None
    return (
        "it recomputes the options of slotkit's own inits and kinds only; store the tables "
        "(tables='stored') for others"
    )


# In the order in which "auto" tries them.
ENGINES: dict[str, EngineEntry] = {
    "numba": EngineEntry(
        "slotkit.latent.engines.cpu", "compiled for the CPU, parallel, one pass over memory", _numba_refusal
    ),
    "triton": EngineEntry(
        "slotkit.latent.engines.triton", "compiled for CUDA, one launch for all tensors", _triton_refusal
    ),
    "eager": EngineEntry(
        "slotkit.latent.engines.eager", "plain PyTorch, every device, the readable one", _eager_refusal
    ),
}


def runnable(device: torch.device) -> list[str]:
    """The engines that can train float32 weights on a device."""
    reel = Reel("weight", (1, 1), 1)
    return [name for name, entry in ENGINES.items() if not entry.refusal(device, torch.float32, reel, False)]


def find_engine(name: str, parameter: Tensor, reel: Reel, stored: bool) -> Engine:
    """The engine of that name, or under "auto" the first that can run.

    Raises SlotkitError for an unknown name, or with the reason why that engine can't run.
    """
    if name != "auto" and name not in ENGINES:
        raise SlotkitError(f"There is no engine {name!r}. Choose {', '.join(['auto', *ENGINES])}.")
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
