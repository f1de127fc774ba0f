"""The latent form in plain PyTorch, on every device: the engine to read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slotkit.latent.engines.contract import Arrays, Flips, Move
from slotkit.latent.line import Line, advance, advance_by_adam, line_scores, reselect
from slotkit.reel import ROWS
from slotkit.selection import sample, take


class Eager:
    """See `slotkit.latent.engines.contract.Engine`."""

    name = "eager"
    draws_read_all = True
    keeps_lines = False

    def step(self, moves: Sequence[Move]) -> list[Flips | None]:
        return [self.step_one(move) for move in moves]

    def sample(self, tensors: Sequence[tuple[Arrays, float]], stream: int, number: int) -> list[Flips]:
        return [self.sample_one(arrays, c, stream, number) for arrays, c in tensors]

    def step_one(self, move: Move) -> Flips | None:
        if move.gradient is not None:
            self.advance(move, move.gradient)
        return self.choose(move.arrays, move.line, move.recorded) if move.choose else None

    def advance(self, move: Move, gradient: Tensor) -> None:
        latent, velocity = move.arrays.latent, move.arrays.velocity
        kept: tuple[Tensor, ...] = latent, velocity
        new: tuple[Tensor, ...]
        if move.moments is None:
            new = advance(latent, velocity, gradient, move.rule)
        else:
            kept = latent, *move.moments
            new = advance_by_adam(latent, *move.moments, gradient, move.rule, torch.sqrt)
        for tensor, values in zip(kept, new, strict=True):
            tensor.copy_(values)

    def choose(self, arrays: Arrays, line: Line, recorded: bool) -> Flips:
        u = arrays.latent * line.scale
        # Written so that a u that is not a number (0 * inf: no score left at all) counts as outside.
        outside = ~((u >= arrays.lower) & (u <= arrays.upper))
        # Not all of these flip: after c has changed its sign, every connection is looked at.
        looked_at = outside.nonzero().squeeze(-1)
        connections, options = [looked_at[:0].int()], [looked_at[:0].int()]
        for part in torch.split(looked_at, max(1, ROWS // arrays.spec.k)):
            selected, values, lower, upper = reselect(*arrays.rows(part), arrays.latent[part], line)
            arrays.lower[part] = lower.to(arrays.lower.dtype)
            arrays.upper[part] = upper.to(arrays.upper.dtype)
            values = values.to(arrays.weight.dtype)
            flipped = arrays.weight[part] != values
            arrays.weight[part] = values
            connections.append(part[flipped].int())
            options.append(selected[flipped].int())
        found = torch.cat(connections)
        counts = torch.tensor([len(found)], device=found.device)
        block = len(arrays.weight)
        return Flips(counts, block, found, torch.cat(options)) if recorded else Flips(counts, block)

    def sample_one(self, arrays: Arrays, c: float, stream: int, number: int) -> Flips:
        before = arrays.weight.clone()
        uniform = arrays.uniform(stream, number)
        everything = torch.arange(len(uniform), device=uniform.device)
        for part in torch.split(everything, max(1, ROWS // arrays.spec.k)):
            arrays.weight[part] = self.sample_rows(arrays, c, part, uniform[part]).to(arrays.weight.dtype)
        return Flips((arrays.weight != before).sum().view(1), len(before))

    def sample_rows(self, arrays: Arrays, c: float, part: Tensor, uniform: Tensor) -> Tensor:
        """The values of a sample of some connections (m,)."""
        options, initial = arrays.rows(part)
        scores = line_scores(options, initial, arrays.latent[part], c)
        return take(options, sample(scores, uniform))


ENGINE = Eager()
