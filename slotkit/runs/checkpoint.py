"""Checkpoints: one safetensors file each, with a JSON description and a checksum in its header.

One file, because two can't be replaced at once. Nothing in it can execute anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.files import write_whole

HEADER = "slotkit"
FORMAT = 1

# Marks in the JSON: one stands for a tensor and names its entry in the file, one for a mapping whose keys
# are not strings.
TENSOR, PAIRS = "$tensor", "$pairs"


def save(path: Path, state: Mapping[str, Any], **about: Any) -> None:
    """Write a state: nested mappings and lists of tensors, numbers, texts and None.

    A tensor that occurs twice in the state is written once.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps({"state": _encode(state, "", tensors, {}), "about": about})
    # One entry only: of several, safetensors chooses the order, and equal states should give equal files.
    about_file = {"format": FORMAT, "checksum": _checksum(tree, tensors), "tree": tree}
    header = {HEADER: json.dumps(about_file)}
    write_whole(path, lambda file: save_file(tensors, file, metadata=header))


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state, and the `about` of its `save`. Raises SlotkitError if the file isn't a whole one."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            if header.get("format") != FORMAT:
                raise ValueError(f"it is of format {header.get('format')} and this slotkit reads {FORMAT}")
            text = header["tree"]
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if _checksum(text, tensors) != header["checksum"]:
            raise ValueError("its checksum is wrong")
        tree = json.loads(text)
        state: dict[str, Any] = _decode(tree["state"], tensors)
        about: dict[str, Any] = tree["about"]
    except FileNotFoundError:
        raise SlotkitError(
            f"There is no checkpoint {path}. The run has not come that far, or it was deleted."
        ) from None
    except (SafetensorError, OSError, KeyError, ValueError) as fault:
        raise SlotkitError(
            f"{path} is not a whole slotkit checkpoint: {fault}. Use another one, or train again."
        ) from fault
    return state, about


def _encode(value: Any, path: str, tensors: dict[str, Tensor], known: dict[Any, str]) -> Any:
    """`value` as JSON, its tensors put into `tensors` under their path."""
    if isinstance(value, Tensor):
        memory = (value.data_ptr(), value.dtype, value.shape, value.stride())
        entry = known.get(memory) if value.numel() else None
        if entry is None:
            entry = known[memory] = path
            tensors[entry] = value.detach().contiguous().cpu()
        return {TENSOR: entry}
    if isinstance(value, Mapping):
        encoded = {
            key: _encode(entry, f"{path}/{key}" if path else str(key), tensors, known)
            for key, entry in value.items()
        }
        return encoded if all(isinstance(key, str) for key in encoded) else {PAIRS: list(encoded.items())}
    if isinstance(value, list | tuple):
        return [_encode(entry, f"{path}/{i}", tensors, known) for i, entry in enumerate(value)]
    return value


def _decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The opposite of `_encode`."""
    if isinstance(tree, list):
        return [_decode(entry, tensors) for entry in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.keys() == {TENSOR}:
        return tensors[tree[TENSOR]]
    if tree.keys() == {PAIRS}:
        return {key: _decode(entry, tensors) for key, entry in tree[PAIRS]}
    return {key: _decode(entry, tensors) for key, entry in tree.items()}


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """BLAKE2b of the description and of all tensors' bytes, by name."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        flat = tensors[name].reshape(-1)
        # A tensor of one number may have any stride, and torch then refuses a view of it as bytes.
        octets = flat.as_strided(flat.shape, (1,)).view(torch.uint8)
        digest.update(memoryview(octets.numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()
