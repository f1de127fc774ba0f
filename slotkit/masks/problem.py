"""A network with its initial weights, and the training images, as something to draw masks for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from slotkit.data.batches import ordered_batches
from slotkit.data.seeds import generator, subseed
from slotkit.errors import SlotkitError
from slotkit.masks.acceptance import HELD_OUT
from slotkit.masks.file import About, Masks
from slotkit.masks.keeping import keep_highest, number_kept
from slotkit.masks.making import origin, training_batches
from slotkit.masks.methods import Method, Request
from slotkit.masks.saliency import Batches, check_mode, measuring, pruned
from slotkit.masks.samplers import Sampler
from slotkit.picking import pick
from slotkit.training.prepare import Prepared

# Draw 0 is the first mask's; the batches of all images in turn.
FIRST = 0


@dataclass(frozen=True)
class Asked:
    """What masks are drawn from.

    Attributes:
        batches: how many a draw looks at.
        first_batches: the same of the first mask; 0 for all training images.
        held_out: how many validation images a loss is taken of; 0 where none is.
    """

    method: Method
    sampler: Sampler
    request: Request
    batches: int
    first_batches: int = 0
    held_out: int = HELD_OUT

    def check(self) -> None:
        """Raise SlotkitError for what can't be, before data are loaded."""
        check_mode(self.request.mode)
        number_kept(self.request.density, 1 << 40)
        if not self.method.uses_batches:
            raise SlotkitError(
                f"{self.method.name} looks at no data, so all its draws are one mask. Choose snip, iter-snip "
                "or grasp."
            )
        for flag, value, least in (("batches", self.batches, 1), ("first-batches", self.first_batches, 0)):
            if value < least:
                raise SlotkitError(f"--{flag} is {value}. Give {least} or more.")


class Drawn:
    """The problem of a `slotkit.masks.search.Search`. Validation images are for `loss` alone."""

    def __init__(self, prepared: Prepared, asked: Asked) -> None:
        asked.check()
        self._prepared, self._asked = prepared, asked
        self._network = prepared.trainee.model
        self._parameters = {one.name: one.parameter for one in pick(self._network)}
        self.weights = {name: weight.detach().cpu().clone() for name, weight in self._parameters.items()}
        self.kept = number_kept(asked.request.density, sum(w.numel() for w in self.weights.values()))
        self._saliency: dict[str, Tensor] | None = None

    def first(self) -> Masks:
        """See `slotkit.masks.search.Problem`."""
        if self._asked.method.rounds == 1:
            return keep_highest(self.saliency(), self.kept)
        return self._masks(FIRST, self._asked.first_batches)

    def draw(self, number: int) -> Masks:
        """See `slotkit.masks.search.Problem`."""
        return self._masks(number, self._asked.batches)

    def loss(self, masks: Masks) -> float:
        """See `slotkit.masks.search.Problem`; nats, the mean over images."""
        images = self._prepared.images("validation")
        images = images.subset(torch.arange(min(self._asked.held_out, len(images))))
        here = {
            name: mask.to(weight.device)
            for (name, mask), weight in zip(masks.items(), self._parameters.values(), strict=True)
        }
        config, total = self._prepared.config, 0.0
        pairs = ordered_batches(
            images, config.training.batch_size, mean=config.data.mean, std=config.data.std
        )
        with (
            # All masks are measured with the same dropout.
            measuring(self._network, self._parameters, self._asked.request.mode, self._asked.request.seed),
            pruned(self._parameters, here),
            torch.no_grad(),
        ):
            for inputs, labels in pairs:
                total += float(nn.functional.cross_entropy(self._network(inputs), labels, reduction="sum"))
        return total / len(images)

    def saliency(self) -> dict[str, Tensor]:
        """See `slotkit.masks.search.Problem`; measured once."""
        if self._saliency is None:
            given = self._batches(FIRST, self._asked.first_batches)
            found = self._asked.method.score(self._network, self._parameters, given, self._request(FIRST))
            self._saliency = {name: score.detach().cpu() for name, score in found.items()}
        return self._saliency

    def about(self, draw: int) -> About:
        """What the file of a mask says of itself."""
        network, start = origin(self._prepared)
        data, seed = self._prepared.config.data.dataset, self._prepared.config.seeds.data
        return About(
            method=f"{self._asked.method.name} search",
            density=self._asked.request.density,
            settings={"seed": seed, "data": data.partition(":")[0], "draw": draw},
            network=network,
            start=start,
        )

    def _masks(self, draw: int, number: int) -> Masks:
        given = self._batches(draw, number)
        found = self._asked.method.masks(self._network, self._request(draw), given)
        return {name: mask.cpu() for name, mask in found.items()}

    def _request(self, draw: int) -> Request:
        """With the seed of a draw, so that dropout too is a function of its number."""
        return replace(self._asked.request, seed=subseed("mask draw", self._asked.request.seed, draw))

    def _batches(self, draw: int, number: int) -> Batches:
        images, config = self._prepared.images("train"), self._prepared.config
        size, seed = config.training.batch_size, config.seeds.data
        if number == 0:
            order = torch.randperm(len(images), generator=generator("mask draw", seed, draw))
        else:
            order = self._asked.sampler.images(images.labels, seed, draw, number * size)
        return _Drawn(self._prepared, draw, order)


@dataclass(frozen=True)
class _Drawn:
    """The batches of a draw. They are made when they are looked at: those of all images need much memory."""

    prepared: Prepared
    draw: int
    order: Tensor

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.prepared.config.training.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return training_batches(self.prepared, self.draw, self.order)
