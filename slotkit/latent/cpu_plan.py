"""What the compiled loops are told about the tensors of a machine, and how they reach their memory.

A call for a tensor costs as much as a small step, so all tensors of a machine go in one. numba can't
take a list of arrays of different sizes cheaply: the loops get addresses, in a record a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np.ufunc.parallel import _launch_threads

from slotkit.latent.weight import STATE, LatentWeight
from slotkit.reel import UniformInit, find_init

# Starting numba's threads sets OpenMP's thread count, which is torch's too: torch gets its own back.
_torch_threads = torch.get_num_threads()
_launch_threads()  # type: ignore[no-untyped-call]
torch.set_num_threads(_torch_threads)
numba.set_num_threads(min(_torch_threads, numba.get_num_threads()))

compiled = numba.njit(cache=True, nogil=True, error_model="numpy")
parallel = numba.njit(cache=True, nogil=True, error_model="numpy", parallel=True)
inlined = numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")

# Connections handled at once: what fits a core's first cache.
BLOCK = 1024

# Up to this many connections one thread is sooner done than two are started.
SERIAL = 1 << 14

KINDS: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}

DIMENSIONS = 8

# A tensor: its reel in numbers, then where its arrays are. Tables at address 0 are not stored.
PLAN = np.dtype(
    [
        ("count", np.int64),
        ("k", np.int64),
        ("stored", np.int64),
        ("symmetric", np.int64),
        ("shared", np.int64),
        ("owner_stride", np.int64),
        ("owner_count", np.int64),
        ("key_0", np.uint64),
        ("key_1", np.uint64),
        ("bound", np.float32),
        ("score_scale", np.float32),
        ("largest_option", np.float64),
        ("largest_score", np.float64),
        ("latent", np.int64),
        ("velocity", np.int64),
        ("lower", np.int64),
        ("upper", np.int64),
        ("weight", np.int64),
        ("options", np.int64),
        ("scores", np.int64),
        ("row_major", np.int64),
        ("dimensions", np.int64),
        ("shape", np.int64, DIMENSIONS),
        ("strides", np.int64, DIMENSIONS),
    ],
    align=True,
)


# A step of a tensor. `gradient` 0: only follow the latents. `scale`, `c`, `sign`: of its line.
MOVE = np.dtype(
    [
        ("gradient", np.int64),
        ("follows", np.int64),
        ("nesterov", np.int64),
        ("lr", np.float64),
        ("momentum", np.float64),
        ("intake", np.float64),
        ("weight_decay", np.float64),
        ("ascent", np.float64),
        ("scale", np.float64),
        ("c", np.float64),
        ("sign", np.float64),
    ]
)

# Options kept of a reel: K = 1024 has 10 on average and seldom more than 16.
WIDTH = 16

# What is kept of a reel, see cpu_reachable.
REACHABLE = np.dtype(
    [
        ("number", np.int32),
        ("used", np.int32),
        ("count", np.int32),
        ("option", np.int32, WIDTH),
        ("w", np.float32, WIDTH),
        ("s", np.float32, WIDTH),
    ],
    align=True,
)

# Reels that a machine keeps it of, 7 MB. Threads don't share: each works on whole shards of it.
PLACES, SHARDS = 1 << 15, 16


@intrinsic
def pointer(context: Any, address: Any = None) -> Any:
    """An address as a pointer, for numba.carray (numba itself passes the context)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@inlined
def place(i: Any, plan: Any) -> Any:
    """Where connection i (row-major) lies in the memory of the weight."""
    offset = 0
    for dimension in range(plan.dimensions - 1, -1, -1):
        offset += (i % plan.shape[dimension]) * plan.strides[dimension]
        i //= plan.shape[dimension]
    return offset


@compiled
def tensor_of(block: Any, first: Any) -> Any:
    """Which tensor a block belongs to, if `first` has the number of every tensor's first block."""
    t = 0
    while block >= first[t + 1]:
        t += 1
    return t


@compiled
def add_up(counts: Any, first: Any, totals: Any) -> None:
    for t in range(len(totals)):
        totals[t] = counts[first[t] : first[t + 1]].sum()


