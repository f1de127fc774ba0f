"""What an engine does, declared once: arrays in, flips out. An engine sees no module and no Parameter.

All arrays of one connection-by-connection operation are flat, contiguous, on one device and in the row-major
order of the weight's indices. The state of all tensors of a machine lies in one buffer a device and dtype, of
which the arrays here are slices. No operation has to wait for the device: what it returns are tensors on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slotkit.latent.line import AdamRule, AdamStep, Hyperparameters, Line
from slotkit.reel import ReelSpec

Kept: TypeAlias = dict[str, tuple[npt.NDArray[np.generic], ...]]


@dataclass(frozen=True, eq=False)
class Arrays:
    """One weight tensor of n connections. An engine writes the first five, in place.

    Attributes:
        weight: the options in use (n,), in the weight's dtype. The caller copies it to the weight if
            the weight is not contiguous.
        latent, velocity: A and B (n,), float32, or float64 beside a float64 weight.
        lower, upper: the interval of u = A / |c| in which nothing changes (n,), of the same dtype.
        spec: the reel in numbers. They make its options and scores, unless those are stored in `tables`.
        tables: options (owners, K) and initial scores (n, K), float32, or None.
        rows: connections int64 (m,) -> their options and initial scores (m, K), float32.
        uniform: (stream, number) -> one number in (0, 1) for each connection, float32 (n,).
        largest_option, largest_score: bounds of |option| and |initial score|.
        kept: what engines keep for these connections from call to call, by name. It is theirs; results do not
            depend on it.
    """

    weight: Tensor
    latent: Tensor
    velocity: Tensor
    lower: Tensor
    upper: Tensor
    spec: ReelSpec
    tables: tuple[Tensor, Tensor] | None
    rows: Callable[[Tensor], tuple[Tensor, Tensor]]
    uniform: Callable[[int, int], Tensor]
    largest_option: float
    largest_score: float
    kept: Kept


class Flips(NamedTuple):
    """The connections that took another option, in blocks of `block` connections.

    counts is int64 (blocks,). If flips are recorded, connections and options are int32 (n,): the counts[b]
    flips of block b stand from index b * block on, in rising order of the connection.
    """

    counts: Tensor
    block: int
    connections: Tensor | None = None
    options: Tensor | None = None

    def number(self) -> int:
        """How many there are. This waits for the device."""
        return int(self.counts.sum())

    def listed(self) -> tuple[Tensor, Tensor]:
        """Connections, rising, and their new options: int32 (number,), on the CPU. Waits for the device."""
        if self.connections is None or self.options is None:
            raise AssertionError("these flips were not recorded")
        starts = torch.arange(len(self.counts), device=self.counts.device) * self.block
        ends = self.counts.cumsum(0)
        index = torch.arange(int(ends[-1]), device=starts.device)
        index += (starts - ends + self.counts).repeat_interleave(self.counts)
        return self.connections[index].cpu(), self.options[index].cpu()


class OnDevice(NamedTuple):
    """What of a step is on the device, so that the same call is the next step too: a CUDA graph repeats it.

    `numbers` are those of `slotkit.latent.line.LineColumn`, float64, and the step writes them. `skip` is
    float32 (1,): where it is not 0, nothing moves. `lr`, float64 (1,), is used in place of that of the rule.
    """

    numbers: Tensor
    skip: Tensor
    lr: Tensor | None = None


class Move(NamedTuple):
    """One tensor's part of a step.

    `gradient` is (n,), finite, of the state's dtype; None if A has its new value already. `rule` is a step of
    SGD, which moves A and B, or of Adam, which moves A and its `moments`: the means of the gradient and of
    its square, (n,), of the state's dtype. `line` is that of the scores after the step. `choose` says whether
    to choose the weight anew, `recorded` whether to name the flips or only to count them.

    With `on_device`, for engines that keep lines: `line` is nothing, the rule is that of any step (`intake`
    that of all but the first, an `AdamRule` for Adam), and the step moves the line too.
    """

    arrays: Arrays
    gradient: Tensor | None
    rule: Hyperparameters | AdamStep | AdamRule
    line: Line
    choose: bool
    recorded: bool
    moments: tuple[Tensor, Tensor] | None = None
    on_device: OnDevice | None = None


class Engine(Protocol):
    """The operation. An engine is given all tensors of one device and dtype at once.

    Attributes:
        name: as in the registry.
        draws_read_all: whether every draw reads all K options of a connection, so that storing them pays.
        keeps_lines: whether it takes steps `on_device`, and draws whose number is there.
    """

    name: str
    draws_read_all: bool
    keeps_lines: bool

    def step(self, moves: Sequence[Move]) -> list[Flips | None]:
        """Advance A, and B or the moments, of every connection by the gradient. Then, where the weight is
        chosen and u has left [lower, upper] (or is not a number), choose anew and write weight, lower and
        upper.

        Returns the flips of each tensor, None where nothing was to be chosen.
        """

    def sample(
        self, tensors: Sequence[tuple[Arrays, float | Tensor]], stream: int, number: int | Tensor
    ) -> list[Flips]:
        """Write a sample of the softmax of the scores (draw `number` of `stream`) into every weight.

        Each tensor comes with c of its line, or with the numbers that an engine keeps of it. A number that is
        kept is int64 (1,). Returns how many connections have another option than before;
        these flips name none.
        """
