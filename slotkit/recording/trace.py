"""The flight recorder's files: what happened at every step, in compressed columns.

A trace is a folder: `about.json`, and chunks of CHUNK steps, `steps-00000001.npz` and so on, named by
their first step. about.json has

    format, levels              of this file, and LEVELS as they were
    run                         whose trace it is, a text that nobody else's trace has
    level, every                "summary" or "full", and the steps between two measurements
    selection, k                how options are selected, and how many there are
    reading                     under PS "greedy": whose flips and thresholds they are; old traces lack it
    sample                      with a reading: of how many connections of a tensor its flips are counted, at
                                most; null in a full trace, which has all
    start                       if the scores were not the initial ones when it began: the digest of
                                start.safetensors, which has the options in use then (tensor -> int32 (n,))
    form, update                "dense", and which scores get a gradient; the latent form's lack them
    reels                       `ReelSettings.to_dict`: with a tensor's name and shape, its options and scores
    tensors                     name -> shape and channel_dim, in the order of the columns

and with the chunks it is all that a replay needs. Columns of a chunk (n steps, t tensors, m measurements,
q = len(LEVELS), e flips):

    lr           float64 (n,)
    changed      int32 (n, t)       connections that took another option, under PS in the step's draw
    greedy_changed  int32 (n, t)    PS: connections whose option of the highest score became another one; in a
                                    summary of those of the sample only
    measured     int64 (m,)         the steps of the measurements
    c            float64 (m, t)     and, of a sample of SAMPLE connections of each tensor:
    margin       float32 (m, t, q)  distance of u = A / |c| to its next threshold, at LEVELS
    speed        float32 (m, t, q)  change of u in that step
    steps_to_flip  float32 (m, t, q)  distance to the threshold that u is going to, over speed
    entropy, top float32 (m, t, q)  PS: entropy (nats) and highest probability of a reel
    mean_entropy float32 (m, t)     PS: mean entropy (nats)
    decided      float32 (m, t)     PS: share of decided reels: the likeliest option has DECIDED or more
    drift        float32 (m, t)     PS: mean |change| of the expected weight since the measurement before, or
                                    the start, over the bound of the tensor's options
    connection   uint32 (e,)        trace "full": the flips, step by step and tensor by tensor, connections as
    option       uint8/16/32 (e,)   differences within a step and tensor

In the dense form the margin is the gap between the highest score and the next one, speed is the change of
that gap, and steps_to_flip is when the first of the other scores reaches the highest if all go on as in that
step; c is not a number, because other optimizers than SGD leave no line.

Under PS margin, speed, steps_to_flip, connection and option are of the greedy reading, which has every
connection's option of the highest score.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.files import make_folder, remove, write_bytes, write_text
from slotkit.recording.chunks import Columns, flips_by_step, pack, unpack
from slotkit.runs.schema import TraceAbout, naming, read_json

CHUNK = 1000
SAMPLE = 4096
LEVELS = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)

# A reel is decided if its likeliest option has this probability, or more.
DECIDED = 0.99

# Format 2 has the greedy reading of a PS run, format 3 is of the dense form; others are of format 1.
FORMATS = (1, 2, 3)

START = "start.safetensors"
CHUNK_NAME = re.compile(r"steps-\d{8,12}\.npz")

# The run of a trace whose description can't be read.
UNKNOWN = "unknown"


def chunk_name(first_step: int) -> str:
    """The file of the chunk that begins with this step."""
    return f"steps-{first_step:08d}.npz"


def option_type(k: int) -> Any:
    """The smallest unsigned integer that holds an option's index."""
    return np.min_scalar_type(k - 1)


