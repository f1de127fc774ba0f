"""Which training images the batches of a draw have: a registry of samplers.

A sampler gives an order of image numbers as a function of (labels, seed, draw): a search that stops and goes
on sees the same batches. Every sampler begins anew with each draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slotkit.data.seeds import generator
from slotkit.errors import SlotkitError

# (labels (n,), seed, draw, how many image numbers are wanted) -> int64 of that length.
Order = Callable[[Tensor, int, int, int], Tensor]


@dataclass(frozen=True)
class Sampler:
    name: str
    words: str
    order: Order

    def images(self, labels: Tensor, seed: int, draw: int, wanted: int) -> Tensor:
        """The numbers of so many images, int64 (wanted,).

        Raises SlotkitError if there are not so many.
        """
        if wanted > len(labels):
            raise SlotkitError(
                f"The batches of a draw have {wanted} images, and there are {len(labels)} training images. "
                "Ask for fewer or smaller batches."
            )
        return self.order(labels.cpu(), seed, draw, wanted)


def _random(labels: Tensor, seed: int, draw: int, wanted: int) -> Tensor:
    return torch.randperm(len(labels), generator=generator("mask draw", seed, draw))[:wanted]


def _decks(labels: Tensor, chance: torch.Generator) -> list[list[int]]:
    """The image numbers of each class, shuffled."""
    shuffled = torch.randperm(len(labels), generator=chance)
    classes = torch.unique(labels).tolist()
    return [shuffled[labels[shuffled] == label].tolist() for label in classes]


def _dealt(decks: list[list[int]], turns: list[int]) -> Tensor:
    """An image of the class of each turn; a class whose images are used up begins anew."""
    at = [0] * len(decks)
    found = []
    for turn in turns:
        found.append(decks[turn][at[turn] % len(decks[turn])])
        at[turn] += 1
    return torch.tensor(found, dtype=torch.int64)


def _uniform(labels: Tensor, seed: int, draw: int, wanted: int) -> Tensor:
    chance = generator("mask draw", seed, draw)
    decks = _decks(labels, chance)
    return _dealt(decks, torch.randint(len(decks), (wanted,), generator=chance).tolist())


def _representative(labels: Tensor, seed: int, draw: int, wanted: int) -> Tensor:
    chance = generator("mask draw", seed, draw)
    decks = _decks(labels, chance)
    rounds = -(-wanted // len(decks))
    turns = torch.cat([torch.randperm(len(decks), generator=chance) for _ in range(rounds)])
    return _dealt(decks, turns[:wanted].tolist())


def find_sampler(name: str) -> Sampler:
    """Raises SlotkitError for a name that is none."""
    if name not in SAMPLERS:
        raise SlotkitError(f"There is no sampler {name!r}. Choose {', '.join(SAMPLERS)}.")
    return SAMPLERS[name]


SAMPLERS: dict[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        Sampler("random", "images without replacement, whatever their class", _random),
        Sampler("uniform", "the class of each image is drawn, all alike; our reading", _uniform),
        Sampler(
            "representative",
            "classes are dealt in turn, so batches have as many of each; our reading",
            _representative,
        ),
    )
}
