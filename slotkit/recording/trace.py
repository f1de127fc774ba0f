"""The flight recorder's files: what happened at every step, in compressed columns.

A trace is a folder: `about.json`, and chunks of CHUNK steps, `steps-00000001.npz` and so on, named by
their first step. about.json has

    format, levels              of this file, and LEVELS as they were
    run                         whose trace it is, a text that nobody else's trace has
    level, every                "summary" or "full", and the steps between two measurements
    selection, k                how options are selected, and how many there are
    reels                       `ReelSettings.to_dict`: with a tensor's name and shape, its options and scores
    tensors                     name -> shape and channel_dim, in the order of the columns

and with the chunks it is all that a replay needs. Columns of a chunk (n steps, t tensors, m measurements,
q = len(LEVELS), e flips):

    lr           float64 (n,)
    changed      int32 (n, t)       connections that took another option
    measured     int64 (m,)         the steps of the measurements
    c            float64 (m, t)     and, of a sample of SAMPLE connections of each tensor:
    margin       float32 (m, t, q)  GS: distance of u = A / |c| to its next threshold, at LEVELS
    speed        float32 (m, t, q)  GS: change of u in that step
    steps_to_flip  float32 (m, t, q)  GS: distance to the threshold that u is going to, over speed
    entropy, top float32 (m, t, q)  PS: entropy (nats) and highest probability of a reel
    connection   uint32 (e,)        trace "full" under GS: the flips, step by step and tensor by tensor,
    option       uint8/16/32 (e,)   connections as differences within a step and tensor
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slotkit.errors import SlotkitError
from slotkit.files import write_whole

CHUNK = 1000
SAMPLE = 4096
LEVELS = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)

FORMAT = 1

Columns = dict[str, Any]

# The run of a trace whose description can't be read.
UNKNOWN = "unknown"


def chunk_name(first_step: int) -> str:
    return f"steps-{first_step:08d}.npz"


def option_type(k: int) -> Any:
    """The smallest unsigned integer that holds an option's index."""
    return np.min_scalar_type(k - 1)


class Trace:
    """A trace on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_about(self, about: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, "levels": LEVELS, **about}, indent=2) + "\n"
        write_whole(self.folder / "about.json", lambda path: _write_text(path, text))

    def about(self) -> dict[str, Any]:
        """What about.json has (see above). Raises SlotkitError if there is no trace."""
        path = self.folder / "about.json"
        try:
            about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SlotkitError(
                f"There is no trace in {self.folder.parent}. Train with --trace summary or full."
            ) from None
        except (OSError, ValueError) as fault:
            raise SlotkitError(
                f"{path} can't be read: {fault}. The trace is of no use without it."
            ) from fault
        if about.get("format") != FORMAT:
            raise SlotkitError(
                f"{path} is of trace format {about.get('format')}, and this slotkit reads {FORMAT}. "
                "Update slotkit."
            )
        return about

    def run(self) -> str | None:
        """The text that names its run, without reading a chunk: None if nothing is recorded, "" without one.

        UNKNOWN if about.json is missing or damaged, which a resumed run writes anew.
        """
        if not self._chunks():
            return None
        try:
            return str(json.loads((self.folder / "about.json").read_text(encoding="utf-8")).get("run", ""))
        except (OSError, ValueError):
            return UNKNOWN

    def write_chunk(self, first_step: int, columns: Columns) -> None:
        write_whole(self.folder / chunk_name(first_step), lambda path: _write_columns(path, columns))

    def read_chunk(self, first_step: int) -> Columns:
        """The columns of one chunk, none if it isn't there. Raises SlotkitError if it is damaged."""
        path = self.folder / chunk_name(first_step)
        return _read_columns(path) if path.is_file() else {}

    def forget_after(self, step: int) -> None:
        """Delete the chunks that begin after `step`."""
        for first, path in self._chunks():
            if first > step:
                path.unlink()

    def last_step(self) -> int:
        """The last step that is recorded, 0 if none is. Raises SlotkitError if its chunk is damaged."""
        found = self._chunks()
        return found[-1][0] + len(_read_columns(found[-1][1])["lr"]) - 1 if found else 0

    def chunks(self, until: int | None = None) -> Iterator[tuple[int, Columns]]:
        """(first step, columns) in order. Raises SlotkitError where one is damaged or missing."""
        expected = 1
        for first, path in self._chunks():
            if until is not None and first > until:
                return
            if first != expected:
                raise SlotkitError(
                    f"The trace in {self.folder} lacks steps {expected} to {first - 1}: "
                    f"{chunk_name(expected)} is missing. Put the file back, or train again."
                )
            columns = _read_columns(path)
            expected = first + len(columns["lr"])
            yield first, columns

    def _chunks(self) -> list[tuple[int, Path]]:
        found = sorted(self.folder.glob("steps-*.npz"))
        return [(int(path.stem.removeprefix("steps-")), path) for path in found]


def flips(columns: Columns) -> Iterator[tuple[int, int, Any, Any]]:
    """The flips of a chunk: (step within it, tensor, connections, options), where there are any."""
    at = 0
    for step, tensor in zip(*np.nonzero(columns["changed"]), strict=True):
        count = int(columns["changed"][step, tensor])
        connections = np.cumsum(columns["connection"][at : at + count], dtype=np.int64)
        yield int(step), int(tensor), connections, columns["option"][at : at + count]
        at += count


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_columns(path: Path, columns: Columns) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **columns)


def _read_columns(path: Path) -> Columns:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        if not {"lr", "changed"} <= columns.keys():
            raise ValueError("it lacks columns")
        return columns
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as fault:
        raise SlotkitError(
            f"{path} is not a whole chunk of a trace: {fault}. Put the file back, or train again."
        ) from fault
