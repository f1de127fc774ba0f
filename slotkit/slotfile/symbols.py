"""What the entropy coder sees of a connection: whether it still has its first option, else the rank.

Options are independent of each other, so all indices are equally likely and can't be compressed. Two things
can be used. Most connections keep the option that the initial scores picked, which the reader can recompute:
they have a symbol of their own, K. The others prefer options of large magnitude: their symbol is the rank of
the option's value among the K of the connection, 0 for the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from slotkit.reel import Reel
from slotkit.selection import greedy

# Elements of one table of options: 4 MiB in float32.
CHUNK_ELEMENTS = 1 << 20


def to_symbols(reel: Reel, selected: Tensor) -> Tensor:
    """Selected indices, int64 (n,) in row-major order -> symbols, int64 (n,), 0 .. K."""
    symbols = torch.empty_like(selected)
    for chunk, order, initial in _chunks(reel):
        index = selected[chunk]
        rank = (order == index.unsqueeze(-1)).int().argmax(dim=-1)
        symbols[chunk] = torch.where(index == initial, reel.k, rank)
    return symbols


def from_symbols(reel: Reel, symbols: Tensor) -> Tensor:
    """The inverse of `to_symbols`."""
    selected = torch.empty_like(symbols)
    for chunk, order, initial in _chunks(reel):
        symbol = symbols[chunk]
        rank = symbol.clamp(max=reel.k - 1).unsqueeze(-1)
        selected[chunk] = torch.where(symbol == reel.k, initial, order.gather(-1, rank).squeeze(-1))
    return selected


def _chunks(reel: Reel) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(which connections, their options' indices by rising value (n, K), the initial pick (n,)), all int64.

    Equal options stand in the order of their indices.
    """
    n = math.prod(reel.shape)
    size = max(1, CHUNK_ELEMENTS // reel.k)
    for start in range(0, n, size):
        chunk = slice(start, min(start + size, n))
        options, scores = reel.rows(torch.arange(chunk.start, chunk.stop))
        yield chunk, torch.sort(options, dim=-1, stable=True).indices, greedy(scores)