@dataclass
class Call:
    """The arguments of the compiled loops for some weights, put together once: it costs more than a step.

    `plan` are records (weights,), `first` (weights + 1,) has the number of each weight's first block,
    `moves` are records (weights,) for the step to come; `counts` (blocks,) is where the loops write, `totals`
    (weights,) their sums; the dtype of `prototype` is that of all arrays.
    """

    memory: list[Any]
    plan: Any
    first: Any
    moves: Any
    counts: Any
    totals: Any
    prototype: Any
    parallel: bool
    nothing_kept: Any
    _events: Any = None
    _kept: Any = None

    def events(self) -> Any:
        """Room for the events of every connection, int32 (blocks * BLOCK, 2)."""
        if self._events is None:
            self._events = np.empty((len(self.counts) * BLOCK, 2), np.int32)
        return self._events

    def kept(self) -> Any:
        """Room for the reachable options of PLACES connections, (SHARDS, pairs, 2)."""
        if self._kept is None:
            self._kept = np.zeros((SHARDS, PLACES // SHARDS // 2, 2), REACHABLE)
            self._kept["number"] = -1
        return self._kept

    @property
    def kept_bytes(self) -> int:
        return 0 if self._kept is None else int(self._kept.nbytes)

    def sums(self) -> list[int]:
        """What was counted by block, for every weight."""
        add_up(self.counts, self.first, self.totals)
        totals: list[int] = self.totals.tolist()
        return totals


def call_for(weights: Sequence[LatentWeight]) -> Call:
    """The call for weights of one dtype, made anew if their memory has moved."""
    memory = [
        (weight.parameter.data_ptr(), weight.parameter.stride(), weight.latent.data_ptr(), weight.moves)
        for weight in weights
    ]
    if weights[0].prepared is None or weights[0].prepared.memory != memory:
        plan = np.concatenate([_new_row(weight) for weight in weights])
        first = np.zeros(len(weights) + 1, np.int64)
        np.cumsum((plan["count"] + BLOCK - 1) // BLOCK, out=first[1:])
        weights[0].prepared = Call(
            memory,
            plan,
            first,
            np.zeros(len(weights), MOVE),
            np.zeros(first[-1], np.int64),
            np.zeros(len(weights), np.int64),
            np.zeros(0, KINDS[weights[0].latent.dtype]),
            bool(first[-1] * BLOCK > SERIAL),
            np.zeros((SHARDS, 0, 2), REACHABLE),
        )
    call: Call = weights[0].prepared
    return call


def _new_row(weight: LatentWeight) -> Any:
    reel, parameter = weight.reel, weight.parameter
    row = np.zeros(1, PLAN)
    row["count"], row["k"], row["symmetric"] = parameter.numel(), reel.k, reel.symmetric
    row["owner_stride"], row["owner_count"] = reel.owner_rule
    row["shared"] = reel.owner_rule != (1, parameter.numel())
    row["key_0"], row["key_1"] = reel.key
    init = find_init(reel.init)
    if isinstance(init, UniformInit):
        row["bound"], row["score_scale"] = init.bound(reel.fans), init.score_scale(reel.fans)
    row["largest_option"], row["largest_score"] = _largest(weight, row[0])
    for name in STATE:
        row[name] = getattr(weight, name).data_ptr()
    row["weight"] = parameter.data_ptr()
    if weight.tables is not None:
        row["stored"] = True
        row["options"], row["scores"] = (table.data_ptr() for table in weight.tables)
    row["row_major"], row["dimensions"] = parameter.is_contiguous(), parameter.dim()
    row["shape"][0, : parameter.dim()] = parameter.shape
    row["strides"][0, : parameter.dim()] = parameter.stride()
    return row


def _largest(weight: LatentWeight, row: Any) -> tuple[float, float]:
    """Bounds that no |option| and no |initial score| of the tensor exceeds.

    Those of the distribution where they are known, stored or not: a draw depends on them.
    """
    if isinstance(find_init(weight.reel.init), UniformInit) or weight.tables is None:
        return float(row["bound"]), float(row["bound"] * row["score_scale"])
    options, scores = (float(torch.linalg.vector_norm(table, float("inf"))) for table in weight.tables)
    return options, scores