class Trace:
    """A trace on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_about(self, about: Mapping[str, Any]) -> None:
        """Write about.json: the format, and what the trace is of."""
        make_folder(self.folder)
        kind = 3 if "form" in about else 2 if "reading" in about else 1
        told = {"format": kind, "levels": LEVELS, **about}
        text = json.dumps(told, indent=2) + "\n"
        write_text(self.folder / "about.json", text)

    def about(self) -> dict[str, Any]:
        """What about.json has (see above). Raises SlotkitError if there is no trace."""
        path = self.folder / "about.json"
        if not path.exists():
            raise SlotkitError(
                f"There is no trace in {self.folder.parent}. Train with --trace summary or full."
            )
        with naming(path, "The trace is of no use without it."):
            about: dict[str, Any] = read_json(path)
            if not isinstance(about, dict) or type(about.get("format")) is not int:
                raise ValueError("it doesn't say of which format it is")
            if about["format"] not in FORMATS:
                raise SlotkitError(
                    f"{path} is of trace format {about['format']}, and this slotkit reads "
                    f"{', '.join(map(str, FORMATS))}. Update slotkit."
                )
            TraceAbout.model_validate(about)
            return about

    def run(self) -> str | None:
        """The text that names its run, without reading a chunk: None if nothing is recorded, "" without one.

        UNKNOWN if about.json is missing or damaged, which a resumed run writes anew.
        """
        if not self._chunks():
            return None
        try:
            return str(self.about().get("run", ""))
        except SlotkitError:
            return UNKNOWN

    def write_chunk(self, first_step: int, columns: Columns) -> tuple[int, str]:
        """Returns length and digest of the file, for `check_written`."""
        data = pack(columns)
        write_bytes(self.folder / chunk_name(first_step), data)
        return len(data), _digest(data)

    def write_start(self, options: Mapping[str, Tensor]) -> str:
        """The options in use when the recording began. Returns the digest of the file, for about.json."""
        make_folder(self.folder)
        data = save({name: index.cpu().to(torch.int32) for name, index in options.items()})
        write_bytes(self.folder / START, data)
        return _digest(data)

    def start(self) -> dict[str, Tensor]:
        """The options in use when the recording began, int64 (n,) by tensor; empty if they were those of the
        highest initial scores. Raises SlotkitError if the file is missing or damaged.
        """
        about, path = self.about(), self.folder / START
        if about.get("start") is None:
            return {}
        with naming(path, "Put the file back, or record again."):
            data = path.read_bytes()
            if _digest(data) != about["start"]:
                raise ValueError("it is not the file that was written")
            found = {name: index.long() for name, index in load(data).items()}
            sizes = {name: math.prod(tensor["shape"]) for name, tensor in about["tensors"].items()}
            if {name: index.numel() for name, index in found.items()} != sizes:
                raise ValueError("it has other tensors than about.json")
            if any(index.min() < 0 or index.max() >= about["k"] for index in found.values()):
                raise ValueError(f"it has an option that is not one of {about['k']}")
            return found

    def check_written(self, written: Sequence[Sequence[Any]] | None, first: int) -> None:
        """Hold the chunks that begin before step `first` to what was written: each as (step, length, digest).

        None of a trace of before, which doesn't say: its chunks are read.

        Raises SlotkitError if one is missing, or another file.
        """
        if written is None:
            missing = first - 1 - sum(len(columns["lr"]) for _, columns in self.chunks(until=first - 1))
            if missing > 0:
                raise SlotkitError(f"The trace in {self.folder} lacks {missing} steps before step {first}.")
            return
        for step, length, digest in written:
            path = self.folder / chunk_name(step)
            data = path.read_bytes() if path.is_file() else b""
            if len(data) != length or _digest(data) != digest:
                raise SlotkitError(
                    f"{path} is missing or is not the file that was written, and the trace would lack it. "
                    "Put it back, or train again."
                )

    def read_chunk(self, first_step: int) -> Columns:
        """The columns of one chunk, none if it isn't there. Raises SlotkitError if it is damaged."""
        path = self.folder / chunk_name(first_step)
        return _read_columns(path, first_step, self.about()) if path.is_file() else {}

    def forget_after(self, step: int) -> None:
        """Delete the chunks that begin after `step`."""
        for first, path in self._chunks():
            if first > step:
                remove(path)

    def last_step(self) -> int:
        """The last step that is recorded, 0 if none is. Raises SlotkitError if its chunk is damaged."""
        found = self._chunks()
        if not found:
            return 0
        first, path = found[-1]
        return first + len(_read_columns(path, first, self.about())["lr"]) - 1

    def chunks(self, until: int | None = None) -> Iterator[tuple[int, Columns]]:
        """(first step, columns) in order. Raises SlotkitError where one is damaged or missing."""
        expected, about = 1, self.about()
        for first, path in self._chunks():
            if until is not None and first > until:
                return
            if first != expected:
                raise SlotkitError(
                    f"The trace in {self.folder} lacks steps {expected} to {first - 1}: "
                    f"{chunk_name(expected)} is missing. Put the file back, or train again."
                )
            columns = _read_columns(path, first, about)
            expected = first + len(columns["lr"])
            yield first, columns

    def _chunks(self) -> list[tuple[int, Path]]:
        found = [path for path in self.folder.glob("steps-*.npz") if CHUNK_NAME.fullmatch(path.name)]
        return sorted((int(path.stem.removeprefix("steps-")), path) for path in found)


def flips(columns: Columns) -> Iterator[tuple[int, int, Any, Any]]:
    """The flips of a chunk: (step within it, tensor, connections, options), where there are any."""
    at, counts = 0, flips_by_step(columns)
    for step, tensor in zip(*np.nonzero(counts), strict=True):
        count = int(counts[step, tensor])
        connections = np.cumsum(columns["connection"][at : at + count], dtype=np.int64)
        yield int(step), int(tensor), connections, columns["option"][at : at + count]
        at += count


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _read_columns(path: Path, first: int, about: Mapping[str, Any]) -> Columns:
    with naming(path, "Put the file back, or train again.", "is not a whole chunk of a trace"):
        return unpack(path, first, about)
