"""One chunk of a trace: its bytes, and the checks that a file has to pass before a column of it is used.

First what the file says of itself (names, types, shapes), then those sizes against each other and against
about.json, then the numbers. Nothing is decompressed that is larger than its sizes say.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

Columns = dict[str, Any]

# A chunk of the recorder has 1,000 steps; traces that were put together by hand have more.
LARGEST_STEPS = 1_000_000
LARGEST_BYTES = 8 << 30

# Column -> its types and its shape, of n steps, t tensors, m measurements, q levels and e flips.
KINDS = {
    "lr": ("f8", "n"),
    "changed": ("i4", "nt"),
    "greedy_changed": ("i4", "nt"),
    "measured": ("i8", "m"),
    "c": ("f8", "mt"),
    **dict.fromkeys(("margin", "speed", "steps_to_flip", "entropy", "top"), ("f4", "mtq")),
    **dict.fromkeys(("mean_entropy", "decided", "drift"), ("f4", "mt")),
    "connection": ("u4", "e"),
    "option": ("u1 u2 u4", "e"),
}
FLIPS = {"connection", "option"}
# What a trace with the greedy reading of a PS run has beyond one without: in every chunk, and measured.
READING = {"greedy_changed"}
MEASURED_READING = {"margin", "speed", "steps_to_flip", "entropy", "top", "mean_entropy", "decided", "drift"}


def flips_by_step(columns: Columns) -> Any:
    """How many connections flipped, int32 (n, t): under PS in the greedy reading, if the trace has it."""
    return columns.get("greedy_changed", columns["changed"])


def names_flips(about: Mapping[str, Any]) -> bool:
    """Whether a trace names every flip. Under PS those of the greedy reading, which traces of before lack."""
    return bool(about["level"] == "full" and (about["selection"] == "greedy" or about.get("reading")))


def pack(columns: Columns) -> bytes:
    """The file of a chunk."""
    buffer = BytesIO()
    np.savez_compressed(buffer, **columns)
    return buffer.getvalue()


def unpack(file: Path | BytesIO, first: int, about: Mapping[str, Any]) -> Columns:
    """The columns of a chunk whose first step is `first`. Raises anything if it is not whole."""
    with zipfile.ZipFile(file) as archive:
        shapes = _shapes(archive)
        sizes = {"t": len(about["tensors"]), "q": len(about["levels"])}
        _check_shapes(shapes, sizes)
        columns: Columns = {}
        for name in sorted(shapes, key=list(KINDS).index):
            counted = int(flips_by_step(columns).sum(dtype=np.int64)) if name in FLIPS else 0
            if name in FLIPS and shapes[name] != (counted,):
                raise ValueError(f"it counts {counted} flips and holds {shapes[name][0]}")
            with archive.open(f"{name}.npy") as member:
                columns[name] = np.lib.format.read_array(member, allow_pickle=False)
            if name in ("changed", "greedy_changed"):
                _check_counts(name, columns[name], about)
    _check_numbers(columns, first, about)
    return columns


def _shapes(archive: zipfile.ZipFile) -> dict[str, tuple[int, ...]]:
    """Column -> shape, from the headers alone."""
    found: dict[str, tuple[int, ...]] = {}
    total = 0
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name not in KINDS or name in found or member.filename == name:
            raise ValueError(f"it has {member.filename[:60]!r}, which no trace has, or has twice")
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"{name} is of version {version} of numpy's format")
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
            length = file.tell()
        if by_columns or dtype.str[1:] not in KINDS[name][0].split() or dtype.str[0] == ">":
            raise ValueError(f"{name} is of the type {dtype}")
        size = math.prod(shape) * dtype.itemsize
        total += size
        if member.file_size != length + size or total > LARGEST_BYTES:
            raise ValueError(f"{name} has {member.file_size} bytes, and its shape {shape} needs others")
        found[name] = shape
    return found


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], sizes: dict[str, int]) -> None:
    """Sizes of one letter are one number."""
    missing = {"lr", "changed"} - shapes.keys()
    if missing or len(FLIPS & shapes.keys()) == 1 or ("measured" in shapes) != ("c" in shapes):
        raise ValueError("it lacks columns")
    for name in sorted(shapes, key=list(KINDS).index):
        letters = KINDS[name][1]
        expected = tuple(sizes.setdefault(*pair) for pair in zip(letters, shapes[name], strict=False))
        if len(shapes[name]) != len(letters) or shapes[name] != expected:
            raise ValueError(f"{name} has the shape {shapes[name]}, which fits not the others or about.json")
    if not 1 <= sizes["n"] <= LARGEST_STEPS:
        raise ValueError(f"it has {sizes['n']} steps")


def _sizes(about: Mapping[str, Any]) -> list[int]:
    """Connections of each tensor."""
    return [math.prod(tensor["shape"]) for tensor in about["tensors"].values()]


def followed(about: Mapping[str, Any]) -> list[int]:
    """Connections of each tensor whose flips are counted: in a PS summary those of a sample."""
    sizes = _sizes(about)
    return sizes if about.get("sample") is None else [min(size, about["sample"]) for size in sizes]


def _check_counts(name: str, changed: Any, about: Mapping[str, Any]) -> None:
    sizes = followed(about) if name == "greedy_changed" else _sizes(about)
    connections = np.array(sizes, object)
    if (changed < 0).any() or (changed > connections).any():
        raise ValueError(f"{name} counts fewer than none or more than all connections of a tensor")


def _check_numbers(columns: Columns, first: int, about: Mapping[str, Any]) -> None:
    if not np.isfinite(columns["lr"]).all():
        raise ValueError("a learning rate is not finite")
    _check_reading(columns, about)
    if names_flips(about):
        if "connection" not in columns and flips_by_step(columns).any():
            raise ValueError(f"it counts {flips_by_step(columns).sum()} flips and holds 0")
    elif "connection" in columns:
        raise ValueError("it has flips, and about.json says that there are none")
    measured = columns.get("measured", np.zeros(0, np.int64))
    last = first + len(columns["lr"]) - 1
    if (np.diff(measured) <= 0).any() or (measured < first).any() or (measured > last).any():
        raise ValueError(f"it measures at other steps than {first} to {last}, in rising order")
    if "connection" in columns:
        _check_flips(columns, about)


def _check_reading(columns: Columns, about: Mapping[str, Any]) -> None:
    """What belongs to the greedy reading of a PS run is there, or not, as about.json says."""
    own = READING | (MEASURED_READING if "measured" in columns else set())
    if about.get("reading") is not None:
        if missing := sorted(own - columns.keys()):
            raise ValueError(f"it lacks {', '.join(missing)} of the greedy reading")
    elif extra := sorted(columns.keys() & {*READING, "mean_entropy", "decided", "drift"}):
        raise ValueError(f"it has {', '.join(extra)}, and about.json knows of no greedy reading")
    # A number that is none is left out: where scores overflowed there is no probability.
    highest = {"mean_entropy": math.log(about["k"]) + 1e-3, "decided": 1.0, "drift": 2.0 + 1e-3}
    for name in highest.keys() & columns.keys():
        if (columns[name] < 0).any() or (columns[name] > highest[name]).any():
            raise ValueError(f"{name} has a number outside of 0 to {highest[name]:.4g}")


def _check_flips(columns: Columns, about: Mapping[str, Any]) -> None:
    """Connections rise within a step and tensor and are some of the tensor's; options are 0 to K - 1."""
    changed = flips_by_step(columns)
    _, tensors = np.nonzero(changed)
    counts = changed[changed > 0].astype(np.int64)
    rises = columns["connection"].astype(np.int64)
    starts = np.cumsum(counts) - counts
    total = np.cumsum(rises)
    connections = total - np.repeat(total[starts] - rises[starts], counts)
    sizes = np.array(_sizes(about), np.int64)
    inner = np.ones(len(rises), bool)
    inner[starts] = False
    if (rises[inner] < 1).any() or (connections >= np.repeat(sizes[tensors], counts)).any():
        raise ValueError("it has a flip of a connection that is not there, or flips one twice in a step")
    if (columns["option"] >= about["k"]).any():
        raise ValueError(f"it has a flip to an option that is not one of {about['k']}")
