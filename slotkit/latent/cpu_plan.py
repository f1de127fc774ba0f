"""What the compiled loops are told about the tensors of a machine, and how they reach their memory.

A call for a tensor costs as much as a small step, so all tensors of a machine go in one. numba can't
take a list of arrays of different sizes cheaply: the loops get addresses, in a record a tensor.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array
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
# Counts no references to arrays, which costs more than the work on a block of connections. Such a function
# can't make arrays, and works in memory that it is given.
bare: Callable[[Callable[..., Any]], Any] = numba.njit(  # type: ignore[call-overload]
    cache=True, nogil=True, error_model="numpy", _nrt=False
)
inlined = numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")

# Connections handled at once: what fits a core's first cache.
BLOCK = 1024

# Up to this many connections one thread is sooner done than two are started.
SERIAL = 1 << 14

# Connections whose way to a threshold is known together (see cpu_slack): a line of a cache.
GROUP = 16
GROUPS = BLOCK // GROUP

# Of every dtype zero, and the bits of infinity: they also tell loops the types of numbers and of their bits.
KINDS: dict[torch.dtype, tuple[Any, Any]] = {
    torch.float32: (np.float32(0), np.int32(0x7F800000)),
    torch.float64: (np.float64(0), np.int64(0x7FF << 52)),
}

DIMENSIONS = 8

# A tensor: its reel in numbers, then where its arrays are. Tables at address 0 are not stored.
PLAN = np.dtype(
    [
        ("count", np.int64),
        ("k", np.int64),
        ("stored", np.int64),
        ("keeps_slack", np.int64),
        ("keeps_recent", np.int64),
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


# A step of a tensor, with the hyper-parameters in the order of Hyperparameters. `gradient` 0: only follow the
# latents. `scale`, `c` and `sign` are those of its line, `before` is the scale of the step before.
MOVE = np.dtype(
    [
        ("gradient", np.int64),
        ("follows", np.int64),
        ("lr", np.float64),
        ("momentum", np.float64),
        ("intake", np.float64),
        ("nesterov", np.float64),
        ("weight_decay", np.float64),
        ("ascent", np.float64),
        ("scale", np.float64),
        ("c", np.float64),
        ("sign", np.float64),
        ("before", np.float64),
    ]
)
# The same for struct.pack_into, which is several times as fast as an assignment to a record.
MOVE_LAYOUT = struct.Struct("=2q10d")

# What a loop is called with, beside the PLAN and MOVE records of its tensors. How many `tensors` and `blocks`
# there are, and the `largest_k`; where `first` (tensors + 1,), `counts` (blocks,) and `totals` (tensors,) of
# int64 are; where `events` int32 (blocks * BLOCK, 2), `slack` (blocks, GROUPS), `recent` (SHARDS, pairs, 2,
# WORDS) are, or 0; and GROUP.
CALL = np.dtype(
    [
        ("tensors", np.int64),
        ("blocks", np.int64),
        ("largest_k", np.int64),
        ("first", np.int64),
        ("counts", np.int64),
        ("totals", np.int64),
        ("events", np.int64),
        ("slack", np.int64),
        ("recent", np.int64),
        ("pairs", np.int64),
        ("group_size", np.int64),
    ]
)

# Bytes of an event: a connection and its new option.
EVENT = 8

# A table of recent options (see cpu_recent) has up to PLACES entries of WORDS words, 4 MB in float32. Threads
# don't share: each works on infinity shards of it.
PLACES, SHARDS, WORDS = 1 << 16, 16, 16


def _array_at(context: Any, address: Any = None, like: Any = None, length: Any = None) -> Any:
    """The array of that length at an address, of the type of the number `like`, or of a record's dtype.

    numba.carray can't be used in a `bare` function.
    """
    element = like.dtype if isinstance(like, types.DType) else like
    kind = types.Array(element, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data_type = context.get_data_type(element)
        size = context.get_constant(types.intp, context.get_abi_sizeof(data_type))
        found = make_array(kind)(context, builder)  # type: ignore[no-untyped-call]
        populate_array(  # type: ignore[no-untyped-call]
            found,
            data=builder.inttoptr(arguments[0], data_type.as_pointer()),
            shape=[arguments[2]],
            strides=[size],
            itemsize=size,
            meminfo=None,
        )
        return found._getvalue()

    return kind(types.int64, like, types.intp), generate


array_at: Any = intrinsic(_array_at)


@inlined
def place(i: Any, plan: Any) -> Any:
    """Where connection i (row-major) lies in the memory of the weight."""
    offset = 0
    for dimension in range(plan.dimensions - 1, -1, -1):
        offset += (i % plan.shape[dimension]) * plan.strides[dimension]
        i //= plan.shape[dimension]
    return offset


@bare
def tensor_of(block: Any, first: Any) -> Any:
    """Which tensor a block belongs to, if `first` has the number of every tensor's first block."""
    t = 0
    while block >= first[t + 1]:
        t += 1
    return t


@inlined
def first_block(shard: Any, call: Any) -> Any:
    """The first of the blocks of a shard: they lie side by side, which is faster to read."""
    return shard * call.blocks // SHARDS


@bare
def add_up(call: Any) -> None:
    """Write what was counted by block as a sum by tensor to the totals of a CALL."""
    first = array_at(call.first, 0, call.tensors + 1)
    counts = array_at(call.counts, 0, call.blocks)
    totals = array_at(call.totals, 0, call.tensors)
    for t in range(call.tensors):
        totals[t] = 0
        for block in range(first[t], first[t + 1]):
            totals[t] += counts[block]


