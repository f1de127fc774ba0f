"""The engine for the CPU: all tensors of a machine in one call of a compiled loop.

cpu_plan: the tensors as the loops see them. cpu_rows: options and initial scores. cpu_choose: the staircase.
cpu_recent: options that come back. cpu_slack: who has left an interval. cpu_step: the step. cpu_draw:
probabilistic sampling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from slotkit.latent.cpu_draw import REJECTION, draw_blocks
from slotkit.latent.cpu_plan import MOVE_LAYOUT, Call, call_for
from slotkit.latent.cpu_step import gather, step_parallel, step_serial
from slotkit.latent.engines import Move
from slotkit.latent.latent import AT_REST, Hyperparameters
from slotkit.latent.weight import LatentWeight


class Cpu:
    """See `slotkit.latent.engines.Engine`."""

    name = "numba"
    keeps = True

    def step(self, moves: Sequence[Move]) -> list[int] | None:
        weights = [weight for weight, _, _ in moves]
        call = call_for(weights)
        scales = [_write_move(call, i, *move) for i, move in enumerate(moves)]
        versions = _versions(weights)
        if call.versions != versions:
            call.forget()
        flips = _step(call, weights, call.keeps_slack, call.keeps_recent)
        if flips is not None:
            # The step has counted one of each three on, that of the latent.
            versions[::3] = [version + 1 for version in versions[::3]]
            call.versions, call.scales = versions, scales
        return flips

    def settle(self, weights: Sequence[LatentWeight]) -> list[int]:
        call = call_for(weights)
        for i, weight in enumerate(weights):
            _write_move(call, i, weight, None, AT_REST)
        # Mostly of all connections, where nothing that was kept helps. (Adam's steps go without, too.)
        flips = _step(call, weights, slack=False, recent=False)
        assert flips is not None  # there is no gradient
        return flips

    def draw(self, weights: Sequence[LatentWeight], stream: int, number: int) -> list[int]:
        call = call_for(weights)
        for i, weight in enumerate(weights):
            _write_move(call, i, weight, None, AT_REST)
        draw_blocks(*call.arguments, np.uint64(stream + REJECTION), np.uint64(number), call.zero)
        torch.autograd.graph.increment_version([weight.parameter for weight in weights])
        return call.sums()


def _write_move(
    call: Call, i: int, weight: LatentWeight, gradient: Tensor | None, h: Hyperparameters
) -> float:
    """Write what a call's weight i is to do. Returns the scale of its line."""
    line = weight.line
    # float32 would warn of the overflow; infinity is what it should be.
    scale = line.scale
    if scale > call.largest:
        scale = math.inf
    MOVE_LAYOUT.pack_into(
        call.move_bytes,
        i * MOVE_LAYOUT.size,
        0 if gradient is None else gradient.data_ptr(),
        gradient is None or weight.follows,
        *h,
        scale,
        line.c,
        line.sign,
        call.scales[i],
    )
    return scale


def _versions(weights: Sequence[LatentWeight]) -> list[int]:
    """A number that becomes another when the tensor changes, for all that what is kept depends on."""
    return [state._version for weight in weights for state in (weight.latent, weight.lower, weight.upper)]


def _step(call: Call, weights: Sequence[LatentWeight], slack: bool, recent: bool) -> list[int] | None:
    recorded = any(weight.recorded for weight in weights)
    call.use(recorded, slack, recent)
    step = step_parallel if call.parallel else step_serial
    if step(*call.arguments, call.zero, call.infinity):
        return None
    if recorded:
        _hand_out(call, weights)
    # What other calls keep depends on the latents, and is forgotten when they have another version.
    torch.autograd.graph.increment_version(call.changed)
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
