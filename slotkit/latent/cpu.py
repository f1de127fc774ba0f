"""The engine for the CPU: all tensors of a machine in one call of a compiled loop.

cpu_plan: the tensors as the loops see them. cpu_rows: options and initial scores. cpu_reachable: those
worth keeping. cpu_step: the step. cpu_draw: probabilistic sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slotkit.latent.cpu_draw import REJECTION, draw_blocks
from slotkit.latent.cpu_plan import Call, call_for
from slotkit.latent.cpu_step import gather, step_parallel, step_serial
from slotkit.latent.engines import Move
from slotkit.latent.latent import AT_REST, Hyperparameters
from slotkit.latent.weight import LatentWeight

# The bits of the exponent.
EXPONENTS = {
    torch.float32: np.array([0x7F800000], np.int32),
    torch.float64: np.array([0x7FF << 52], np.int64),
}
LARGEST = {dtype: torch.finfo(dtype).max for dtype in EXPONENTS}


NO_EVENTS = np.zeros((0, 2), np.int32)


class Cpu:
    """See `slotkit.latent.engines.Engine`."""

    name = "numba"
    keeps = True

    def step(self, moves: Sequence[Move]) -> list[int] | None:
        weights = [weight for weight, _, _ in moves]
        keep = all(weight.keep_reachable for weight in weights)
        return _step(weights, [_move(*move) for move in moves], keep)

    def settle(self, weights: Sequence[LatentWeight]) -> list[int]:
        # Mostly all connections at once, which would drive each other out. (Adam's steps go without, too.)
        flips = _step(weights, [_move(weight, None, AT_REST) for weight in weights], keep=False)
        assert flips is not None  # there is no gradient
        return flips

    def draw(self, weights: Sequence[LatentWeight], stream: int, number: int) -> list[int]:
        call = call_for(weights)
        c = np.array([weight.line.c for weight in weights])
        stream_of_tries = np.uint64(stream + REJECTION)
        draw_blocks(call.plan, c, stream_of_tries, np.uint64(number), call.first, call.counts, call.prototype)
        torch.autograd.graph.increment_version([weight.parameter for weight in weights])
        return call.sums()


def _move(weight: LatentWeight, gradient: Tensor | None, h: Hyperparameters) -> tuple[Any, ...]:
    line = weight.line
    # float32 would warn of the overflow; infinite is what it should be.
    scale = line.scale if line.scale < LARGEST[weight.latent.dtype] else np.inf
    return (
        0 if gradient is None else gradient.data_ptr(),
        gradient is None or weight.follows,
        h.nesterov,
        h.lr,
        h.momentum,
        h.intake,
        h.weight_decay,
        h.sign,
        scale,
        line.c,
        line.sign,
    )


def _step(weights: Sequence[LatentWeight], moves: list[tuple[Any, ...]], keep: bool) -> list[int] | None:
    call = call_for(weights)
    step = step_parallel if call.parallel else step_serial
    exponent = EXPONENTS[weights[0].latent.dtype]
    recorded = any(weight.recorded for weight in weights)
    events = call.events() if recorded else NO_EVENTS
    kept = call.kept() if keep else call.nothing_kept
    for i, move in enumerate(moves):
        call.moves[i] = move
    if step(call.plan, call.moves, call.first, call.counts, call.prototype, exponent, events, kept):
        return None
    if recorded:
        _hand_out(call, weights)
    torch.autograd.graph.increment_version([weight.parameter for weight in weights])
    return call.sums()


def _hand_out(call: Call, weights: Sequence[LatentWeight]) -> None:
    """Give each weight the events of its flips."""
    found = np.empty((call.counts.sum(), 2), np.int32)
    gather(call.events(), call.counts, found)
    ends = np.cumsum(call.sums())
    for weight, end, count in zip(weights, ends, call.sums(), strict=True):
        mine = found[end - count : end]
        weight.events = torch.from_numpy(mine[:, 0]), torch.from_numpy(mine[:, 1])


ENGINE = Cpu()
