"""Checkpoints: one safetensors file each, with a JSON description in its header.

One file, because two can't be replaced at once. Nothing in it can execute anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from slotkit.errors import SlotkitError
from slotkit.runs.files import write_whole

HEADER = "slotkit"


def save(path: Path, state: Mapping[str, Any], **about: Any) -> None:
    """Write a state: its tables of tensors as "table/name" entries, all else and `about` as JSON."""
    tensors = {
        f"{table}/{name}": tensor.detach().contiguous().cpu()
        for table, entries in state.items()
        if _is_tensor_table(table, entries)
        for name, tensor in entries.items()
    }
    plain = {key: value for key, value in state.items() if not _is_tensor_table(key, value)}
    header = {HEADER: json.dumps({"plain": plain, "about": about})}
    write_whole(path, lambda file: save_file(tensors, file, metadata=header))


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state and what was told about it. Raises SlotkitError for a file that is not a whole checkpoint."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        state: dict[str, Any] = {table: {} for table in TABLES} | header["plain"]
        about: dict[str, Any] = header["about"]
    except FileNotFoundError:
        raise SlotkitError(
            f"There is no checkpoint {path}. The run has not finished an epoch, or it was deleted."
        ) from None
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as fault:
        raise SlotkitError(
            f"{path} is not a whole slotkit checkpoint: {fault}. Use another one, or train again."
        ) from fault
    for key, tensor in tensors.items():
        table, _, name = key.partition("/")
        state.setdefault(table, {})[name] = tensor
    return state, about


TABLES = ("scores", "held", "latent", "velocity", "lower", "upper", "others", "weights")


def _is_tensor_table(key: str, value: Any) -> bool:
    return (
        key in TABLES
        and isinstance(value, Mapping)
        and all(isinstance(v, torch.Tensor) for v in value.values())
    )
