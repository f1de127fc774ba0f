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
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.files import write_whole
from slotkit.runs.schema import About, Header, naming

HEADER = "slotkit"
FORMAT = 1

# Marks in the JSON: one stands for a tensor and names its entry in the file, one for a mapping whose keys
# are not strings.
TENSOR, PAIRS = "$tensor", "$pairs"


def save(path: Path, state: Mapping[str, Any], aside: Path | None = None, **about: Any) -> str:
    """Write a state: nested mappings and lists of tensors, numbers, texts and None. Returns its checksum.

    A tensor that occurs twice in the state is written once. `aside` is where the file of before goes.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps({"state": _encode(state, "", tensors, {}), "about": about})
    # One entry only: of several, safetensors chooses the order, and equal states should give equal files.
    checksum = _checksum(tree, tensors)
    header = {HEADER: json.dumps({"format": FORMAT, "checksum": checksum, "tree": tree})}
    write_whole(path, lambda file: save_file(tensors, file, metadata=header), aside)
    return checksum


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state and what was told about it. Raises SlotkitError for a file that is not a whole checkpoint."""
    state, about, _ = read(path)
    return state, about


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """`load`, and the checksum."""
    if not path.exists():
        raise SlotkitError(
            f"There is no checkpoint {path}. The run has not come that far, or it was deleted."
        )
    with naming(path, "Use another one, or train again.", "is not a whole slotkit checkpoint"):
        with safe_open(path, framework="pt") as file:
            header = Header.model_validate_json((file.metadata() or {})[HEADER])
            if header.format != FORMAT:
                raise ValueError(f"it is of format {header.format} and this slotkit reads {FORMAT}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if _checksum(header.tree, tensors) != header.checksum:
            raise ValueError("its checksum is wrong")
        tree = json.loads(header.tree)
        state, about = _decode(tree["state"], tensors), tree["about"]
        if not isinstance(state, dict):
            raise ValueError("its state is not a table")
        About.model_validate(about)
        return state, about, header.checksum


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
        pairs = [(key, _decode(entry, tensors)) for key, entry in tree[PAIRS]]
        if not all(isinstance(key, str | int) for key, _ in pairs):
            raise ValueError("a key in it is neither a text nor a number")
        return dict(pairs)
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
