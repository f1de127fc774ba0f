"""What becomes of the non-slot parameters, those that are not reels: biases, norms, embeddings."""

from __future__ import annotations

import torch
from torch import nn

from slotkit.errors import SlotkitError
from slotkit.picking import Picked, freeze, is_claimed

OTHERS = ("frozen", "trained", "kept")


def check_others(others: str) -> None:
    """Raise SlotkitError unless `others` is one of OTHERS."""
    if others not in OTHERS:
        raise SlotkitError(f"`others` is {others!r}. Choose one of {', '.join(OTHERS)}.")


def treat_others(model: nn.Module, picked: list[Picked], others: str) -> dict[str, nn.Parameter]:
    """Treat the non-slot parameters of `model` as `others` says; return those to train, by full name.

    "frozen": biases become 0 and norms the identity; any other parameter keeps its value. None is
        trained. The paper's networks are like this.
    "kept": all keep their values, and none is trained. The CENG501 code does this: its biases stay as
        PyTorch initialised them.
    "trained": all keep their values for now and are trained, but for those that do not require a gradient.

    The parameters of another slot machine in the same model are left alone.
    """
    reels = {id(place.parameter) for place in picked}
    reels |= {
        id(value)
        for module in model.modules()
        for name, value in module.named_parameters(recurse=False)
        if is_claimed(value, [(module, name)])
    }
    non_slot = {name: value for name, value in model.named_parameters() if id(value) not in reels}
    if others == "trained":
        return {name: value for name, value in non_slot.items() if value.requires_grad}
    for value in non_slot.values():
        freeze(value)
    if others == "frozen":
        for module in model.modules():
            for name, value in module.named_parameters(recurse=False):
                if id(value) not in reels:
                    _neutralize(module, name, value)
    return {}


def _neutralize(module: nn.Module, name: str, value: nn.Parameter) -> None:
    with torch.no_grad():
        if name.endswith("bias"):
            value.zero_()
        # timm and others write norms of their own; all of them have the word in their class name.
        elif name == "weight" and "norm" in type(module).__name__.lower():
            value.fill_(1.0)
