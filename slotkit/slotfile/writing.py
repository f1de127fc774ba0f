"""Writing a slot file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.files import write_whole
from slotkit.machine import SlotMachine, check_reading
from slotkit.reel import Reel
from slotkit.slotfile.architecture import Architecture, Outline, first_reason, ordinary_state
from slotkit.slotfile.coding import LARGEST_ALPHABET, encode, pack
from slotkit.slotfile.metadata import (
    CHECKSUM_KEY,
    DTYPES,
    FORMATS,
    INDICES,
    INITS,
    KEY,
    NAMES_OF_DTYPES,
    TENSORS,
    digest,
    raw,
    state_digest,
)
from slotkit.slotfile.network import own_outline
from slotkit.slotfile.symbols import Share, Work, silent, to_symbols


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
    machine: SlotMachine,
    architecture: Architecture | None = None,
    reading: str = "greedy",
    report: Share = silent,
) -> Sizes:
    """Write a slot machine's network as a seed and selected indices; `slotkit.load` gives it back bit by bit.

    Args:
        path: the file; it is written whole or not at all.
        machine: of any network. Under DistributedDataParallel one process writes.
        architecture: what `slotkit.load` builds the network from (`slotkit.slotfile.architecture`), for
            networks of slotkit and timm with float32 weights. Without it the file has names, shapes and
            types, and is loaded into a network that is there: `slotkit.load(path, into=model)`.
        reading: "greedy" (the highest scores) or "in use" (what the weights are now: under
            probabilistic selection the last sample).
        report: called with the share of the work that is done, 0 to 1.

    Raises:
        SlotkitError: another init or kind of options than those of a slot file, weights that somebody else
            has written, a tensor of a type that it can't hold, a model that is not of this architecture, or
            a disk that refuses.
    """
    if not isinstance(machine, SlotMachine):
        raise SlotkitError(
            f"slotkit.save takes the slot machine that slotify returned, and {type(machine).__name__} came. "
            "An ordinary network is written with torch.save(model.state_dict(), path)."
        )
    check_reading(reading)
    path = Path(path)
    _check_inits(machine)
    with _read(machine, reading), torch.no_grad():
        if architecture is None:
            outline = own_outline(machine.model, machine.reels)
            state = {name: _copy(outline.entries[name]) for name in outline.own}
        else:
            outline = architecture.outline()
            _check_architecture(machine, outline)
            state = ordinary_state(machine.model, outline)
            state = {name: state[name] for name in outline.own}
        values = {name: _options(machine, name, state[name]) for name in machine.reels}
        picked = {
            name: _picked(machine, name, values[name]) for name, reel in machine.reels.items() if reel.kind
        }
    work = Work(sum(map(len, values.values())), report)
    records, payloads = _code_reels(machine, values, picked, work)
    if architecture is None:
        records = [each | {"dtype": NAMES_OF_DTYPES[state[each["name"]].dtype]} for each in records]
    others = {name: value for name, value in state.items() if name not in machine.reels}
    zeros = [name for name, value in others.items() if _is_all(value, 0)]
    ones = [name for name, value in others.items() if name not in zeros and _is_all(value, 1)]
    stored = {name: value for name, value in others.items() if name not in {*zeros, *ones}}
    reel = next(iter(machine.reels.values()))
    settings = reel.settings.to_dict()
    about = {
        "made_by": f"slotkit {version('slotkit')}",
        **(_own(outline, others) if architecture is None else _named(architecture)),
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
    text = _checked(about)
    tensors = {INDICES + name: _bytes(data) for name, data in payloads.items()}
    tensors |= {TENSORS + name: value for name, value in stored.items()}
    header = {KEY: text, CHECKSUM_KEY: digest(text.encode())}
    write_whole(path, lambda file: save_file(tensors, file, metadata=header))
    dense = sum(value.numel() * value.element_size() for value in state.values())
    index_bytes, connections = sum(map(len, payloads.values())), sum(map(len, values.values()))
    return Sizes(path.stat().st_size, index_bytes, connections, dense)


def _read(machine: SlotMachine, reading: str) -> AbstractContextManager[Any]:
    """Within the block the weights are those of the reading."""
    if reading == "in use":
        return nullcontext()
    if machine.form.follows():
        machine.form.check()  # to choose them anew takes longer than all the rest
        return nullcontext()
    return machine.using("greedy")


def _named(architecture: Architecture) -> dict[str, Any]:
    return {"format": 1, "architecture": architecture.model_dump(mode="json")}


def _own(outline: Outline, others: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a file says of a network that has no name."""
    for name, value in others.items():
        if value.dtype not in NAMES_OF_DTYPES:
            raise SlotkitError(
                f"{name} is of type {value.dtype}, which a slot file can't hold: it has {', '.join(DTYPES)}: "
                "make a buffer of another type persistent=False, or save the ordinary state_dict."
            )
    entries = {
        name: {"dtype": NAMES_OF_DTYPES[value.dtype], "shape": list(value.shape)}
        for name, value in others.items()
    }
    ties = {name: first for name, first in outline.first.items() if first != name}
    return {"format": 2, "entries": entries, "ties": ties}


