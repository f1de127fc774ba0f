"""Reading a slot file, which may come from anyone: everything is checked before it is used.

In this order, so that a bad file costs neither time nor memory: the length of the header, its text
against its checksum and types, the payloads' names, types and lengths, the network's names and shapes
with nothing allocated, the payloads' checksums; only then are indices decoded and weights made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine
from slotkit.slotfile.architecture import DEFAULT_LIMIT, LARGEST_LIMIT, Outline
from slotkit.slotfile.coding import decode, packed_bytes, unpack
from slotkit.slotfile.metadata import (
    CHECKSUM_KEY,
    DTYPES,
    INDICES,
    KEY,
    TENSORS,
    Metadata,
    Named,
    ReelRecord,
    digest,
    parse,
    raw,
    state_digest,
)
from slotkit.slotfile.network import places_in
from slotkit.slotfile.opening import open_checked
from slotkit.slotfile.symbols import Share, Work, from_indices, from_symbols, silent


def describe(path: Path | str) -> dict[str, Any]:
    """The metadata of a slot file, checked, as plain values; neither weights nor network are made.

    As in the file, `kind` is there only if the options are of one.

    Raises SlotkitError as `load` does for a file that can't be read.
    """
    path = Path(path)
    with _refusing(path), open_checked(path) as file:
        about = _metadata(file)
        return about.model_dump(mode="json", exclude=None if about.kind else {"kind"})


def load(
    path: Path | str, into: nn.Module | None = None, limit: int = DEFAULT_LIMIT, report: Share = silent
) -> nn.Module:
    """The network of a slot file: ordinary, in evaluation mode, needing no slotkit any more.

    Every entry of its state_dict has the bits it was saved with. A file with an architecture is built by
    `slotkit.models.create` on the CPU, so the input is (n, channels, height, width) and the output
    (n, classes). A file of a network of your own is loaded into one.

    Args:
        path: a file that `slotkit export` or `slotkit.save` wrote. It may come from a stranger:
            nothing in it is executed, and no path or address in it is followed.
        into: the network to load into, built as the saved one was, and returned: on its device, its
            parameters the same objects. Its names, shapes and types are compared with the file's before
            anything is changed. Buffers that are not persistent stay as they are.
        limit: the most elements (parameters and buffers) that a network which is built may have; 2**31 at
            most. The default, 2**28, is 1 GiB in float32.
        report: called with the share of the work that is done, 0 to 1.

    Raises:
        SlotkitError: there is no such file, it is damaged, it was made by a newer slotkit, it names a
            network that can't be built here, or it has more elements than `limit`; or `into` is another
            network, or missing.
    """
    path = Path(path)
    if into is not None and not isinstance(into, nn.Module):
        hint = ": give its .model, when to_learned() has ended it" if isinstance(into, SlotMachine) else ""
        raise SlotkitError(f"`into` is a {type(into).__name__}. Give a network, an nn.Module{hint}.")
    with _refusing(path):
        file = open_checked(path)
    with file:
        with _refusing(path):
            about = _metadata(file)
            _check_entries(file, about)
            outline = about.outline(min(limit, LARGEST_LIMIT))
            _check_network(about, outline, file)
        if into is not None:
            places = places_in(into, outline, path)
        elif isinstance(about, Named):
            places = {name: name for name in outline.entries}
        else:
            raise SlotkitError(
                f"{path} is of a network of your own ({', '.join(list(outline.entries)[:3])}, ...), and a "
                "file holds no code. Build the network and give it: slotkit.load(path, into=model)."
            )
        with _refusing(path):
            state = _state(about, outline, _read(file, about), report)
            model = about.architecture.build() if into is None and isinstance(about, Named) else into
    assert model is not None
    model.load_state_dict({name: state[outline.first[own]] for name, own in places.items()})
    return model.eval()


def _metadata(file: Any) -> Metadata:
    header = file.metadata() or {}
    if KEY not in header:
        raise SlotkitError(f"its header has no {KEY!r}; a checkpoint or weights.safetensors is another thing")
    return parse(header[KEY], header.get(CHECKSUM_KEY))


def _check_entries(file: Any, about: Metadata) -> None:
    """Check that the file has the payloads that the metadata names, each of the right type and length."""
    there, told = set(file.keys()), set(about.payloads)
    if there != told:
        odd = sorted(there ^ told)
        raise SlotkitError(f"its tensors and its metadata differ in {', '.join(map(repr, odd[:3]))[:200]}")
    for record in about.reels:
        entry = file.get_slice(INDICES + record.name)
        shape = entry.get_shape()
        if entry.get_dtype() != "U8" or len(shape) != 1:
            raise SlotkitError(f"the indices of {record.name} are not a row of bytes")
        wanted = packed_bytes(record.connections, about.k)
        if shape[0] > wanted or (record.coding == "packed" and shape[0] != wanted):
            raise SlotkitError(f"the indices of {record.name} have {shape[0]} bytes, where {wanted} are due")


def _check_network(about: Metadata, outline: Outline, file: Any) -> None:
    """Check that the metadata names each tensor of the network, with its shape and type."""
    own = outline.own
    if set(about.names) != set(own):
        odd = sorted(set(about.names) ^ set(own))
        raise SlotkitError(
            f"its tensors are not those of {about.network}: they differ in "
            f"{', '.join(map(repr, odd[:3]))[:200]}"
        )
    for record in about.reels:
        entry = outline.entries[record.name]
        if (
            entry.shape != record.shape
            or entry.dtype != record.torch_dtype
            or record.name not in outline.parameters
        ):
            raise SlotkitError(
                f"{record.name} has shape {record.shape}, and in {about.network} it is "
                f"{tuple(entry.shape)} of {entry.dtype}"
            )
    for name in about.stored:
        there, entry = file.get_slice(TENSORS + name), outline.entries[name]
        if DTYPES.get(there.get_dtype()) != entry.dtype or tuple(there.get_shape()) != entry.shape:
            raise SlotkitError(
                f"{name} is {there.get_dtype()} of shape {there.get_shape()}, and in "
                f"{about.network} {entry.dtype} of shape {list(entry.shape)}"
            )


def _read(file: Any, about: Metadata) -> dict[str, Tensor]:
    payloads = {}
    for name, checksum in about.payloads.items():
        payloads[name] = file.get_tensor(name).contiguous()
        if digest(raw(payloads[name])) != checksum:
            raise SlotkitError(f"{name} doesn't have the checksum it was written with")
    return payloads


def _state(
    about: Metadata, outline: Outline, payloads: dict[str, Tensor], report: Share
) -> dict[str, Tensor]:
    """Every tensor of the network by its first name."""
    # All indices are decoded before any option is computed, so that damaged ones are found early.
    coded = {r.name: _decode(about, r, bytes(raw(payloads[INDICES + r.name]))) for r in about.reels}
    work = Work(sum(record.connections for record in about.reels), report)
    state = {}
    for record in about.reels:
        made = from_symbols if record.counts is not None and about.kind is None else from_indices
        values = made(about.reel(record), coded[record.name], work)
        state[record.name] = values.reshape(record.shape).to(record.torch_dtype)
    for names, value in ((about.zeros, 0), (about.ones, 1)):
        for name in names:
            state[name] = torch.full_like(outline.entries[name], value, device="cpu")
    state |= {name: payloads[TENSORS + name] for name in about.stored}
    if state_digest(state) != about.blake2b:
        raise SlotkitError("its weights, made anew, are not those that were saved; please report this")
    return state


def _decode(about: Metadata, record: ReelRecord, data: bytes) -> Tensor:
    """Indices, int64 (connections,), or, in the entropy coding, symbols, int32."""
    try:
        if record.counts is None:
            return unpack(data, record.connections, about.k)
        return decode(data, record.counts)
    except SlotkitError as fault:
        raise SlotkitError(f"the indices of {record.name} are damaged: {fault}") from None


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Say of a bad file, in one sentence, what is wrong and what to do."""
    try:
        yield
    except (SafetensorError, OSError, SlotkitError) as fault:
        reason = str(fault).rstrip(".")
        raise SlotkitError(
            f"{path} can't be loaded as a slot file: {reason}. Fetch the file again, or make it anew with "
            "`slotkit export RUN` or slotkit.save."
        ) from None
