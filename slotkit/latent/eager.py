"""The latent form in plain PyTorch, on every device: the engine to read."""

from __future__ import annotations

import torch
from torch import Tensor

from slotkit.latent.latent import Hyperparameters, advance, line_scores, reselect
from slotkit.latent.weight import ROWS, LatentWeight
from slotkit.selection import sample, take


class Eager:
    """See `slotkit.latent.engines.Engine`."""

    name = "eager"

    def step(self, weight: LatentWeight, gradient: Tensor, h: Hyperparameters) -> int:
        gradient = gradient.reshape(-1).to(weight.latent.dtype)
        latent, velocity = advance(weight.latent, weight.velocity, gradient, h)
        weight.latent.copy_(latent)
        weight.velocity.copy_(velocity)
        return self.settle(weight) if weight.follows else 0

    def settle(self, weight: LatentWeight) -> int:
        u = weight.latent * weight.line.scale
        # Written so that a u that is not a number (0 * inf: no score left at all) counts as outside.
        outside = ~((u >= weight.lower) & (u <= weight.upper))
        flipped = outside.nonzero().squeeze(-1)
        for part in torch.split(flipped, max(1, ROWS // weight.reel.k)):
            _, values, lower, upper = reselect(*weight.rows(part), weight.latent[part], weight.line)
            weight.lower[part] = lower.to(weight.lower.dtype)
            weight.upper[part] = upper.to(weight.upper.dtype)
            weight.write(part, values)
        return len(flipped)

    def draw(self, weight: LatentWeight, stream: int, number: int) -> None:
        uniform = weight.reel.draw(stream, number, weight.latent.device).reshape(-1)
        everything = torch.arange(len(uniform), device=uniform.device)
        for part in torch.split(everything, max(1, ROWS // weight.reel.k)):
            options, initial = weight.rows(part)
            scores = line_scores(options, initial, weight.latent[part], weight.line.c)
            weight.write(part, take(options, sample(scores, uniform[part])))


ENGINE = Eager()
