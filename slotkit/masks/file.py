"""Mask files: a mask as packed bits, with what it takes to make network and initial weights again.

A safetensors file. Its metadata has a JSON text under KEY and the checksum of that text and all bits. Each
layer is an entry "masks/NAME" of ceil(n / 8) bytes, the lowest bit first, in row-major order of the weight.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.files import write_whole
from slotkit.inits import NAMED_INITS
from slotkit.making import randomize
from slotkit.slotfile.architecture import Architecture, first_reason
from slotkit.slotfile.opening import open_checked

FORMAT: Literal[1] = 1
KEY, CHECKSUM_KEY = "slotkit_masks", "slotkit_masks_blake2b"
ENTRY = "masks/"

# Name of a weight -> bool, of its shape.
Masks = dict[str, Tensor]

Name = Annotated[str, Field(min_length=1, max_length=256)]
Setting = bool | int | float | Annotated[str, Field(max_length=64)] | None


class Strict(BaseModel):
    """No conversions, no unknown keys, no NaN."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Layer(Strict):
    """A layer of a mask file: its name and the shape of its weight."""

    name: Name
    shape: tuple[Annotated[int, Field(ge=1, le=2**31)], ...] = Field(min_length=2, max_length=8)


class Start(Strict):
    """The initial weights that a mask was made for: those of `slotkit.making.randomize` with one option."""

    init: Annotated[str, Field(max_length=64)]
    seed: int = Field(ge=0, lt=2**63)

    def write(self, network: nn.Module) -> None:
        """Give a network these weights. Raises SlotkitError for an init that this slotkit doesn't have."""
        if self.init not in NAMED_INITS:
            raise SlotkitError(f"there is no init {self.init!r}; this slotkit has {', '.join(NAMED_INITS)}")
        randomize(network, 1, self.init, self.seed)


class About(Strict):
    """What a mask file says of itself.

    Attributes:
        method: how the masks were made.
        density: the share of weights that was asked for, if one was.
        settings: of the method: seed, batches, mode, ...
        network: None for one that slotkit can't make.
        start: None if the masks have nothing to do with initial weights.
    """

    method: Name
    density: float | None = Field(None, ge=0, le=1)
    settings: dict[Name, Setting] = Field({}, max_length=64)
    network: Architecture | None = None
    start: Start | None = None

    def build(self) -> nn.Module:
        """The network with its initial weights, anew; see also `network_of`.

        Raises SlotkitError, the part of a sentence, if the file doesn't say enough, or what this slotkit
        doesn't have.
        """
        if self.network is None or self.start is None:
            missing = "network" if self.network is None else "initial weights"
            raise SlotkitError(f"it doesn't say which {missing} it was made for")
        network = self.network.build()
        self.start.write(network)
        return network


class Header(Strict):
    """What the JSON text of a mask file has."""

    format: Literal[1]
    about: About
    layers: tuple[Layer, ...] = Field(min_length=1, max_length=10_000)


def save(path: Path, masks: Mapping[str, Tensor], about: About) -> None:
    """Write a mask file; it is whole or not there.

    Raises SlotkitError if the masks are not bool or the file can't be written.
    """
    for name, mask in masks.items():
        if mask.dtype != torch.bool or not mask.numel():
            raise SlotkitError(
                f"The mask of {name} is {mask.dtype} of shape {tuple(mask.shape)}. Give bool tensors with at "
                "least one connection."
            )
    try:
        layers = tuple(Layer(name=name, shape=tuple(mask.shape)) for name, mask in masks.items())
        text = Header(format=FORMAT, about=about, layers=layers).model_dump_json()
        Header.model_validate_json(text)  # what was copied with changes has not been checked yet
    except ValidationError as fault:
        raise SlotkitError(f"These masks can't be written down: {first_reason(fault)}.") from None
    entries = {ENTRY + name: packed(mask) for name, mask in masks.items()}
    header = {KEY: text, CHECKSUM_KEY: _checksum(text, entries)}
    write_whole(path, lambda file: save_file(entries, file, metadata=header))


def load(path: Path) -> tuple[Masks, About]:
    """Masks, in the order of the file, and what it says of itself. It may come from anyone.

    Raises SlotkitError for a file that is not whole, naming what is wrong with it.
    """
    with _refusing(path), open_checked(path) as file:
        header = _header(file)
        wanted = {ENTRY + layer.name: layer for layer in header.layers}
        if set(file.keys()) != set(wanted) or len(wanted) != len(header.layers):
            raise SlotkitError("its entries and its metadata name different layers")
        entries: dict[str, Tensor] = {}
        for entry, layer in wanted.items():
            there, due = file.get_slice(entry), -(-math.prod(layer.shape) // 8)
            if there.get_dtype() != "U8" or there.get_shape() != [due]:
                raise SlotkitError(
                    f"the mask of {layer.name} is {there.get_dtype()} of shape {there.get_shape()}, where "
                    f"{due} bytes are due"
                )
            entries[entry] = file.get_tensor(entry)
        if _checksum(file.metadata()[KEY], entries) != file.metadata().get(CHECKSUM_KEY):
            raise SlotkitError("its checksum is wrong")
        masks = {
            layer.name: unpacked(entries[entry], layer.shape, layer.name) for entry, layer in wanted.items()
        }
        return masks, header.about


def network_of(path: Path, about: About) -> nn.Module:
    """The network of the mask file at `path`. Raises SlotkitError, naming the file, as `About.build`."""
    try:
        return about.build()
    except SlotkitError as fault:
        raise SlotkitError(
            f"The network of {path} can't be made: {str(fault).rstrip('.')}. Use another one, or make it "
            "again with `slotkit masks make`."
        ) from None


def _header(file: Any) -> Header:
    text = (file.metadata() or {}).get(KEY)
    if text is None:
        raise SlotkitError(f"its header has no {KEY!r}, so it is a file of another kind")
    return Header.model_validate_json(text)


def packed(mask: Tensor) -> Tensor:
    """A mask as bytes, uint8 (ceil(n / 8),): the lowest bit first, in row-major order."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy().reshape(-1), bitorder="little"))


def unpacked(octets: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """The reverse. Raises SlotkitError, the part of a sentence, for bits after the last connection."""
    number = math.prod(shape)
    bits = np.unpackbits(octets.numpy(), bitorder="little")
    if bits[number:].any():
        raise SlotkitError(f"the mask of {name} has bits beyond its end")
    return torch.from_numpy(bits[:number].astype(np.bool_)).reshape(shape)


def _checksum(text: str, entries: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(entries):
        digest.update(name.encode())
        digest.update(memoryview(entries[name].contiguous().numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Say of a bad file, in one sentence, what is wrong and what to do."""
    try:
        yield
    except (SafetensorError, OSError, SlotkitError, ValidationError, UnicodeError) as fault:
        reason = first_reason(fault) if isinstance(fault, ValidationError) else str(fault)
        raise SlotkitError(
            f"{path} can't be read as a mask file: {reason.rstrip('.')}. Use another one, or make it again "
            "with `slotkit masks make`."
        ) from None
