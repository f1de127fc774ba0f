"""Notices when something else than slotkit writes to a weight, whose values must stay options."""

from __future__ import annotations

from torch import nn

from slotkit.errors import SlotkitError


class Guard:
    """Watches one parameter.

    Attributes:
        holders: every (module, parameter name) that holds the parameter.
        placement: device and dtype that it had when it was last looked at.
    """

    def __init__(self, name: str, parameter: nn.Parameter, holders: list[tuple[nn.Module, str]]) -> None:
        self.name, self.parameter, self.holders = name, parameter, holders
        self.placement = parameter.device, parameter.dtype
        self.mark()

    def mark(self) -> None:
        """The weight is as slotkit left it. PyTorch counts the changes of a tensor in its version."""
        self._version = self.parameter._version

    def is_touched(self) -> bool:
        """Whether anybody has written to the weight since it was marked."""
        return self.parameter._version != self._version

    def has_relocated(self) -> bool:
        """Whether the weight has gone to another device or dtype."""
        return self.placement != (self.parameter.device, self.parameter.dtype)

    def check_in_place(self) -> None:
        """Raise SlotkitError if a module holds another parameter by now."""
        for module, name in self.holders:
            if module._parameters.get(name) is not self.parameter:
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
