"""The portable file `model.slot.safetensors`: a seed, and which option every connection uses.

The options of a slot machine are made from its seed, so a trained network is that seed, the selected
indices and the few tensors that are not reels. docs/export.md is the format, byte by byte.

    architecture.py   which network: built from a registry's name only, never from code in a file
    network.py        a network without such a name: its tensors, and whether a file fits it
    metadata.py       the JSON text in the header, checked before anything is made of it
    coding.py         indices <-> bytes
    symbols.py        weights <-> what the entropy coder sees   loops.py   the same, compiled
    writing.py        save          reading.py   load, describe
"""

from slotkit.slotfile.architecture import Architecture, architecture
from slotkit.slotfile.reading import describe, load
from slotkit.slotfile.symbols import Share, silent
from slotkit.slotfile.writing import Sizes, save

__all__ = ["Architecture", "Share", "Sizes", "architecture", "describe", "load", "save", "silent"]
