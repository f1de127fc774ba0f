"""The engine for the CPU: it calls the compiled loops with the memory of PyTorch's tensors."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numba
import numpy as np
import torch
from torch import Tensor

from slotkit.latent.engines.contract import Arrays, Flips, Move
from slotkit.latent.engines.cpu_choose import (
    BLOCK,
    SMALLEST_SINGLE,
    Floats,
    Integers,
    Tables,
    step_tensor,
    typed,
)
from slotkit.latent.engines.cpu_compiling import announce, serial
from slotkit.latent.engines.cpu_proposals import new_proposals, new_work
from slotkit.latent.engines.cpu_sample import REJECTION, sample_tensor
from slotkit.reel import ReelSpec

announce()

# Starting numba's threads sets OpenMP's thread count, which is torch's too: torch gets its own back.
_torch_threads = torch.get_num_threads()
_numba_threads = numba.get_num_threads()
torch.set_num_threads(_torch_threads)
numba.set_num_threads(min(_torch_threads, _numba_threads))

NOT_NAMED: Integers = np.empty(0, np.int32)

serial_step, serial_sample = serial(step_tensor), serial(sample_tensor)


class Views(NamedTuple):
    """The memory of `Arrays` as numpy arrays. They are kept: making them costs as much as a small step."""

    weight: Floats
    state: tuple[Floats, Floats, Floats, Floats]
    nothing: Floats
    spec: ReelSpec
    tables: Tables
    blocks: int


class Cpu:
    """See `slotkit.latent.engines.contract.Engine`."""

    name = "numba"
    draws_read_all = False
    keeps_lines = False

    def __init__(self) -> None:
        self._views: WeakKeyDictionary[Arrays, Views] = WeakKeyDictionary()
        self._work = new_work(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        # Threads of Python take turns: a loop has all cores anyway, they would overwrite each other's
        # `_work`, and not every threading layer of numba can be entered twice.
        self._turn = threading.Lock()
        self._is_forked = False

    def after_fork(self) -> None:
        """Go on without threads: those of GNU OpenMP, which numba uses, kill a forked process."""
        self._is_forked = True
        self._turn = threading.Lock()  # a thread that is not in the child may have had it

    def __reduce__(self) -> str:
        """A copy is the same object: its views belong to `Arrays`, and a copied machine makes its own."""
        return "ENGINE"

    def step(self, moves: Sequence[Move]) -> list[Flips | None]:
        return [self.step_one(move) for move in moves]

    def sample(self, tensors: Sequence[tuple[Arrays, float]], stream: int, number: int) -> list[Flips]:
        return [self.sample_one(arrays, c, stream, number) for arrays, c in tensors]

    def step_one(self, move: Move) -> Flips | None:
        views, line = self.views(move.arrays), move.line
        (latent, velocity, lower, upper), square = views.state, views.nothing
        if move.moments is not None:
            velocity, square = move.moments[0].numpy(), move.moments[1].numpy()
        counts = np.empty(views.blocks, np.int64)
        connections = options = NOT_NAMED
        if move.recorded:
            connections, options = (np.empty(len(views.weight), np.int32) for _ in range(2))
        run = serial_step if self._is_forked else step_tensor
        with self._turn:
            run(
                views.weight,
                latent,
                velocity,
                square,
                lower,
                upper,
                views.nothing if move.gradient is None else move.gradient.numpy(),
                np.array(move.rule, latent.dtype),  # type: ignore[arg-type]
                line.scale,
                line.c,
                line.sign,
                move.choose,
                views.spec,
                views.tables,
                counts,
                connections,
                options,
            )
        if not move.choose:
            return None
        if not move.recorded:
            return Flips(torch.from_numpy(counts), BLOCK)
        named = torch.from_numpy(connections), torch.from_numpy(options)
        return Flips(torch.from_numpy(counts), BLOCK, *named)

    def sample_one(self, arrays: Arrays, c: float, stream: int, number: int) -> Flips:
        views = self.views(arrays)
        if "proposals" not in arrays.kept:
            arrays.kept["proposals"] = new_proposals(len(views.weight), views.spec)
        counts = np.empty(views.blocks, np.int64)
        run = serial_sample if self._is_forked else sample_tensor
        with self._turn:
            run(
                views.weight,
                views.state[0],
                c,
                np.uint64(stream + REJECTION),
                np.uint64(number),
                max(arrays.largest_option, SMALLEST_SINGLE),
                abs(c) * arrays.largest_score,
                views.spec,
                views.tables,
                arrays.kept["proposals"],  # type: ignore[arg-type]
                self._work,
                counts,
            )
        return Flips(torch.from_numpy(counts), BLOCK)

    def views(self, arrays: Arrays) -> Views:
        found = self._views.get(arrays)
        if found is None:
            found = self._views[arrays] = make_views(arrays)
        return found


def make_views(arrays: Arrays) -> Views:
    latent, velocity, lower, upper = (
        part.numpy() for part in (arrays.latent, arrays.velocity, arrays.lower, arrays.upper)
    )
    none = np.empty((0, arrays.spec.k), np.float32)
    tables = (none, none) if arrays.tables is None else tuple(table.numpy() for table in arrays.tables)
    blocks = (len(latent) + BLOCK - 1) // BLOCK
    state = latent, velocity, lower, upper
    return Views(_plain(arrays.weight), state, latent[:0], typed(arrays.spec), tables, blocks)  # type: ignore[arg-type]


def _plain(weight: Tensor) -> Floats:
    values: Floats = weight.detach().numpy()
    return values


ENGINE = Cpu()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ENGINE.after_fork)
