"""What the entropy coder sees of a connection: whether it still has its first option, else the rank.

Options are independent of each other, so all indices are equally likely and can't be compressed. Two things
can be used. Most connections keep the option that the initial scores picked, which the reader can recompute:
they have a symbol of their own, K. The others prefer options of large magnitude: their symbol is the rank of
the option's value among the K of the connection, 0 for the smallest.

Both need all K options or scores of a connection, which `slotkit.slotfile.loops` makes anew.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from slotkit.reel import Reel

# Called with the share of the work that is done, 0 to 1.
Share = Callable[[float], None]


def silent(share: float) -> None:
    """Report nothing."""


# Connections that a thread takes at once.
PART = 1 << 16


class Work:
    """All connections of a file, of which `report` is told the share that is done."""

    def __init__(self, connections: int, report: Share) -> None:
        self.connections, self.done, self.report = connections, 0, report

    def over(self, n: int, part: Callable[[slice], Any]) -> list[Any]:
        """What `part` gives for each part of n connections, on as many threads as torch has."""
        parts = [slice(first, min(first + PART, n)) for first in range(0, n, PART)]
        pool = ThreadPoolExecutor(torch.get_num_threads())
        found = []
        try:
            for run, result in zip(parts, pool.map(part, parts), strict=True):
                found.append(result)
                self.done += run.stop - run.start
                self.report(self.done / self.connections)
        finally:
            pool.shutdown(cancel_futures=True)
        return found


def to_symbols(reel: Reel, values: Tensor, work: Work, ranked: bool = True) -> tuple[Tensor, Tensor] | None:
    """Weights float32 (n,), in row-major order -> (symbols, numbers of the options), int32 (n,) each.

    Among equal options it is the first pick, if that is one of them, else the lowest. Symbols are 0 .. K;
    there are none, (0,), if they are not to be `ranked`. None if some weight is none of its options.
    """
    # numba takes half a second to import.
    from slotkit.latent.engines.cpu_choose import typed
    from slotkit.slotfile import loops

    spec = typed(_spec(reel))
    indices = torch.empty(len(values), dtype=torch.int32)
    symbols = torch.empty(len(values) if ranked else 0, dtype=torch.int32)

    def code(part: slice) -> int:
        arrays = symbols[part].numpy(), indices[part].numpy()
        strangers: int = loops.code(values[part].numpy(), part.start, spec, *arrays)
        return strangers

    return None if any(work.over(len(values), code)) else (symbols, indices)


def from_symbols(reel: Reel, symbols: Tensor, work: Work) -> Tensor:
    """Symbols int32 (n,) -> weights float32 (n,)."""
    from slotkit.latent.engines.cpu_choose import typed
    from slotkit.slotfile import loops

    spec = typed(_spec(reel))
    values = torch.empty(len(symbols), dtype=torch.float32)
    work.over(
        len(symbols),
        lambda part: loops.decode(symbols[part].numpy(), part.start, spec, values[part].numpy()),
    )
    return values


def from_indices(reel: Reel, indices: Tensor, work: Work) -> Tensor:
    """Numbers of options (n,) -> weights float32 (n,)."""
    values = reel.chosen(indices.long().reshape(reel.shape)).reshape(-1)
    work.over(len(values), lambda part: None)
    return values


def _spec(reel: Reel) -> Any:
    """The reel in numbers, which every init and kind of a slot file has."""
    spec = reel.compiled_spec()
    assert spec is not None, f"{reel.name} has options that a file can't hold"
    return spec
