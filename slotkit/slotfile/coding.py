"""Selected indices as bytes: a fixed number of bits each, or entropy-coded. Only integers are used, so the
bytes are the same on every machine.

The entropy coder is rANS with a 64-bit state, 32-bit words and frequencies that sum to 2**24: the
`AnsCoder` of the library constriction. docs/export.md has a decoder of a few lines beside the format.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import constriction
import numpy as np
import torch
from torch import Tensor

from slotkit.errors import SlotkitError

PRECISION = 24
# With more symbols than this, the histogram in the file costs more than the entropy coding saves.
LARGEST_ALPHABET = 1025


def bits_of(k: int) -> int:
    """ceil(log2 K): bits of an index in the packed coding; 0 for K = 1."""
    return (k - 1).bit_length()


def packed_bytes(n: int, k: int) -> int:
    """Length of n packed indices."""
    return (n * bits_of(k) + 7) // 8


def pack(indices: Tensor, k: int) -> bytes:
    """Integers (n,) with values 0 .. K - 1 -> packed_bytes(n, K) bytes.

    Bit b of index i is bit i * bits + b of the payload; bit j of the payload is bit j % 8 (value
    2**(j % 8)) of byte j // 8. The rest of the last byte is zero.
    """
    bits = np.empty((len(indices), bits_of(k)), np.uint8)
    for bit in range(bits_of(k)):
        bits[:, bit] = indices.numpy() >> bit & 1
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes()


def unpack(data: bytes, n: int, k: int) -> Tensor:
    """The inverse of `pack`.

    Raises SlotkitError for a wrong length, an index of K or more, or last bits that belong to no index.
    """
    if len(data) != packed_bytes(n, k):
        raise SlotkitError(f"{n} indices of K = {k} take {packed_bytes(n, k)} bytes, not {len(data)}")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    used = n * bits_of(k)
    if bits[used:].any():
        raise SlotkitError("the last byte has bits that belong to no index")
    indices = np.zeros(n, np.int64)
    for bit, column in enumerate(bits[:used].reshape(n, bits_of(k)).T):
        indices |= column.astype(np.int64) << bit
    if n and indices.max() >= k:
        raise SlotkitError(f"there is an index {indices.max()}, and K is {k}")
    return torch.from_numpy(indices)


def frequencies(counts: Sequence[int]) -> list[int]:
    """How wide each symbol is in the coder: integers from 1 up that sum to 2**24.

    f_s = 1 + counts_s * (2**24 - S) // n for S symbols and n = sum(counts); what the rounding leaves
    over goes to the symbol with the highest count (the lowest of equals).
    """
    free = (1 << PRECISION) - len(counts)
    n = sum(counts)
    widths = [count * free // n for count in counts]
    widths[counts.index(max(counts))] += free - sum(widths)
    return [width + 1 for width in widths]


def encode(symbols: Tensor, alphabet: int) -> tuple[bytes, list[int]]:
    """int32 (n,), n >= 1, with values 0 .. alphabet - 1 -> bytes (little-endian 32-bit words) and counts."""
    counts: list[int] = torch.bincount(symbols, minlength=alphabet).tolist()
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(symbols.numpy(), _model(counts))
    return coder.get_compressed().astype("<u4").tobytes(), counts


def decode(data: bytes, counts: Sequence[int]) -> Tensor:
    """The inverse of `encode`. Raises SlotkitError if `encode` makes other bytes with these counts."""
    # Most damaged input has the wrong length, which is quick to find.
    if len(data) % 4 or abs(len(data) - _expected_bytes(counts)) > 16 + len(data) // 1000:
        raise SlotkitError(f"{len(data)} bytes can't hold symbols with these counts")
    words = np.frombuffer(data, "<u4").astype(np.uint32)
    if len(words) and not words[-1]:
        raise SlotkitError("the coded bytes end in a zero word, which no encoder writes")
    coder = constriction.stream.stack.AnsCoder(words)
    symbols = np.asarray(coder.decode(_model(counts), sum(counts)), dtype=np.int32)
    found = np.bincount(symbols, minlength=len(counts)).tolist()
    if not coder.is_empty() or found != list(counts):
        raise SlotkitError("the coded bytes do not decode to symbols with these counts")
    return torch.from_numpy(symbols)


def _expected_bytes(counts: Sequence[int]) -> float:
    pairs = zip(counts, frequencies(counts), strict=True)
    return sum(count * (PRECISION - math.log2(width)) for count, width in pairs) / 8


def _model(counts: Sequence[int]) -> constriction.stream.model.Categorical:
    # perfect=False gives symbol s the width 1 + floor(w_s * (2**24 - S) / sum(w)). These weights sum to
    # 2**24 - S, so the factor is exactly 1.0 and the widths are ours, whatever the machine rounds.
    weights = np.array(frequencies(counts), dtype=np.float64) - 1
    return constriction.stream.model.Categorical(weights, perfect=False)
