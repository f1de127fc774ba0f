"""Slot files to test with: small networks, trained a little, so that selections and statistics moved."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slotkit import slotfile
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.models import create

# The same networks with a few channels, as the fixture `narrow_networks` makes them; for child processes.
NARROW = """
from timm.models.vgg import cfgs
from slotkit.models import conv
conv.WIDTHS, conv.HIDDEN = (4, 6, 8), 16
cfgs["vgg19"] = [2, 2, "M", 2, 2, "M", 3, 3, 3, 3, "M", 4, 4, 4, 4, "M", 4, 4, 4, 4, "M"]
"""


@dataclass(frozen=True)
class Case:
    """A network and how it is slotified."""

    model: str
    image: tuple[int, int, int]
    options: dict[str, Any] = field(default_factory=dict)
    slots: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(
            [self.model, *(f"{key}={value}" for key, value in {**self.options, **self.slots}.items())]
        )

    @property
    def architecture(self) -> slotfile.Architecture:
        return slotfile.architecture(self.model, self.image, 5, self.options)

    def trained(self, steps: int = 4) -> tuple[nn.Module, SlotMachine]:
        """The network after some steps of SGD, large ones: many connections leave their first option."""
        torch.manual_seed(3)
        model = create(self.model, self.image, 5, **self.options)
        machine = slotify(model, **self.slots)
        optimizer = machine.optimizer(lr=20.0, momentum=0.5)
        model.train()
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(16, *self.image)), torch.arange(16) % 5).backward()
            optimizer.step()
        return model, machine

    def write(self, path: Path) -> tuple[dict[str, Tensor], slotfile.Sizes]:
        """A file of the trained network; what load has to give back."""
        model, machine = self.trained()
        sizes = slotfile.save(path, machine, self.architecture)
        with machine.using("greedy"):
            plain = {name: value.detach().clone() for name, value in ordinary(model, self).items()}
        return plain, sizes


class OwnNet(nn.Module):
    """A class that no registry knows: a tied weight, and buffers of every sort."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 32, 3)
        self.norm = nn.BatchNorm2d(32)
        self.full = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.full.weight
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("passing", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).flatten(1)[:, :6]
        result: Tensor = self.tied(self.full(x.to(self.full.weight.dtype)).relu())
        return result


@dataclass(frozen=True)
class Own:
    """An `OwnNet` and how it is slotified."""

    slots: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        return " ".join(["own", str(self.dtype), *(f"{key}={value}" for key, value in self.slots.items())])

    def trained(self, steps: int = 3) -> SlotMachine:
        torch.manual_seed(4)
        model = OwnNet().to(self.dtype)
        machine = slotify(model, **self.slots)
        optimizer = machine.optimizer(lr=5.0)
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(5, 2, 5, 5, dtype=self.dtype)).square().mean().backward()
            optimizer.step()
        return machine

    def write(self, path: Path) -> None:
        slotfile.save(path, self.trained())


def ordinary(model: nn.Module, case: Case) -> dict[str, Tensor]:
    """The state under the names of the ordinary network, read attribute by attribute."""
    found = {}
    for name in create(case.model, case.image, 5, **case.options).state_dict():
        value: Any = model
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = value
    return found


def bits(state: dict[str, Tensor]) -> dict[str, str]:
    """Name -> type, shape and a digest of the bytes."""
    return {
        name: f"{value.dtype} {tuple(value.shape)} "
        + hashlib.sha256(
            value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for name, value in state.items()
    }


@dataclass
class Parts:
    """A slot file taken apart, to be put together wrongly. `data` is (dtype, shape, bytes) by name."""

    about: Any
    data: dict[str, tuple[str, list[int], bytes]]

    @classmethod
    def of(cls, whole: bytes) -> Parts:
        (length,) = struct.unpack("<Q", whole[:8])
        header = json.loads(whole[8 : 8 + length])
        about = json.loads(header.pop("__metadata__")["slotkit"])
        body = whole[8 + length :]
        data = {n: (e["dtype"], e["shape"], body[slice(*e["data_offsets"])]) for n, e in header.items()}
        return cls(about, data)

    def sign(self) -> Parts:
        """Make the checksums of the payloads right again, as someone hostile would."""
        told = {f"indices/{record['name']}": record for record in self.about["reels"]}
        for name, (_, _, data) in self.data.items():
            digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            if name in told:
                told[name]["blake2b"] = digest
            elif name.removeprefix("tensors/") in self.about["stored"]:
                self.about["stored"][name.removeprefix("tensors/")] = digest
        return self

    def whole(self, text: str | None = None) -> bytes:
        """The file, its metadata with a right checksum."""
        text = json.dumps(self.about) if text is None else text
        signature = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        header: dict[str, Any] = {"__metadata__": {"slotkit": text, "slotkit_blake2b": signature}}
        body = b""
        for name, (dtype, shape, data) in self.data.items():
            header[name] = {
                "dtype": dtype,
                "shape": shape,
                "data_offsets": [len(body), len(body) + len(data)],
            }
            body += data
        head = json.dumps(header).encode()
        return struct.pack("<Q", len(head)) + head + body
