"""The engine for CUDA: it tells the kernels of `triton_kernels` where the tensors of a call lie.

Nothing here waits for the device. With TRITON_INTERPRET=1 the kernels run on the CPU, as the tests have it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
import triton.language as tl
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.latent.engines import triton_kernels as kernels
from slotkit.latent.engines.contract import Arrays, Flips, Move
from slotkit.latent.engines.triton_kernels import WIDTH, Column
from slotkit.latent.line import Hyperparameters

Row: TypeAlias = npt.NDArray[np.int64]

# Connections a program; connections, and connections times K, whose options it makes at once.
BLOCK, LANES, TILE = 1024, 32, 512
# Where no tensor starts: the rows that fill a table up to a power of two.
NOWHERE = 1 << 62

KINDS = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}


class Kind(NamedTuple):
    """What tensors of one launch have in common: the kernel is compiled for it."""

    k: int
    symmetric: bool
    stored: bool
    weight: torch.dtype
    state: torch.dtype

    def constants(self, tensors: int) -> dict[str, Any]:
        """The kernels' constants for so many tensors, and how they are compiled."""
        wide = max(8 if self.symmetric else 4, _power_of_two(self.k))
        return {
            "K": self.k,
            "WIDE": wide,
            "SYMMETRIC": self.symmetric,
            "STORED": self.stored,
            "KIND": KINDS[self.weight],
            "STATE": KINDS[self.state],
            "TENSORS": _power_of_two(tensors),
            "BLOCK": BLOCK,
            "GROUP": max(1, min(LANES, TILE // wide)),
            # A product that is fused with a sum has other bits than torch's.
            "enable_fp_fusion": False,
        }


class Triton:
    """See `slotkit.latent.engines.contract.Engine`."""

    name = "triton"
    draws_read_all = False
    keeps_lines = True

    def __init__(self) -> None:
        self._rows: WeakKeyDictionary[Arrays, Row] = WeakKeyDictionary()

    def __reduce__(self) -> str:
        """A copy is the same object: its rows belong to `Arrays`, and a copied machine makes its own."""
        return "ENGINE"

    def step(self, moves: Sequence[Move]) -> list[Flips | None]:
        found: list[Flips | None] = [None] * len(moves)
        kinds = [
            (kind_of(move.arrays), not isinstance(move.rule, Hyperparameters), move.on_device is not None)
            for move in moves
        ]
        for (kind, adam, on_device), indices in _alike(kinds):
            chosen = [moves[i] for i in indices]
            all_flips = [_new_flips(move.arrays, move.recorded) for move in chosen]
            rows = [self.step_row(*pair) for pair in zip(chosen, all_flips, strict=True)]
            arrays = [move.arrays for move in chosen]
            constants = kind.constants(len(rows)) | {"ADAM": adam, "ON_DEVICE": on_device}
            launch(kernels.step, arrays, rows, constants)
            for i, move, flips in zip(indices, chosen, all_flips, strict=True):
                found[i] = flips if move.choose else None
        return found

    def sample(
        self, tensors: Sequence[tuple[Arrays, float | Tensor]], stream: int, number: int | Tensor
    ) -> list[Flips]:
        found = [_new_flips(arrays, recorded=False) for arrays, _ in tensors]
        draw = 0 if isinstance(number, Tensor) else _signed(number)
        kinds = [(kind_of(arrays), isinstance(c, Tensor)) for arrays, c in tensors]
        for (kind, on_device), indices in _alike(kinds):
            rows = []
            for i in indices:
                arrays, c = tensors[i]
                row = self.row(arrays, found[i])
                if isinstance(c, Tensor):
                    row[Column.NUMBERS] = c.data_ptr()
                else:
                    row.view(np.float64)[Column.C] = c
                if isinstance(number, Tensor):
                    row[Column.DRAW] = number.data_ptr()
                rows.append(row)
            chosen = [tensors[i][0] for i in indices]
            constants = kind.constants(len(rows)) | {"stream": stream, "draw": draw, "ON_DEVICE": on_device}
            launch(kernels.sample, chosen, rows, constants)
        return found

    def step_row(self, move: Move, flips: Flips) -> Row:
        """The row of a tensor that is stepped."""
        row = self.row(move.arrays, flips)
        if move.moments is not None:
            row[Column.VELOCITY], row[Column.SQUARE] = (moment.data_ptr() for moment in move.moments)
        row[Column.GRADIENT] = 0 if move.gradient is None else move.gradient.data_ptr()
        row[Column.CHOOSES] = move.choose
        numbers, line = row.view(np.float64), move.line
        numbers[Column.SCALE], numbers[Column.C], numbers[Column.SIGN] = line.scale, line.c, line.sign
        numbers[Column.RULE : Column.RULE + len(move.rule)] = move.rule
        if move.on_device is not None:
            kept, skip, lr = move.on_device
            row[Column.NUMBERS], row[Column.SKIP] = kept.data_ptr(), skip.data_ptr()
            row[Column.RATE] = 0 if lr is None else lr.data_ptr()
        return row

    def row(self, arrays: Arrays, flips: Flips) -> Row:
        """What the table has of a tensor in every call, and where its flips go."""
        kept = self._rows.get(arrays)
        if kept is None:
            kept = self._rows[arrays] = new_row(arrays)
        row = kept.copy()
        row[Column.COUNTS] = flips.counts.data_ptr()
        if flips.connections is not None and flips.options is not None:
            row[Column.CONNECTIONS] = flips.connections.data_ptr()
            row[Column.OPTIONS] = flips.options.data_ptr()
        return row


def kind_of(arrays: Arrays) -> Kind:
    spec = arrays.spec
    return Kind(spec.k, spec.symmetric, arrays.tables is not None, arrays.weight.dtype, arrays.latent.dtype)


def new_row(arrays: Arrays) -> Row:
    row = np.zeros(int(WIDTH), np.int64)
    spec, numbers = arrays.spec, row.view(np.float64)
    row[Column.SIZE] = len(arrays.latent)
    for name in ("weight", "latent", "velocity", "lower", "upper"):
        row[Column[name.upper()]] = getattr(arrays, name).data_ptr()
    if arrays.tables is not None:
        row[Column.OPTION_TABLE], row[Column.SCORE_TABLE] = (table.data_ptr() for table in arrays.tables)
    row[Column.STRIDE], row[Column.OWNERS] = spec.stride, spec.owners
    keys = np.array([[spec.key_0, spec.key_1], [spec.option_key_0, spec.option_key_1]], np.uint32)
    row[Column.KEY], row[Column.OPTION_KEY] = keys.view(np.int64)[:, 0]
    numbers[Column.BOUND], numbers[Column.SCORE_SCALE] = spec.bound, spec.score_scale
    return row


def launch(kernel: Any, arrays: Sequence[Arrays], rows: Sequence[Row], constants: dict[str, Any]) -> None:
    """Run a kernel over all blocks of these tensors."""
    table = np.zeros((constants["TENSORS"], int(WIDTH)), np.int64)
    table[:, Column.FIRST] = NOWHERE
    table[: len(rows)] = rows
    blocks = [_blocks(each) for each in arrays]
    table[: len(rows), Column.FIRST] = np.cumsum([0, *blocks[:-1]])
    device = arrays[0].latent.device
    with _current(device):
        placed = _on(device, torch.from_numpy(table))
        if kernel is kernels.step and constants["ON_DEVICE"]:
            kernels.begin[(len(rows),)](placed, ADAM=constants["ADAM"], enable_fp_fusion=False)
        kernel[(sum(blocks),)](placed, **constants)


# Pinned memory for the tables of CUDA graphs, by shape, kept ready; and what graphs read for ever.
READY = 8
_ready: dict[torch.Size, list[Tensor]] = {}
_captured: list[Tensor] = []


def _on(device: torch.device, table: Tensor) -> Tensor:
    """A table on the device. The host goes on while pinned memory is copied, and PyTorch doesn't use that
    memory again before it is done. A CUDA graph copies it in every replay, so that nobody may use it again.
    """
    if device.type == "cpu":
        return table
    if torch.cuda.is_current_stream_capturing():
        if not _ready.get(table.shape):
            raise SlotkitError(
                "A CUDA graph of this step can't be made yet: memory for it is taken in ordinary steps. Make "
                f"a step as it will be in the graph before each capture, of at most {READY} launches "
                "on about as many tensors (a step is one, its draw another, each for every type of weights)."
            )
        _captured.append(_ready[table.shape].pop().copy_(table))
        return _captured[-1].to(device, non_blocking=True)
    ready = _ready.setdefault(table.shape, [])
    ready += [torch.empty_like(table).pin_memory() for _ in range(READY - len(ready))]
    return table.pin_memory().to(device, non_blocking=True)


def _current(device: torch.device) -> Any:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _new_flips(arrays: Arrays, recorded: bool) -> Flips:
    device = arrays.latent.device
    counts = torch.empty(_blocks(arrays), dtype=torch.int64, device=device)
    if not recorded:
        return Flips(counts, BLOCK)
    named = (torch.empty(len(arrays.latent), dtype=torch.int32, device=device) for _ in range(2))
    return Flips(counts, BLOCK, *named)


def _blocks(arrays: Arrays) -> int:
    return -(-len(arrays.latent) // BLOCK)


def _alike(kinds: Sequence[Any]) -> list[tuple[Any, list[int]]]:
    """The different kinds, each with its places."""
    places: dict[Any, list[int]] = {}
    for i, kind in enumerate(kinds):
        places.setdefault(kind, []).append(i)
    return list(places.items())


def _power_of_two(number: int) -> int:
    """The smallest that is not below `number`."""
    return 1 << (number - 1).bit_length()


def _signed(word: int) -> int:
    """The int32 of the same bits: whatever its size, a number then has one type."""
    return word - (1 << 32) if word >= 1 << 31 else word


ENGINE = Triton()
