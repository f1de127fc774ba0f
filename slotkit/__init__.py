"""slotkit: networks whose weights are selected among fixed random options, never learned.

Importing it imports no torch: the public names are looked up when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slotkit.dead import dead_layers
    from slotkit.errors import SlotkitError
    from slotkit.layers import SlotConv1d, SlotConv2d, SlotConv3d, SlotLinear
    from slotkit.machine import SlotMachine
    from slotkit.making import randomize, slotify
    from slotkit.optim import SlotAdam, SlotSGD
    from slotkit.own_loop import record
    from slotkit.reel import Reel
    from slotkit.slotfile import load, save

    __version__: str

PUBLIC = {
    "SlotAdam": "slotkit.optim",
    "SlotSGD": "slotkit.optim",
    "Reel": "slotkit.reel",
    "SlotConv1d": "slotkit.layers",
    "SlotConv2d": "slotkit.layers",
    "SlotConv3d": "slotkit.layers",
    "SlotLinear": "slotkit.layers",
    "SlotMachine": "slotkit.machine",
    "SlotkitError": "slotkit.errors",
    "dead_layers": "slotkit.dead",
    "load": "slotkit.slotfile",
    "randomize": "slotkit.making",
    "record": "slotkit.own_loop",
    "save": "slotkit.slotfile",
    "slotify": "slotkit.making",
}

__all__ = [
    "Reel",
    "SlotAdam",
    "SlotConv1d",
    "SlotConv2d",
    "SlotConv3d",
    "SlotLinear",
    "SlotMachine",
    "SlotSGD",
    "SlotkitError",
    "dead_layers",
    "load",
    "randomize",
    "record",
    "save",
    "slotify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # importlib.metadata takes a tenth of a second to import: not for every --help.
        from importlib.metadata import version

        return version("slotkit")
    if name not in PUBLIC:
        raise AttributeError(f"module 'slotkit' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    """For tab completion: names that were not used yet, too."""
    return [*__all__, "__version__"]
