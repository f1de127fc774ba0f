"""What becomes of the non-slot parameters, those that are not reels: biases, norms, embeddings."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import nn

from slotkit.errors import SlotkitError
from slotkit.neutral import may_be_meant, neutral_values
from slotkit.picking import TRAINED, Picked, freeze, holders_of, is_claimed

OTHERS = ("frozen", "trained", "kept")


def check_others(others: str) -> None:
    """Raise SlotkitError unless `others` is one of OTHERS."""
    if others not in OTHERS:
        raise SlotkitError(f"`others` is {others!r}. Choose one of {', '.join(OTHERS)}.")


class Treated(NamedTuple):
    """How: one of OTHERS. And full names of the non-slot parameters that are trained, and of those that no
    longer have a gradient.
    """

    how: str
    trained: list[str]
    frozen: list[str]


def treat_others(model: nn.Module, picked: list[Picked], others: str) -> Treated:
    """Treat the non-slot parameters of `model` as `others` says.

    "frozen": biases become 0 and norms the identity; any other parameter keeps its value. None is
        trained. The paper's networks are like this. Biases and norms of torch and timm are known by their
        type, those of others by what their module computes; what only goes by such a name is left as it
        is, and named in a warning.
    "kept": all keep their values, and none is trained. The CENG501 code does this: its biases stay as
        PyTorch initialised them. So do pretrained ones.
    "trained": all keep their values for now and are trained, but for those that do not require a gradient.

    The parameters of another slot machine in the same model are left alone: its reels, and what it trains.
    """
    left, holders = {id(one.parameter) for one in picked}, holders_of(model)
    for name, value in model.named_parameters():
        if is_claimed(value, holders[name]) or TRAINED.is_on(value, holders[name]):
            left.add(id(value))
    non_slot = {name: value for name, value in model.named_parameters() if id(value) not in left}
    with_gradient = [name for name, value in non_slot.items() if value.requires_grad]
    if others == "trained":
        for name in with_gradient:
            TRAINED.put(non_slot[name], holders[name])
        return Treated(others, with_gradient, [])
    for name, value in non_slot.items():
        freeze(value, holders[name])
    if others == "frozen":
        _neutralize(model, left)
    return Treated(others, [], with_gradient)


def _neutralize(model: nn.Module, not_ours: set[int]) -> None:
    done, doubtful = set(not_ours), {}
    for prefix, module in model.named_modules():
        own = {
            name: value for name, value in module.named_parameters(recurse=False) if id(value) not in not_ours
        }
        values = neutral_values(module) if own else {}
        for name, value in own.items():
            if name in values:
                with torch.no_grad():
                    value.fill_(values[name])
                done.add(id(value))
            elif may_be_meant(module, name):
                doubtful[f"{prefix}.{name}".removeprefix(".")] = (value, type(module).__name__)
    kept = [f"{name} (of {kind})" for name, (value, kind) in doubtful.items() if id(value) not in done]
    if kept:
        warnings.warn(
            f"others='frozen' leaves {', '.join(kept)} as {'it is' if len(kept) == 1 else 'they are'}: a "
            "bias or of a norm by name, but not by type or by what the module computes. Set the values "
            "yourself if they should be neutral, or choose others='trained'.",
            stacklevel=4,
        )
