"""The JSON text in the header of a slot file: every field with its type and bounds, and the checksums."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, uint8

from slotkit.errors import SlotkitError
from slotkit.reel import SHARINGS, Reel, ReelSettings
from slotkit.slotfile.architecture import LARGEST_LIMIT, Architecture, Outline, first_reason
from slotkit.slotfile.coding import LARGEST_ALPHABET

# The latest. A file says 2 only if it is of a network that has no name: older readers know 1.
FORMAT = 2
KEY = "slotkit"
CHECKSUM_KEY = "slotkit_blake2b"
INDICES, TENSORS = "indices/", "tensors/"

# Format 1 has the names that these inits had when it was fixed.
INITS = {"glorot-uniform": "authors", "glorot-deviation": "paper"}

# What safetensors calls the types that a stored tensor may have, and those that weights of reels may have.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES_OF_DTYPES = {dtype: name for name, dtype in DTYPES.items()}

Dtype = Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Strict(BaseModel):
    """No conversions, no unknown keys, no NaN."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class ReelRecord(Strict):
    """One tensor of selected options and how its indices are coded."""

    name: Name
    shape: tuple[Annotated[int, Field(ge=1, le=2**31)], ...] = Field(min_length=2, max_length=8)
    channel_dim: int = Field(ge=0, le=1)
    coding: Literal["packed", "entropy"]
    counts: tuple[Annotated[int, Field(ge=0, le=2**31)], ...] | None = Field(
        None, min_length=2, max_length=LARGEST_ALPHABET
    )
    blake2b: Checksum

    @property
    def connections(self) -> int:
        return math.prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float32

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if (self.counts is None) != (self.coding == "packed"):
            raise ValueError("counts belong to the entropy coding, and only to it")
        if self.counts is not None and sum(self.counts) != self.connections:
            raise ValueError(f"the counts sum to {sum(self.counts)}, not to {self.connections} connections")
        return self


class OwnReelRecord(ReelRecord):
    """One of a network of the user's own, whose weights may be rounded to a narrower type."""

    dtype: Literal["F64", "F32", "F16", "BF16"]

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]


class Entry(Strict):
    """Type and shape of a tensor that is not reels."""

    dtype: Dtype
    shape: tuple[Annotated[int, Field(ge=0, le=LARGEST_LIMIT)], ...] = Field(max_length=16)


class Metadata(Strict):
    """Everything in a slot file except the bytes of its tensors."""

    made_by: str = Field(max_length=64)
    reading: Literal["greedy", "in use"]
    reel_spec: Literal[1, 2, 3]
    seed: int = Field(ge=0, lt=2**63)
    k: int = Field(ge=1, le=2**24)
    init: Literal["paper", "authors"]
    sharing: Literal["none", "layer", "channel", "network"]
    symmetric: bool
    kind: Literal["mask"] | None = None
    reels: tuple[Any, ...]
    zeros: tuple[Name, ...] = Field((), max_length=2**16)
    ones: tuple[Name, ...] = Field((), max_length=2**16)
    stored: dict[Name, Checksum] = Field({}, max_length=2**16)
    blake2b: Checksum

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = self.names
        if len(set(names)) != len(names):
            raise ValueError("a tensor is told twice")
        whose = f"sharing {self.sharing}" if self.kind is None else f"the kind {self.kind}"
        spec = SHARINGS[self.sharing] if self.kind is None else 3
        if self.reel_spec != spec:
            raise ValueError(f"{whose} is of reel spec {spec}, and the file says {self.reel_spec}")
        if self.symmetric and self.k % 2:
            raise ValueError("symmetric options come in pairs, so k must be even")
        if self.kind is not None and (self.symmetric or self.k < 2):
            raise ValueError(f"the kind {self.kind} has no pairs, and K from 2 up")
        # A mask has no symbol for "as at the start".
        alphabet, words = (self.k + 1, "k + 1") if self.kind is None else (self.k, "k")
        for record in self.reels:
            if record.counts is not None and (len(record.counts) != alphabet or self.k < 2):
                raise ValueError(f"{record.name} has {len(record.counts)} counts, and {words} is {alphabet}")
        return self

    @property
    def names(self) -> list[str]:
        """Every tensor of the network that this file describes."""
        return [record.name for record in self.reels] + [*self.zeros, *self.ones, *self.stored]

    @property
    def payloads(self) -> dict[str, str]:
        """Name in the file -> checksum of its bytes."""
        return {INDICES + record.name: record.blake2b for record in self.reels} | {
            TENSORS + name: checksum for name, checksum in self.stored.items()
        }

    def reel(self, record: ReelRecord) -> Reel:
        """The options of one tensor."""
        settings = ReelSettings(self.k, self.seed, self.init, self.sharing, self.symmetric, self.kind)
        return settings.reel(record.name, record.shape, record.channel_dim)

    @property
    def network(self) -> str:
        """What it is of, in words."""
        raise AssertionError("Named and Own define it")

    def outline(self, limit: int) -> Outline:
        """Names, types and shapes of the network's state. Raises SlotkitError for more elements."""
        raise AssertionError("Named and Own define it")