class Call:
    """The arguments of the compiled loops for some weights, put together once: it costs more than a step.

    Attributes:
        memory: where the weights and their latents were.
        record: the CALL; arguments: what all loops are called with.
        plan, moves: records (weights,): the tensors, and the step to come; `move_bytes` its bytes.
        first: (weights + 1,), the number of each weight's first block.
        counts, totals: what the loops write by block, and its sum by weight.
        zero, infinity: those of the dtype of all arrays in KINDS; largest: its largest number.
        changed: the tensors that a step changes behind PyTorch's back.
        keeps_slack, keeps_recent: whether any weight does.
        versions: of latents and intervals when what is kept was true for them, None if never.
        scales: the scale of every weight in the last step.
    """

    def __init__(self, weights: Sequence[LatentWeight], memory: list[Any]) -> None:
        self.memory = memory
        self.plan = np.concatenate([_new_row(weight) for weight in weights])
        self.first = np.zeros(len(weights) + 1, np.int64)
        np.cumsum((self.plan["count"] + BLOCK - 1) // BLOCK, out=self.first[1:])
        self.blocks = int(self.first[-1])
        self.parallel = self.blocks * BLOCK > SERIAL
        self.moves = np.zeros(len(weights), MOVE)
        self.move_bytes: Any = self.moves.view(np.uint8)
        self.counts, self.totals = np.zeros(self.blocks, np.int64), np.zeros(len(weights), np.int64)
        self.zero, self.infinity = KINDS[weights[0].latent.dtype]
        self.largest = float(np.finfo(self.zero.dtype).max)
        self.changed = [tensor for weight in weights for tensor in (weight.parameter, weight.latent)]
        self.versions: list[int] | None = None
        self.scales = [0.0] * len(weights)
        self.keeps_slack = any(weight.keeps_slack for weight in weights)
        self.keeps_recent = any(weight.keeps_recent for weight in weights)
        self._events: Any = None
        self._recent: Any = None
        self._slack: Any = None
        self._using = (False, False, False)
        self.record = np.zeros(1, CALL)
        row = self.record[0]
        row["tensors"], row["blocks"] = len(weights), self.blocks
        row["largest_k"], row["group_size"] = self.plan["k"].max(), GROUP
        for name in ("first", "counts", "totals"):
            row[name] = getattr(self, name).ctypes.data
        # Arrays of records, not addresses: numba has their layout in what it keeps on disk.
        self.arguments = self.record, self.plan, self.moves

    def use(self, events: bool, slack: bool, recent: bool) -> None:
        """What the loops are to write or to use in the next step."""
        if self._using == (events, slack, recent):
            return
        # What a step doesn't use isn't true after it. (It may still be if only the events are others.)
        self.forget()
        self._using, row = (events, slack, recent), self.record[0]
        row["events"] = self.events().ctypes.data if events else 0
        row["slack"] = self.slack().ctypes.data if slack else 0
        row["recent"], row["pairs"] = (
            (self.recent().ctypes.data, self.recent().shape[1]) if recent else (0, 0)
        )

    def forget(self) -> None:
        """The latents, or intervals, are not those of the last step."""
        if self._slack is not None:
            self._slack.fill(-1)
        if self._recent is not None:
            self._recent[..., 0] = -1

    def events(self) -> Any:
        """Room for the events of every connection, int32 (blocks * BLOCK, 2)."""
        if self._events is None:
            self._events = np.empty((self.blocks * BLOCK, 2), np.int32)
        return self._events

    def recent(self) -> Any:
        """Room for the recent options of up to PLACES connections, (SHARDS, pairs, 2, WORDS), whose first is
        a connection's number: -1 if there is none.
        """
        if self._recent is None:
            places = min(PLACES, self.blocks * BLOCK)
            self._recent = np.zeros((SHARDS, places // SHARDS // 2, 2, WORDS), self.infinity.dtype)
            self._recent[..., 0] = -1
        return self._recent

    def slack(self) -> Any:
        """Room for the slack of every group, (blocks, GROUPS)."""
        if self._slack is None:
            self._slack = np.full((self.blocks, GROUPS), -1, self.zero.dtype)
        return self._slack

    @property
    def kept_bytes(self) -> int:
        return sum(int(kept.nbytes) for kept in (self._recent, self._slack) if kept is not None)

    def sums(self) -> list[int]:
        """What was counted, for every weight."""
        totals: list[int] = self.totals.tolist()
        return totals


def call_for(weights: Sequence[LatentWeight]) -> Call:
    """The call for weights of one dtype, made anew if their memory has moved."""
    memory = [
        (weight.parameter.data_ptr(), weight.parameter.stride(), weight.latent.data_ptr(), weight.moves)
        for weight in weights
    ]
    if weights[0].prepared is None or weights[0].prepared.memory != memory:
        weights[0].prepared = Call(weights, memory)
    call: Call = weights[0].prepared
    return call


def _new_row(weight: LatentWeight) -> Any:
    reel, parameter = weight.reel, weight.parameter
    row = np.zeros(1, PLAN)
    row["count"], row["k"], row["symmetric"] = parameter.numel(), reel.k, reel.symmetric
    row["keeps_slack"], row["keeps_recent"] = weight.keeps_slack, weight.keeps_recent
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
