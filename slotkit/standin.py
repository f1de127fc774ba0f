"""A machine on a stand-in network: from a checkpoint alone, where nobody has the network's class.

It has every tensor of the network under its name, and no forward. Selections and weights can be read from it;
what calls the network needs the real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slotkit.machine import SlotMachine
from slotkit.making import make_form
from slotkit.others import Treated
from slotkit.picking import Picked
from slotkit.reel import Init, ReelSettings


def stand_in(
    state: Mapping[str, Any], channel_dims: Mapping[str, int], init: Init | None = None
) -> SlotMachine:
    """The machine of a `SlotMachine.state_dict`, on the CPU.

    Args:
        channel_dims: tensor name -> the dimension that counts output channels, where it is not 0.
        init: the object that the reels were made with, if it was one.

    Raises SlotkitError for a state that is none.
    """
    settings = state["settings"]
    common = ReelSettings.of_machine(settings, init)
    dense = settings["form"] == "dense"
    scores: Mapping[str, Tensor] = state["scores"] if dense else state["others"]
    root = nn.Module()
    for name, value in state["others"].items():
        if name not in settings["reels"]:
            holder, last = _holder(root, name)
            holder.register_buffer(last, torch.zeros_like(value, device="cpu"))
    picked, reels = [], []
    for name, shape in settings["reels"].items():
        holder, last = _holder(root, name)
        parameter = nn.Parameter(torch.zeros(shape, dtype=scores[name].dtype))
        holder._parameters[last] = parameter
        dim = channel_dims.get(name, 0)
        picked.append(Picked(name, parameter, [(holder, last)], dim))
        reels.append(common.reel(name, shape, dim))
    form = make_form(
        settings["form"],
        picked,
        reels,
        settings["selection"],
        settings["update"],
        share=settings.get("share"),
    )
    machine = SlotMachine(root, form, Treated([], []), settings["selection"])
    machine.load_state_dict(state)
    return machine


def _holder(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has the tensor, made with those above it, and the tensor's own name."""
    *parents, last = name.split(".")
    module = root
    for parent in parents:
        # Not add_module, which refuses names that a module has otherwise.
        module = module._modules.setdefault(parent, nn.Module()) or module
    return module, last
