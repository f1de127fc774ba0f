"""A reader of slot files written from docs/export.md and docs/reel-spec-1.md, in plain Python.

It imports nothing of slotkit and no entropy coder: if it reads what slotkit writes, the pages are right.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

from oracle import SpecReel

TWO_24, TWO_32 = 2**24, 2**32
FORMATS = {"F32": "f", "F64": "d", "I64": "q", "BOOL": "?"}


def read(data: bytes) -> dict[str, list[float]]:
    """Name -> the values of every tensor, row-major."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header.pop("__metadata__")["slotkit"])
    payloads = {name: data[8 + length :][slice(*entry["data_offsets"])] for name, entry in header.items()}
    state: dict[str, list[float]] = {}
    for record in about["reels"]:
        state[record["name"]] = _reel(about, record, payloads[f"indices/{record['name']}"])
    for name in about["stored"]:
        kind = FORMATS[header[f"tensors/{name}"]["dtype"]]
        state[name] = list(
            struct.unpack(
                f"<{len(payloads[f'tensors/{name}']) // struct.calcsize(kind)}{kind}",
                payloads[f"tensors/{name}"],
            )
        )
    return state


def _reel(about: dict[str, Any], record: dict[str, Any], payload: bytes) -> list[float]:
    reel = SpecReel(
        record["name"],
        tuple(record["shape"]),
        about["k"],
        about["seed"],
        {"authors": "glorot-uniform", "paper": "glorot-deviation"}[about["init"]],
        about["sharing"],
        about["symmetric"],
        record["channel_dim"],
    )
    n = math.prod(reel.shape)
    symbols = (
        unpack(payload, n, reel.k) if record["coding"] == "packed" else decode(payload, record["counts"])
    )
    values = []
    for connection, symbol in zip(itertools.product(*map(range, reel.shape)), symbols, strict=True):
        options = reel.options(connection)
        if "kind" in about:  # reel spec 3: 0, then the values of numbers 0 .. K - 2
            options = [0.0, *options[:-1]]
        if record["coding"] == "packed" or "kind" in about:
            values.append(options[symbol])
        elif symbol == reel.k:
            scores = reel.scores(connection)
            values.append(options[scores.index(max(scores))])
        else:
            values.append(sorted(options)[symbol])
    return values


def unpack(payload: bytes, n: int, k: int) -> list[int]:
    """Indices of ceil(log2 K) bits each, the lowest bit first."""
    bits = math.ceil(math.log2(k))
    number = int.from_bytes(payload, "little")
    return [number >> bits * i & 2**bits - 1 for i in range(n)]


def decode(payload: bytes, counts: Sequence[int]) -> list[int]:
    """rANS: a 64-bit state, 32-bit words taken from the end."""
    n, free = sum(counts), TWO_24 - len(counts)
    widths = [count * free // n for count in counts]
    widths[counts.index(max(counts))] += free - sum(widths)
    widths = [width + 1 for width in widths]
    starts = [0, *itertools.accumulate(widths)]
    words = list(struct.unpack(f"<{len(payload) // 4}I", payload))
    state = 0
    for _ in range(2):
        if words:
            state = state * TWO_32 + words.pop()
    symbols = []
    for _ in range(n):
        place = state % TWO_24
        symbol = bisect.bisect_right(starts, place) - 1
        state = widths[symbol] * (state // TWO_24) + place - starts[symbol]
        if state < TWO_32 and words:
            state = state * TWO_32 + words.pop()
        symbols.append(symbol)
    assert (state, words) == (0, [])
    return symbols