class Named(Metadata):
    """Format 1: of a network that is built from a name."""

    format: Literal[1]
    architecture: Architecture
    reels: tuple[ReelRecord, ...] = Field(min_length=1, max_length=2**16)

    @property
    def network(self) -> str:
        return self.architecture.model

    def outline(self, limit: int) -> Outline:
        return self.architecture.outline(limit)


class Own(Metadata):
    """Format 2: of a network of the user's own, of which the file has names, types and shapes.

    Attributes:
        entries: of each tensor in `zeros`, `ones` and `stored`.
        ties: further names of tensors -> the name that stands for them.
    """

    format: Literal[2]
    reels: tuple[OwnReelRecord, ...] = Field(min_length=1, max_length=2**16)
    entries: dict[Name, Entry] = Field(max_length=2**16)
    ties: dict[Name, Name] = Field(max_length=2**16)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if set(self.entries) != {*self.zeros, *self.ones, *self.stored}:
            raise ValueError("the entries are not those of zeros, ones and stored")
        if not set(self.ties.values()) <= set(self.names) or set(self.ties) & set(self.names):
            raise ValueError("a tie is to no tensor of the file, or to itself")
        shapes = [record.shape for record in self.reels] + [entry.shape for entry in self.entries.values()]
        if sum(map(math.prod, shapes)) > LARGEST_LIMIT:
            raise ValueError(f"there are more than {LARGEST_LIMIT} elements")
        return self

    @property
    def network(self) -> str:
        return "its own list"

    def outline(self, limit: int) -> Outline:
        told = {record.name: (record.torch_dtype, record.shape) for record in self.reels}
        told |= {name: (DTYPES[entry.dtype], entry.shape) for name, entry in self.entries.items()}
        told |= {name: told[first] for name, first in self.ties.items()}
        tensors = {
            name: torch.empty(shape, dtype=dtype, device="meta") for name, (dtype, shape) in told.items()
        }
        first = {name: self.ties.get(name, name) for name in tensors}
        return Outline(tensors, first, frozenset(record.name for record in self.reels))


# The latest reel spec that slot files have. An older reader refuses 3, which only masks need, by its number.
KNOWN_SPEC = 3

FORMATS: dict[int, type[Metadata]] = {1: Named, 2: Own}


class _Versions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    format: int
    reel_spec: int


def parse(text: str, checksum: str | None) -> Metadata:
    """The JSON text and its checksum, checked. Raises SlotkitError with the part of a sentence."""
    try:
        versions = _Versions.model_validate_json(text)
    except ValidationError as fault:
        raise SlotkitError(f"its metadata can't be read, because {first_reason(fault)}") from None
    newer = {"format": (versions.format, FORMAT), "reel spec": (versions.reel_spec, KNOWN_SPEC)}
    for what, (there, known) in newer.items():
        if there > known:
            raise SlotkitError(
                f"it has {what} {there}, and this slotkit knows {what} {known}. Upgrade with "
                "`pip install -U slotkit`"
            )
    if checksum != digest(text.encode()):
        raise SlotkitError("its metadata doesn't have the checksum it was written with")
    try:
        return FORMATS.get(versions.format, Named).model_validate_json(text)
    except ValidationError as fault:
        raise SlotkitError(f"its metadata is wrong: {first_reason(fault)}") from None


def digest(data: bytes | memoryview) -> str:
    """BLAKE2b with 16 bytes, as 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, row-major, in the order that safetensors writes them."""
    flat: Any = tensor.reshape(-1).view(uint8).numpy()
    return memoryview(flat)


def state_digest(state: Mapping[str, Tensor]) -> str:
    """One checksum of a whole network: each name (UTF-8), a zero byte, the tensor's bytes; names sorted."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        total.update(name.encode() + b"\0")
        total.update(raw(state[name]))
    return total.hexdigest()
