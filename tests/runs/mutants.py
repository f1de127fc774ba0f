"""Damaged and forged files of a run, the same for the same seed."""

from __future__ import annotations

import json
import random
import tomllib
import warnings
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import tomli_w
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from slotfile.hostile import DEEP, NASTY, _change, _places  # type: ignore[import-not-found]

from slotkit.runs import checkpoint
from slotkit.sweeps.plan import key_of

Mutation = Callable[[bytes, random.Random], bytes]


def mutants(kind: str, whole: bytes, number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(what was done, the file), each another file than the whole one."""
    chance = random.Random(seed)
    hows = [*BYTES, *FORGERIES[kind] * 3]
    for _ in range(number):
        how = chance.choice(hows)
        data = how(whole, chance)
        while data == whole:
            data = _spliced(whole, chance)
        yield how.__name__[1:], data


def _flipped(whole: bytes, chance: random.Random) -> bytes:
    changed = bytearray(whole)
    for _ in range(chance.choice([1, 1, 1, 5, 40])):
        changed[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(whole: bytes, chance: random.Random) -> bytes:
    return whole[: chance.choice([0, 1, len(whole) - 1, chance.randrange(len(whole))])]


def _spliced(whole: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(whole))
    new = chance.choice(
        [chance.randbytes(chance.randrange(1, 40)), b"\0" * chance.randrange(1, 2000), b"\xff\xfe"]
    )
    return whole[:start] + new + whole[start + chance.randrange(40) :]


def _zeroed(whole: bytes, chance: random.Random) -> bytes:
    """As some file systems leave a file after a power cut."""
    start = chance.randrange(len(whole))
    return whole[:start] + b"\0" * (len(whole) - start)


def _other(whole: bytes, chance: random.Random) -> bytes:
    del whole
    return chance.choice(
        [b"", b"\n", b"{}", b"[]", b"null", b"1e999", DEEP.encode(), b"\x80", b"PK\x03\x04", b'"a"']
    )


BYTES: list[Mutation] = [_flipped, _cut, _spliced, _zeroed, _other]


def _tree(tree: Any, chance: random.Random) -> Any:
    """Some values of a nested structure changed, taken away or doubled."""
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        places = list(_places(tree))
        if places:
            holder, key = chance.choice(places)
            _change(holder, key, chance)
    return tree


def _json(whole: bytes, chance: random.Random) -> bytes:
    return json.dumps(_tree(json.loads(whole), chance)).encode("utf-8", "surrogatepass")


def _json_line(whole: bytes, chance: random.Random) -> bytes:
    lines = whole.splitlines()
    number = chance.randrange(len(lines))
    how = chance.randrange(4)
    if how == 0:
        lines[number] = _json(lines[number], chance)
    elif how == 1:
        del lines[number]
    elif how == 2:
        lines.insert(number, chance.choice(lines))
    else:
        lines[number] = json.dumps(chance.choice(NASTY)).encode()
    return b"".join(line + b"\n" for line in lines)


def _toml(whole: bytes, chance: random.Random) -> bytes:
    tables = _tree(tomllib.loads(whole.decode()), chance)
    try:
        return tomli_w.dumps(tables).encode()
    except (TypeError, ValueError, RecursionError):
        return _spliced(whole, chance)


def _signed(tree: str, tensors: dict[str, torch.Tensor]) -> bytes:
    header = {
        "format": 1 + ("$residual" in tree),
        "checksum": checkpoint._checksum(tree, tensors),
        "tree": tree,
    }
    return bytes(save_tensors(tensors, {checkpoint.HEADER: json.dumps(header)}))


def _parts(whole: bytes) -> tuple[Any, dict[str, torch.Tensor]]:
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(json.loads(whole[8 : 8 + length])["__metadata__"][checkpoint.HEADER])
    return json.loads(header["tree"]), load_tensors(whole)


def _checkpoint_tree(whole: bytes, chance: random.Random) -> bytes:
    tree, tensors = _parts(whole)
    try:
        return _signed(json.dumps(_tree(tree, chance)), tensors)
    except UnicodeEncodeError:
        return _cut(whole, chance)


def _checkpoint_tensor(whole: bytes, chance: random.Random) -> bytes:
    tree, tensors = _parts(whole)
    name = chance.choice(sorted(tensors))
    tensor = tensors[name]
    changed: list[Callable[[], torch.Tensor]] = [
        tensor.double,
        lambda: tensor.to(torch.int64),
        tensor.reshape(-1)[: tensor.numel() // 2].clone,
        lambda: torch.cat([tensor.reshape(-1)] * 2),
        lambda: tensor.reshape(1, *tensor.shape),
        lambda: torch.zeros(0),
        lambda: tensor != 0,
    ]
    tensors[name] = chance.choice(changed)()
    if chance.randrange(4) == 0:
        del tensors[chance.choice(sorted(tensors))]
    return _signed(json.dumps(tree), tensors)


def _checkpoint_residual(whole: bytes, chance: random.Random) -> bytes:
    """A coded tensor whose streams, lengths or slopes are others than were written."""
    tree, tensors = _parts(whole)
    name = chance.choice([name for name in sorted(tensors) if ":" in name])
    changed = tensors[name].reshape(-1).view(torch.uint8).clone()
    for _ in range(chance.choice([1, 3, 40])):
        changed[chance.randrange(len(changed))] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
    tensors[name] = changed.view(tensors[name].dtype)
    return _signed(json.dumps(tree), tensors)


def _columns(whole: bytes) -> dict[str, Any]:
    with np.load(BytesIO(whole)) as file:
        return {name: file[name] for name in file.files}


def _packed(columns: dict[str, Any]) -> bytes:
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.savez_compressed(buffer, **columns)
    return buffer.getvalue()


def _column(whole: bytes, chance: random.Random) -> bytes:
    columns = _columns(whole)
    name = chance.choice(sorted(columns))
    column = columns[name]
    changed: list[Callable[[], Any]] = [
        lambda: column[:-1],
        lambda: np.concatenate([column, column]),
        lambda: column.astype(np.float16),
        lambda: column.astype(object),
        lambda: column.astype("S8"),
        lambda: column.astype(column.dtype.newbyteorder(">")),
        lambda: column.reshape(-1),
        lambda: column[None],
        lambda: np.asfortranarray(np.broadcast_to(column, (2, *column.shape))),
        lambda: np.array(chance.choice([0, 1.5, "text"])),
        lambda: column[:0],
    ]
    columns[name] = chance.choice(changed)()
    return _packed(columns)


def _numbers(whole: bytes, chance: random.Random) -> bytes:
    """A number of a column is another: below nothing, beyond all, none at all."""
    columns = _columns(whole)
    name = chance.choice(sorted(name for name, column in columns.items() if column.size))
    column = columns[name].copy()
    nasty = [np.nan, np.inf, -1.0] if column.dtype.kind == "f" else [0, 1, 255, np.iinfo(column.dtype).max]
    nasty += [np.iinfo(column.dtype).min, -1] if column.dtype.kind == "i" else []
    for _ in range(chance.choice([1, 1, 3])):
        column.reshape(-1)[chance.randrange(column.size)] = np.array(chance.choice(nasty)).astype(
            column.dtype
        )
    columns[name] = column
    return _packed(columns)


def _members(whole: bytes, chance: random.Random) -> bytes:
    """A file less or more in the archive; a bomb of zeros under the name of a column."""
    columns = _columns(whole)
    how = chance.randrange(4)
    if how == 0:
        del columns[chance.choice(sorted(columns))]
    elif how == 1:
        columns[chance.choice(["more", "lr.npy", "__class__"])] = np.zeros(3)
    elif how == 2:
        columns[chance.choice(["lr", "measured", "c", "margin"])] = np.zeros(
            chance.choice([10**6, 4 * 10**6])
        )
    buffer = BytesIO(_packed(columns))
    if how == 3:
        with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
            warnings.simplefilter("ignore")
            archive.writestr(chance.choice(["lr.npy", "x.npy", "../lr.npy"]), b"\x93NUMPY\x01\x00")
    return buffer.getvalue()


# Names of a run's folder that can't be one, or hardly.
ODD_NAMES = ["lock", "sweep.json", "\u00e4" * 120, "x" * 250, " ", "a\nb", "..", "nul", "a" * 200]


def _manifest(whole: bytes, chance: random.Random) -> bytes:
    """A sweep.json in which every run has the key of its settings, whatever these are now."""
    told = _tree(json.loads(whole), chance)
    runs = told.get("runs")
    entries = [run for run in runs.values() if isinstance(run, dict)] if isinstance(runs, dict) else []
    keys = [key_of(entry["settings"]) for entry in entries if isinstance(entry.get("settings"), dict)]
    if not entries or len(keys) < len(entries):
        return json.dumps(told).encode()
    if chance.randrange(4) == 0:
        chance.choice(entries)["name"] = chance.choice(ODD_NAMES)
    if chance.randrange(4) == 0:
        nested: Any = []
        for _ in range(chance.choice([3, 100, 300, 900])):
            nested = [nested] if chance.randrange(2) else {"a": nested}
        chance.choice(entries)["varied"] = {"deep": nested}
    told["runs"] = dict(zip(keys, entries, strict=True))
    return json.dumps(told).encode()


FORGERIES: dict[str, list[Mutation]] = {
    "config": [_toml],
    "summary": [_json],
    "about": [_json],
    "metrics": [_json_line],
    "checkpoint": [_checkpoint_tree, _checkpoint_tensor],
    "coded": [_checkpoint_tree, _checkpoint_tensor, _checkpoint_residual],
    "chunk": [_column, _numbers, _members],
    "manifest": [_json, _manifest],
}
