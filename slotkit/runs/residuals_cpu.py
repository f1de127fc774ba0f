"""The arithmetic of `residuals.py` as compiled loops: plain float64 operations, in the order written."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

NOTHING, OPTIONS, SQUARES, SIGNS = range(4)

# Numbers that are handled at once: loops over them compile to vector instructions.
BLOCK = 1024


@numba.njit(cache=True, nogil=True, inline="always")
def basis_of(kind: int, option: Any) -> Any:
    """B of one option, float64."""
    w = np.float64(option)
    if kind == OPTIONS:
        return w
    if kind == SQUARES:
        return w * w
    return np.float64(np.sign(w))


@numba.njit(cache=True, nogil=True)
def fit(values: Any, options: Any, scores: Any, c: float, kind: int) -> Any:
    """A of each connection, float64 (n,), by least squares; all others are (n, K)."""
    n, k = values.shape
    slopes = np.empty(n)
    for i in range(n):
        product = square = 0.0
        for j in range(k):
            b = basis_of(kind, options[i, j])
            product += (np.float64(values[i, j]) - c * np.float64(scores[i, j])) * b
            square += b * b
        slopes[i] = product / square if square > 0 else 0.0
    return slopes


@numba.njit(cache=True, nogil=True)
def predict(
    options: Any, scores: Any, c: float, slopes: Any, kind: int, smallest: float, largest: float, out: Any
) -> None:
    """c * S + A * B into out (n, K), float32 or float64; 0 outside of smallest .. largest in size."""
    n, k = out.shape
    for i in range(n):
        for j in range(k):
            value = c * np.float64(scores[i, j])
            if kind != NOTHING:
                value = value + slopes[i] * basis_of(kind, options[i, j])
            size = abs(value)
            out[i, j] = value if size >= smallest and size <= largest else 0.0


@numba.njit(cache=True, nogil=True)
def to_planes(bits: Any, predicted: Any, planes: Any) -> None:
    """The residual of integers (n,) as bytes (size, n): a row of all lowest ones, one of the next, ..."""
    size = planes.shape[0]
    top, rest = np.int64((1 << (8 * size - 1)) - 1), np.int64(64 - 8 * size)
    coded = np.empty(BLOCK, np.uint64)
    for start in range(0, len(bits), BLOCK):
        count = min(BLOCK, len(bits) - start)
        for i in range(count):
            there, here = np.int64(bits[start + i]), np.int64(predicted[start + i])
            apart = (there ^ ((there >> 63) & top)) - (here ^ ((here >> 63) & top))
            apart = (apart << rest) >> rest  # modulo 2^bits
            coded[i] = np.uint64((apart << 1) ^ (apart >> 63))
        for byte in range(size):
            for i in range(count):
                planes[byte, start + i] = np.uint8((coded[i] >> np.uint64(8 * byte)) & np.uint64(255))


@numba.njit(cache=True, nogil=True)
def from_planes(planes: Any, predicted: Any, bits: Any) -> None:
    """The opposite, into `bits`."""
    size = planes.shape[0]
    top, rest = np.int64((1 << (8 * size - 1)) - 1), np.int64(64 - 8 * size)
    coded = np.empty(BLOCK, np.uint64)
    for start in range(0, len(bits), BLOCK):
        count = min(BLOCK, len(bits) - start)
        coded[:] = 0
        for byte in range(size):
            for i in range(count):
                coded[i] |= np.uint64(planes[byte, start + i]) << np.uint64(8 * byte)
        for i in range(count):
            here = np.int64(predicted[start + i])
            apart = np.int64(coded[i] >> np.uint64(1)) ^ -np.int64(coded[i] & np.uint64(1))
            there = apart + (here ^ ((here >> 63) & top))
            there = (there << rest) >> rest
            bits[start + i] = there ^ ((there >> 63) & top)
