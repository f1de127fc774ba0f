"""The paper's layers in the dense form, for people who build a network by hand.

    net = nn.Sequential(SlotLinear(784, 300, k=8), nn.ReLU(), SlotLinear(300, 10, k=8))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

Each layer is a slot machine of its own (`layer.machine`). For a network that exists already, use
`slotkit.slotify`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slotkit.dense import SlotWeight
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.reel import Init


class SlotLayer(nn.Module):
    """What the layers below add to their PyTorch layer, whose sizes are the positional arguments.

    Args:
        k, selection, init, sharing, symmetric, update: as in `slotkit.slotify`.
        seed: of this layer's options and scores. None takes one from torch's global generator, as
            ordinary layers do, so torch.manual_seed decides. Two layers of one seed are equal.
        bias: off by default, as in the paper's networks. If on, it is trained.
    """

    machine: SlotMachine
    _loaded: tuple[int, bool] | None = None

    def __init__(
        self,
        *arguments: Any,
        k: int = 8,
        selection: str = "greedy",
        init: str | Init = "glorot-uniform",
        sharing: str = "none",
        symmetric: bool = False,
        update: str = "all",
        seed: int | None = None,
        bias: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, bias=bias, **options)
        chosen = int(torch.randint(2**62, ()).item()) if seed is None else seed
        self.machine = slotify(
            self,
            k,
            selection,
            sharing,
            init,
            chosen,
            form="dense",
            others="trained",
            update=update,
            symmetric=symmetric,
        )
        weight = self.get_submodule("parametrizations.weight.0")
        assert isinstance(weight, SlotWeight)
        weight.adopts_seed = True
        hook = self.register_load_state_dict_post_hook(_scores_are_loaded)  # type: ignore[no-untyped-call]
        self.machine.endings += [hook.remove, self._end]

    def _end(self) -> None:
        """`machine.to_learned()` is done: the layer is PyTorch's own now, or of a class of the user's."""
        if type(self) in LAYERS:
            del self.__dict__["machine"]
            self.__class__ = LAYERS[type(self)]

    def get_extra_state(self) -> Tensor:
        """How many times training has sampled, and whether the next forward draws: a resumed run goes on
        with the next draw.
        """
        drawing = self.machine.drawing
        return torch.tensor([drawing.number, bool(drawing.waiting)])

    def set_extra_state(self, state: Tensor) -> None:
        # Files of before have the first number alone, and every forward drew.
        number, waits = state.tolist() if state.dim() else (state.item(), True)
        self._loaded = int(number), bool(waits)


def _scores_are_loaded(layer: SlotLayer, _: Any) -> None:
    """The draw that is due belongs to the scores, which a layer loads after its own extra state."""
    loaded, layer._loaded = layer._loaded, None
    weight = layer.get_submodule("parametrizations.weight.0")
    if loaded is not None and not (isinstance(weight, SlotWeight) and weight.is_refused):
        drawing = layer.machine.drawing
        drawing.number, waits = loaded
        drawing.restart(None if waits else ())


class SlotLinear(SlotLayer, nn.Linear):
    """`torch.nn.Linear` with K options a connection."""


class SlotConv1d(SlotLayer, nn.Conv1d):
    """`torch.nn.Conv1d` with K options a connection."""


class SlotConv2d(SlotLayer, nn.Conv2d):
    """`torch.nn.Conv2d` with K options a connection."""


class SlotConv3d(SlotLayer, nn.Conv3d):
    """`torch.nn.Conv3d` with K options a connection."""


# What each is when its machine has ended.
LAYERS: dict[type, type] = {
    SlotLinear: nn.Linear,
    SlotConv1d: nn.Conv1d,
    SlotConv2d: nn.Conv2d,
    SlotConv3d: nn.Conv3d,
}