def _checked(about: Mapping[str, Any]) -> str:
    """The metadata as text. What the reader would refuse is never written."""
    text = json.dumps(about)
    try:
        FORMATS[about["format"]].model_validate_json(text)
    except ValidationError as fault:
        raise SlotkitError(f"This network can't be written down: {first_reason(fault)}.") from None
    return text


def _copy(value: Tensor) -> Tensor:
    """Contiguous, on the CPU, its own memory."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def refusal(machine: SlotMachine) -> str | None:
    """Why no slot file can tell the options of this machine; None if one can."""
    for name, reel in machine.reels.items():
        if not isinstance(reel.init, str) or reel.init not in INITS:
            kind = "not one of spec 1" if isinstance(reel.init, str) else "an object"
            return (
                f"{name} has the init {reel.init!r}, {kind}, which a file can't hold. Only the inits "
                f"{' and '.join(INITS)} can be exported."
            )
        if reel.kind not in (None, "mask"):
            return (
                f"{name} has options of the kind {reel.kind!r}, which a file can't hold. Only independent "
                "options, symmetric pairs and masks can be exported."
            )
    return None


def _check_inits(machine: SlotMachine) -> None:
    why = refusal(machine)
    if why is not None:
        raise SlotkitError(why)


def _check_architecture(machine: SlotMachine, outline: Outline) -> None:
    for name in machine.reels:
        if outline.first.get(name) != name:
            raise SlotkitError(
                f"The architecture given has no tensor {name}, which is a reel of the model. Give the name "
                "and options that the model was built with, or leave the architecture out."
            )
        weight = machine.model.get_submodule(name.rpartition(".")[0])
        dtype = getattr(weight, name.rpartition(".")[2]).dtype
        if dtype != torch.float32:
            raise SlotkitError(
                f"{name} is of type {dtype}. A slot file with an architecture holds float32 weights: leave "
                "the architecture out, or convert the model with model.float() before slotify (training with "
                "--precision bf16 keeps them float32)."
            )


def _options(machine: SlotMachine, name: str, weight: Tensor) -> Tensor:
    """The options that a weight's values are, float32 (n,), as they are without rounding to its type."""
    if weight.dtype == torch.float32:
        return weight.reshape(-1)
    reel = machine.reels[name]
    # Options that differ may round to the same value: only the machine knows. Not machine.selected, because
    # there are words of our own for weights that somebody wrote.
    options = reel.chosen(machine.form.selected(name).detach().cpu())
    if not torch.equal(options.to(weight.dtype), weight):
        raise _changed(name)
    return options.reshape(-1)


def _picked(machine: SlotMachine, name: str, values: Tensor) -> Tensor:
    """Of a mask, the numbers of the options that the weights are, int64 (n,)."""
    indices = machine.form.selected(name).detach().cpu().reshape(-1)
    if not torch.equal(machine.reels[name].chosen(indices).reshape(-1), values):
        raise _changed(name)
    return indices


def _changed(name: str) -> SlotkitError:
    return SlotkitError(
        f"The weights of {name} are not the selected options: something else wrote to them. Call "
        "machine.spin(), or save the ordinary state_dict."
    )


def _code_reels(
    machine: SlotMachine, values: Mapping[str, Tensor], picked: Mapping[str, Tensor], work: Work
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    records, payloads = [], {}
    for name, reel in machine.reels.items():
        if name in picked:
            data, counts = _code_mask(reel, picked[name], work)
        else:
            data, counts = _code(reel, values[name], work)
        payloads[name] = data
        record: dict[str, Any] = {"name": name, "shape": list(reel.shape), "channel_dim": reel.channel_dim}
        record |= {"coding": "entropy", "counts": counts} if counts else {"coding": "packed"}
        records.append(record | {"blake2b": digest(data)})
    return records, payloads


def _code(reel: Reel, values: Tensor, work: Work) -> tuple[bytes, list[int] | None]:
    """The shorter of the two codings, and the counts of the entropy coding, whose text adds to its length."""
    ranked = 1 < reel.k < LARGEST_ALPHABET
    found = to_symbols(reel, values, work, ranked)
    if found is None:
        raise _changed(reel.name)
    symbols, indices = found
    packed = pack(indices, reel.k)
    if ranked:
        coded, counts = encode(symbols, reel.k + 1)
        if len(coded) + len(json.dumps(counts)) < len(packed):
            return coded, counts
    return packed, None


def _code_mask(reel: Reel, indices: Tensor, work: Work) -> tuple[bytes, list[int] | None]:
    """The same of a mask, whose symbols are the numbers of the options."""
    work.over(len(indices), lambda part: None)
    packed = pack(indices.int(), reel.k)
    if reel.k <= LARGEST_ALPHABET:
        coded, counts = encode(indices.int(), reel.k)
        if len(coded) + len(json.dumps(counts)) < len(packed):
            return coded, counts
    return packed, None


def _is_all(value: Tensor, constant: int) -> bool:
    """Whether every element has exactly the bits of that number (-0.0 is not 0.0)."""
    return bytes(raw(value)) == bytes(raw(torch.full_like(value, constant)))


def _bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())
