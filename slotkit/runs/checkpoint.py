"""Checkpoints: one safetensors file each, with a JSON description and a checksum in its header.

One file, because two can't be replaced at once. Nothing in it can execute anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.files import write_whole
from slotkit.runs.residuals import Near, decode, encode
from slotkit.runs.schema import About, Header, naming

HEADER = "slotkit"
# Format 2 has tensors that are coded, see `slotkit.runs.residuals`, and format 3 tuples, which were lists
# before. Files without them are of format 1.
PLAIN, CODED, TUPLES = FORMATS = 1, 2, 3

# Marks in the JSON: one stands for a tensor and names its entry in the file, one for a coded tensor, one for
# a mapping whose keys are not strings, one for a tuple.
TENSOR, RESIDUAL, PAIRS, TUPLE = "$tensor", "$residual", "$pairs", "$tuple"


def save(path: Path, state: Mapping[str, Any], aside: Path | None = None, **about: Any) -> str:
    """Write a state: nested mappings, lists and tuples of tensors, numbers, texts and None.

    Returns its checksum.

    A tensor that occurs twice in the state is written once; a `Near` is written as its residual, if that is
    smaller. `aside` is where the file of before goes.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps({"state": _encode(state, "", tensors, {}), "about": about})
    # One entry only: of several, safetensors chooses the order, and equal states should give equal files.
    checksum = _checksum(tree, tensors)
    told = {"format": _format(tree), "checksum": checksum, "tree": tree}
    header = {HEADER: json.dumps(told)}
    write_whole(path, lambda file: save_file(tensors, file, metadata=header), aside)
    return checksum


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state and what was told about it. Raises SlotkitError for a file that is not a whole checkpoint."""
    state, about, _ = read(path)
    return state, about


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """`load`, and the checksum."""
    with _naming(path):
        tree, tensors, checksum = _read(path)
        state = _decode(tree["state"], tensors)
        if not isinstance(state, dict):
            raise ValueError("its state is not a table")
        return state, tree["about"], checksum


def told(path: Path) -> tuple[dict[str, Any], str]:
    """What a whole checkpoint says of itself, and its checksum: its state is not decoded."""
    with _naming(path):
        tree, _, checksum = _read(path)
        about: dict[str, Any] = tree["about"]
        return about, checksum


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    if not path.exists():
        raise SlotkitError(
            f"There is no checkpoint {path}. The run has not come that far, or it was deleted."
        )
    with naming(path, "Use another one, or train again.", "is not a whole slotkit checkpoint"):
        yield


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """The tree, the entries of the file and the checksum, which is right."""
    with safe_open(path, framework="pt") as file:
        header = Header.model_validate_json((file.metadata() or {})[HEADER])
        if header.format not in FORMATS:
            raise ValueError(f"it is of format {header.format} and this slotkit reads {PLAIN} to {TUPLES}")
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if _checksum(header.tree, tensors) != header.checksum:
        raise ValueError("its checksum is wrong")
    tree: dict[str, Any] = json.loads(header.tree)
    About.model_validate(tree["about"])
    return tree, tensors, header.checksum


def _format(tree: str) -> int:
    """The oldest that has all of it, so that older slotkits read what they can."""
    if f'"{TUPLE}"' in tree:
        return TUPLES
    return CODED if f'"{RESIDUAL}"' in tree else PLAIN


def _encode(value: Any, path: str, tensors: dict[str, Tensor], known: dict[Any, dict[str, Any]]) -> Any:
    """`value` as JSON, its tensors put into `tensors` under their path."""
    if isinstance(value, Tensor | Near):
        tensor = value.tensor if isinstance(value, Near) else value
        memory = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        mark = known.get(memory) if tensor.numel() else None
        if mark is None:
            mark = known[memory] = _encode_one(value, path, tensors)
        return mark
    if isinstance(value, Mapping):
        encoded = {
            key: _encode(entry, f"{path}/{key}" if path else str(key), tensors, known)
            for key, entry in value.items()
        }
        return encoded if all(isinstance(key, str) for key in encoded) else {PAIRS: list(encoded.items())}
    if isinstance(value, list | tuple):
        entries = [_encode(entry, f"{path}/{i}", tensors, known) for i, entry in enumerate(value)]
        return {TUPLE: entries} if isinstance(value, tuple) else entries
    return value


def _encode_one(value: Tensor | Near, path: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    coded = encode(value, path) if isinstance(value, Near) else None
    if coded is not None:
        told, entries = coded
        tensors.update(entries)
        return {RESIDUAL: told}
    tensor = value.tensor if isinstance(value, Near) else value
    tensors[path] = tensor.detach().contiguous().cpu()
    return {TENSOR: path}


def _decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The opposite of `_encode`."""
    if isinstance(tree, list):
        return [_decode(entry, tensors) for entry in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        mark, value = next(iter(tree.items()))
        if mark in MARKED:
            return MARKED[mark](value, tensors)
    return {key: _decode(entry, tensors) for key, entry in tree.items()}


def _decode_pairs(value: Any, tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    pairs = [(key, _decode(entry, tensors)) for key, entry in value]
    if not all(isinstance(key, str | int) for key, _ in pairs):
        raise ValueError("a key in it is neither a text nor a number")
    return dict(pairs)


MARKED: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    TENSOR: lambda name, tensors: tensors[name],
    RESIDUAL: decode,
    PAIRS: _decode_pairs,
    TUPLE: lambda value, tensors: tuple(_decode(entry, tensors) for entry in value),
}


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """BLAKE2b of the description and of all tensors' bytes, by name."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(octets(tensors[name]))
    return digest.hexdigest()


def octets(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, row-major."""
    flat = tensor.detach().reshape(-1)
    # A tensor of one number may have any stride, and torch then refuses a view of it as bytes.
    return memoryview(flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy())  # type: ignore[arg-type]
