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

    Raises SlotkitError for a state of numbers that no machine has. One that lacks a part raises what reading
    it raises: `slotkit.runs.schema.naming` makes a sentence of it.
    """
    settings, ties = state["settings"], ties_of(state)
    common = ReelSettings.of_machine(settings, init)
    dense = settings["form"] == "dense"
    scores: Mapping[str, Tensor] = state["scores"] if dense else state["others"]
    root = nn.Module()
    picked, reels = [], []
    for name, shape in settings["reels"].items():
        parameter = nn.Parameter(torch.zeros(shape, dtype=scores[name].dtype))
        holders = [_holder(root, own) for own in (name, *(tie for tie in ties if ties[tie] == name))]
        for holder, last in holders:
            holder._parameters[last] = parameter
        dim = channel_dims.get(name, 0)
        picked.append(Picked(name, parameter, holders, dim))
        reels.append(common.reel(name, shape, dim))
    buffers: dict[str, Tensor] = {}
    for name, value in state["others"].items():
        first = ties.get(name, name)
        if first not in settings["reels"]:
            holder, last = _holder(root, name)
            buffer = buffers.setdefault(first, torch.zeros_like(value, device="cpu"))
            holder.register_buffer(last, buffer)
    form = make_form(
        settings["form"],
        picked,
        reels,
        settings["selection"],
        settings["update"],
        share=settings.get("share"),
    )
    machine = SlotMachine(root, form, Treated("kept", [], []), settings["selection"])
    machine.load_state_dict(state)
    return machine


def ties_of(state: Mapping[str, Any]) -> dict[str, str]:
    """Further name -> first name of each tensor that a checkpoint's state has under several, because it is
    tied. The first is that of the reel, if it is one.
    """
    others, reels = state["others"], state["settings"]["reels"]
    names = sorted(
        (name for name in others if isinstance(others[name], Tensor)), key=lambda n: n not in reels
    )
    firsts: dict[tuple[int, torch.Size], str] = {}
    found = {
        name: firsts.setdefault((others[name].data_ptr(), others[name].shape), name)
        for name in names
        if others[name].numel()
    }
    others_have = {name: first for name, first in found.items() if name != first}
    return others_have | dict(state.get("ties", {}))


def _holder(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has the tensor, made with those above it, and the tensor's own name."""
    *parents, last = name.split(".")
    module = root
    for parent in parents:
        # Not add_module, which refuses names that a module has otherwise.
        module = module._modules.setdefault(parent, nn.Module()) or module
    return module, last
