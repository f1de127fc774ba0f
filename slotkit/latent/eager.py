"""The latent form in plain PyTorch, on every device: the engine to read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slotkit.latent.engines import Move
from slotkit.latent.latent import Hyperparameters, advance, line_scores, reselect
from slotkit.latent.weight import ROWS, LatentWeight, is_finite
from slotkit.selection import sample, take


class Eager:
    """See `slotkit.latent.engines.Engine`."""

    name = "eager"
    keeps = False

    def step(self, moves: Sequence[Move]) -> list[int] | None:
        if not all(is_finite(gradient) for _, gradient, _ in moves):
            return None
        return [self.step_one(*move) for move in moves]

    def settle(self, weights: Sequence[LatentWeight]) -> list[int]:
        return [self.settle_one(weight) for weight in weights]

    def draw(self, weights: Sequence[LatentWeight], stream: int, number: int) -> list[int]:
        return [self.draw_one(weight, stream, number) for weight in weights]

    def step_one(self, weight: LatentWeight, gradient: Tensor, h: Hyperparameters) -> int:
        latent, velocity = advance(weight.latent, weight.velocity, gradient.view(-1), h)
        weight.latent.copy_(latent)
        weight.velocity.copy_(velocity)
        return self.settle_one(weight) if weight.follows else 0

    def settle_one(self, weight: LatentWeight) -> int:
        u = weight.latent * weight.line.scale
        # Written so that a u that is not a number (0 * inf: no score left at all) counts as outside.
        outside = ~((u >= weight.lower) & (u <= weight.upper))
        # Not yet flips: where c changed its sign every connection is looked at.
        looked_at = outside.nonzero().squeeze(-1)
        events = []
        for part in torch.split(looked_at, max(1, ROWS // weight.reel.k)):
            selected, values, lower, upper = reselect(*weight.rows(part), weight.latent[part], weight.line)
            weight.lower[part] = lower.to(weight.lower.dtype)
            weight.upper[part] = upper.to(weight.upper.dtype)
            flipped = weight.values(part) != values.to(weight.parameter.dtype)
            weight.write(part, values)
            events.append(torch.stack([part[flipped], selected[flipped]]).int().cpu())
        if weight.recorded and events:
            connections, options = torch.cat(events, dim=1)
            weight.events = connections, options
        return sum(part.shape[1] for part in events)

    def draw_one(self, weight: LatentWeight, stream: int, number: int) -> int:
        before = weight.parameter.detach().clone()
        uniform = weight.reel.draw(stream, number, weight.latent.device).reshape(-1)
        everything = torch.arange(len(uniform), device=uniform.device)
        for part in torch.split(everything, max(1, ROWS // weight.reel.k)):
            options, initial = weight.rows(part)
            scores = line_scores(options, initial, weight.latent[part], weight.line.c)
            weight.write(part, take(options, sample(scores, uniform[part])))
        return int((weight.parameter.detach() != before).sum())


ENGINE = Eager()
