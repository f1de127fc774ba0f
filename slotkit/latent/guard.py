"""Notices when something else than slotkit writes to a weight, whose values must stay options."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.picking import is_sharded, sharded

# How many values of a tensor a fingerprint looks at.
FEW = 4096


def is_same(held: Tensor | None, own: nn.Parameter) -> bool:
    """Whether what a module holds is a parameter, or a detached or wrapped tensor (torch.func) of its memory.

    Another Parameter of the same memory is none: its gradient would not reach this one.
    """
    if held is own or held is None or isinstance(held, nn.Parameter):
        return held is own
    try:
        return bool(torch.func.debug_unwrap(held).data_ptr() == own.data_ptr())
    except RuntimeError:  # no memory of its own
        return False


def fingerprint(*tensors: Tensor | None) -> list[float]:
    """Numbers that change when values do, of some thousand values of each tensor: a write to .data counts
    nowhere.
    """
    found = []
    for tensor in tensors:
        values = torch.zeros(0) if tensor is None else tensor.detach().reshape(-1)
        some = values[:: max(1, len(values) // FEW)].double()
        ramp = torch.linspace(1, 2, len(some), dtype=torch.float64, device=some.device)
        found += [float(some.sum()), float(some @ ramp)]
    return found


class Guard:
    """Watches one parameter.

    Attributes:
        holders: every (module, parameter name) that holds the parameter.
        is_over: whether the machine has given the parameter back.
        placement: device and dtype that it had when it was last looked at.
    """

    def __init__(self, name: str, parameter: nn.Parameter, holders: list[tuple[nn.Module, str]]) -> None:
        self.name, self.parameter, self.holders = name, parameter, holders
        self.placement = parameter.device, parameter.dtype
        self.is_over = False
        self.mark()

    def mark(self) -> None:
        """The weight is as slotkit left it. PyTorch counts the changes of a tensor in its version, but not
        that it is given other memory.
        """
        self._version: int | None = self.parameter._version
        self._memory = self.parameter.data_ptr()

    def is_touched(self) -> bool:
        """Whether anybody has written to the weight since it was marked."""
        return self.parameter._version != self._version or self.is_elsewhere()

    def is_elsewhere(self) -> bool:
        """Whether the weight has been given other memory, as every cast does."""
        return self.parameter.data_ptr() != self._memory

    def has_relocated(self) -> bool:
        """Whether the weight has gone to another device or dtype."""
        return self.placement != (self.parameter.device, self.parameter.dtype)

    def __getstate__(self) -> dict[str, Any]:
        # A copy's parameter counts its changes anew.
        return self.__dict__ | {"_version": None if self.is_touched() else self._version}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._version is not None:
            self.mark()

    def is_in_place(self) -> bool:
        """Whether all modules hold the parameter, or another tensor of its memory."""
        return all(is_same(module._parameters.get(name), self.parameter) for module, name in self.holders)

    def check_in_place(self) -> None:
        """Raise SlotkitError if a module holds another parameter by now, or the machine has ended."""
        if self.is_over:
            raise SlotkitError(
                f"{self.name} is an ordinary weight now: machine.to_learned() has ended its slot machine. "
                "Train it with an ordinary optimizer, made of model.parameters()."
            )
        for module, name in self.holders:
            held = module._parameters.get(name)
            if is_sharded(held):
                raise sharded(self.name)
            if not is_same(held, self.parameter):
                raise SlotkitError(
                    f"{self.name} has been replaced by another parameter since slotify (load_state_dict "
                    f"with assign=True does that). Load with assign=False, or slotify again."
                )

    def changed(self) -> SlotkitError:
        """The error for a weight that is not what slotkit left."""
        return SlotkitError(
            f"{self.name} was changed by something else than slotkit: an ordinary optimizer stepping on "
            f"it, or load_state_dict on the model. Train it with machine.optimizer() alone; to bring a "
            f"trained machine back use machine.load_state_dict(); machine.spin() restores its weights."
        )
