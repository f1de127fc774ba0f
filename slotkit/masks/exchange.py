"""Which connections of a layer are dropped and which are grown: always as many of the one as of the other.

Of equal ones those that come first stay, and those that come first are grown.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slotkit.philox import WORD, key_of, philox
from slotkit.selection import highest


def number_exchanged(rate: float, active: int, connections: int) -> int:
    """How many are dropped and grown: that share of the active ones, rounded up.

    At most as many as are inactive, so that a dense layer is left alone. The known code drops connections of
    dense layers too, and has nothing but these to grow.
    """
    # 0.07 * 100 is 7.000000000000001.
    return min(math.ceil(rate * active - 1e-9), connections - active)


def without_smallest(weight: Tensor, mask: Tensor, number: int, by: str = "magnitude") -> Tensor:
    """A mask without `number` of its connections, bool.

    by="magnitude": those of the smallest |weight|. "signs" (SET's own rule): half of them those of the
    smallest positive weights, the odd one and weights of 0 included, half those of the largest negative
    ones; where one sign has too few, the other has more.
    """
    size, active = weight.detach().abs().reshape(-1), mask.reshape(-1)
    if by == "magnitude":
        return _largest(size, active, int(active.sum()) - number).view_as(mask)
    negative = active & (weight.detach().reshape(-1) < 0)
    other = active & ~negative
    negatives, others = int(negative.sum()), int(other.sum())
    from_negative = max(min(number // 2, negatives), number - others)
    kept = _largest(size, negative, negatives - from_negative)
    kept |= _largest(size, other, others - (number - from_negative))
    return kept.view_as(mask)


def grown(scores: Tensor, mask: Tensor, number: int) -> Tensor:
    """A mask with `number` connections more: those of the highest scores (0 or more) that it lacks."""
    inactive = scores.reshape(-1).masked_fill(mask.reshape(-1), -1)
    return mask | highest(inactive, number).view_as(mask)


def random_scores(like: Tensor, name: str, seed: int, step: int, proposal: int = 0) -> Tensor:
    """A 32-bit word for each connection of the weight `name`, int64: a function of what is named here.

    Word i is word i % 4 of block (i // 4, step, proposal). Step 0 is that of the first mask.
    """
    number = like.numel()
    block = torch.arange(math.ceil(number / 4), device=like.device)
    places = (
        block & WORD,
        block >> 32,
        torch.full_like(block, step & WORD),
        torch.full_like(block, proposal),
    )
    words = torch.stack(philox(places, key_of("sparse", name, seed)), dim=1)
    return words.reshape(-1)[:number].view(like.shape)


def _largest(size: Tensor, mask: Tensor, kept: int) -> Tensor:
    """Of the connections of a mask the `kept` largest."""
    return highest(size.masked_fill(~mask, -1), kept)
