"""Writing a slot file."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.files import write_whole
from slotkit.machine import SlotMachine
from slotkit.reel import Reel
from slotkit.slotfile.architecture import Architecture, Outline, ordinary_state
from slotkit.slotfile.coding import LARGEST_ALPHABET, encode, pack
from slotkit.slotfile.metadata import (
    CHECKSUM_KEY,
    FORMAT,
    INDICES,
    INITS,
    KEY,
    TENSORS,
    Metadata,
    digest,
    raw,
    state_digest,
)
from slotkit.slotfile.symbols import to_symbols

READINGS = ("greedy", "in use")


@dataclass(frozen=True)
class Sizes:
    """How large a slot file is, and what it holds.

    Attributes:
        file_bytes: the whole file.
        index_bytes: the coded indices in it.
        connections: how many weights are selected among options.
        dense_bytes: the ordinary state_dict's tensors.
    """

    file_bytes: int
    index_bytes: int
    connections: int
    dense_bytes: int

    @property
    def bits_per_connection(self) -> float:
        """Coded indices alone; an ordinary weight has 32."""
        return 8 * self.index_bytes / self.connections

    @property
    def file_bits_per_connection(self) -> float:
        """The whole file, metadata and other tensors included."""
        return 8 * self.file_bytes / self.connections

    @property
    def ratio(self) -> float:
        """How many times smaller than the ordinary tensors."""
        return self.dense_bytes / self.file_bytes


def save(
    path: Path | str,
    model: nn.Module,
    machine: SlotMachine,
    architecture: Architecture,
    reading: str = "greedy",
) -> Sizes:
    """Write a slot machine's network as a seed and selected indices; `slotkit.load` gives it back bit by bit.

    Args:
        path: the file; it is written whole or not at all.
        model: the network, in either form, with float32 weights.
        machine: its slot machine.
        architecture: what the network was built from, see `slotkit.slotfile.architecture`.
        reading: "greedy" (the highest scores) or "in use" (what the weights are now: under
            probabilistic selection the last sample).

    Raises:
        SlotkitError: another init than those of format 1, weights that are not float32, a model
            that is not of this architecture, or a disk that refuses.
    """
    if reading not in READINGS:
        raise SlotkitError(f"There is no reading {reading!r}. Choose one of {', '.join(READINGS)}.")
    path = Path(path)
    outline = architecture.outline()
    _check_reels(machine, outline, model)
    with machine.using("greedy") if reading == "greedy" else nullcontext():
        state = ordinary_state(model, outline)
        # Not machine.selected: `_check_weights` has its own words for weights that somebody wrote.
        selected = {name: machine.form.selected(name).detach().cpu().reshape(-1) for name in machine.reels}
    state = {name: state[name] for name in outline.own}
    records, payloads = _code_reels(machine, selected, state)
    index_bytes = sum(map(len, payloads.values()))
    others = {name: value for name, value in state.items() if name not in machine.reels}
    zeros = [name for name, value in others.items() if _is_all(value, 0)]
    ones = [name for name, value in others.items() if _is_all(value, 1)]
    stored = {name: value for name, value in others.items() if name not in {*zeros, *ones}}
    reel = next(iter(machine.reels.values()))
    settings = reel.settings.to_dict()
    about = {
        "format": FORMAT,
        "made_by": f"slotkit {version('slotkit')}",
        "architecture": architecture.model_dump(mode="json"),
        "reading": reading,
        "reel_spec": reel.spec,
        **settings,
        "init": INITS[settings["init"]],
        "reels": records,
        "zeros": zeros,
        "ones": ones,
        "stored": {name: digest(raw(value)) for name, value in stored.items()},
        "blake2b": state_digest(state),
    }
    text = json.dumps(about)
    Metadata.model_validate_json(text)  # what the reader would refuse is never written
    tensors = {INDICES + name: _bytes(data) for name, data in payloads.items()}
    tensors |= {TENSORS + name: value for name, value in stored.items()}
    header = {KEY: text, CHECKSUM_KEY: digest(text.encode())}
    write_whole(path, lambda file: save_file(tensors, file, metadata=header))
    dense = sum(value.numel() * value.element_size() for value in state.values())
    return Sizes(path.stat().st_size, index_bytes, sum(map(len, selected.values())), dense)


def _check_reels(machine: SlotMachine, outline: Outline, model: nn.Module) -> None:
    if machine.model is not model:
        raise SlotkitError("The machine belongs to another model. Give the model that slotify changed.")
    for name, reel in machine.reels.items():
        if not isinstance(reel.init, str) or reel.init not in INITS:
            kind = "a mixture" if isinstance(reel.init, str) else "an object"
            raise SlotkitError(
                f"{name} has the init {reel.init!r}, {kind}, which a file can't hold. Only the inits "
                f"{' and '.join(INITS)} can be exported."
            )
        if reel.kind is not None:
            raise SlotkitError(
                f"{name} has options of the kind {reel.kind!r}, which a file can't hold. Only independent "
                "options and symmetric pairs can be exported."
            )
        if outline.first.get(name) != name:
            raise SlotkitError(
                f"The architecture given has no tensor {name}, which is a reel of the model. Give the name "
                "and options that the model was built with."
            )


def _code_reels(
    machine: SlotMachine, selected: dict[str, Tensor], state: dict[str, Tensor]
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    records, payloads = [], {}
    for name, reel in machine.reels.items():
        _check_weights(reel, selected[name], state[name])
        data, counts = _code(reel, selected[name])
        payloads[name] = data
        record: dict[str, Any] = {"name": name, "shape": list(reel.shape), "channel_dim": reel.channel_dim}
        record |= {"coding": "entropy", "counts": counts} if counts else {"coding": "packed"}
        records.append(record | {"blake2b": digest(data)})
    return records, payloads


def _check_weights(reel: Reel, selected: Tensor, weight: Tensor) -> None:
    if weight.dtype != torch.float32:
        raise SlotkitError(
            f"{reel.name} is of type {weight.dtype}. A slot file holds float32 weights: convert the model "
            "with model.float() before slotify (training with --precision bf16 keeps them float32)."
        )
    if not torch.equal(reel.chosen(selected.reshape(reel.shape)), weight):
        raise SlotkitError(
            f"The weights of {reel.name} are not the selected options: something else wrote to them. Call "
            "machine.spin(), or save the ordinary state_dict."
        )


def _code(reel: Reel, selected: Tensor) -> tuple[bytes, list[int] | None]:
    """The shorter of the two codings, and the counts of the entropy coding, whose text adds to its length."""
    packed = pack(selected, reel.k)
    if reel.k == 1 or reel.k + 1 > LARGEST_ALPHABET:
        return packed, None
    coded, counts = encode(to_symbols(reel, selected), reel.k + 1)
    if len(coded) + len(json.dumps(counts)) < len(packed):
        return coded, counts
    return packed, None


def _is_all(value: Tensor, constant: int) -> bool:
    """Whether every element has exactly the bits of that number (-0.0 is not 0.0)."""
    return bytes(raw(value)) == bytes(raw(torch.full_like(value, constant)))


def _bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())
