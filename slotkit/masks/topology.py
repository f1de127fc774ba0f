"""Dynamic sparse training: a mask that changes while the weights under it are trained.

SET (Mocanu et al. 2018) and RigL (Evci et al. 2020) drop the smallest weights of each layer every so many
steps and grow as many connections, SET at random and RigL where the gradient is largest. The share of the
connections that have ever been there is the exploration rate R_s of in-time over-parameterisation (Liu et
al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slotkit.errors import DivergedError, SlotkitError
from slotkit.masks.densities import Densities, equal_densities, er_densities, erk_densities, kept_by_layer
from slotkit.masks.exchange import grown, number_exchanged, random_scores, without_smallest
from slotkit.masks.file import Masks, packed, unpacked
from slotkit.masks.keeping import keep_highest_by_layer
from slotkit.masks.masked import MaskedWeights
from slotkit.masks.saliency import shapes_of
from slotkit.masks.sparse_settings import SparseSettings
from slotkit.picking import pick

DISTRIBUTIONS: dict[str, Densities] = {
    "uniform": equal_densities,
    "er": er_densities,
    "erk": erk_densities,
}


@dataclass(frozen=True)
class Change:
    """What an update did.

    Attributes:
        step: after which it came.
        rate: the share that each layer was to drop.
        dropped: how many connections were dropped, and as many grown.
        new: how many of the grown ones are others than the dropped ones.
        explored: R_s, the share of all connections that have been there so far.
    """

    step: int
    rate: float
    dropped: int
    new: int
    explored: float

    def as_dict(self) -> dict[str, Any]:
        """For metrics.jsonl."""
        return asdict(self)


class Topology:
    """The masks of a network while they change, and which connections have been there so far.

    Each layer keeps its number of connections. What is drawn depends on the seed, the layer's name and the
    step alone.

    Attributes:
        kept: connections of each layer.
        explored: name -> bool, those that have been there.
    """

    def __init__(
        self, network: nn.Module, settings: SparseSettings, seed: int, masks: Masks | None = None
    ) -> None:
        """Mask the weights of the network; without `masks` random ones of the settings' density.

        Raises SlotkitError, before anything is changed, for settings that can't be, or masks of another
        network.
        """
        if not settings.is_on:
            raise SlotkitError(
                "sparse.method is none, so no mask would change. Choose set or rigl; for a mask that stays "
                "there is slotkit.masks.masked.MaskedWeights."
            )
        settings.check(None if masks is None else "the masks given")
        self.settings, self._seed = settings, seed
        picked = pick(network)
        self._channel_dims = {one.name: one.channel_dim for one in picked}
        if masks is None:
            masks = _first_masks({one.name: one.parameter for one in picked}, settings, seed)
        needs_initial = settings.grown == "initial" or settings.proposals > 1
        self.masked = MaskedWeights(network, masks, needs_initial)
        self.kept = {name: int(mask.sum()) for name, mask in masks.items()}
        self.explored = {name: mask.clone() for name, mask in self.masked.masks.items()}

    @property
    def connections(self) -> int:
        """Of all layers, active or not."""
        return sum(mask.numel() for mask in self.masked.masks.values())

    @property
    def density(self) -> float:
        """The share of the connections that are there."""
        return sum(self.kept.values()) / self.connections

    @property
    def explored_share(self) -> float:
        """The exploration rate R_s."""
        return sum(int(mask.sum()) for mask in self.explored.values()) / self.connections

    def ends_at(self, total: int) -> int:
        """The last step of a training of `total` steps after which the mask may change."""
        return math.floor(self.settings.until * total + 1e-9)

    def is_due(self, step: int, total: int) -> bool:
        """Whether an update comes after that step, counted from 1."""
        return step % self.settings.interval == 0 and step <= self.ends_at(total)

    def rate(self, step: int, total: int) -> float:
        """The share of its connections that a layer drops after that step."""
        first, last = self.settings.drop_rate, self.settings.drop_end
        if self.settings.drop_schedule == "constant":
            return first
        passed = step / max(self.ends_at(total), 1)
        if self.settings.drop_schedule == "cosine":
            passed = (1 - math.cos(math.pi * passed)) / 2
        return first + (last - first) * passed

    def step(self, optimizer: Optimizer, step: int, total: int) -> Change | None:
        """Step number `step`, from 1, of a training of `total`, on the gradients that are there.

        Where it is due, the masks are updated after it, and what became of them is returned.
        """
        due = self.is_due(step, total)
        dense = self._gradients() if due else {}
        self.masked.mask_gradients()
        optimizer.step()
        return self.update(step, total, optimizer, dense) if due else None

    def _gradients(self) -> dict[str, Tensor]:
        """Copies of what rigl needs of the gradients before they are masked; nothing for set.

        It is the gradient of the step's own batch at the weights before the step: no extra backward pass.
        """
        if self.settings.method != "rigl":
            return {}
        found = {name: weight.grad for name, weight in self.masked.weights.items()}
        return {
            name: torch.zeros_like(self.masked.weights[name]) if gradient is None else gradient.clone()
            for name, gradient in found.items()
        }

    @torch.no_grad()
    def update(self, step: int, total: int, optimizer: Optimizer, gradients: Mapping[str, Tensor]) -> Change:
        """Drop and grow in every layer, after that step. `gradients` are those of all connections, for rigl.

        Raises DivergedError if weights or gradients are not finite.
        """
        rate = self.rate(step, total)
        dropped = new = 0
        for name, weight in self.masked.weights.items():
            before = self.masked.masks[name]
            number = number_exchanged(rate, self.kept[name], weight.numel())
            if number == 0:
                continue
            _check_finite(name, step, weight, gradients.get(name))
            stays = without_smallest(weight, before, number, self.settings.drop_by)
            after = self._grow(name, stays, number, step, gradients)
            self._put(name, stays, after, optimizer)
            dropped, new = dropped + number, new + int((after & ~before).sum())
        return Change(step, rate, dropped, new, self.explored_share)

    def state(self) -> dict[str, Any]:
        """What a checkpoint has of it beside the masks: the explored set as packed bits."""
        return {"explored": {name: packed(mask) for name, mask in self.explored.items()}}

    def masks_state(self) -> dict[str, Tensor]:
        """The masks as packed bits."""
        return {name: packed(mask) for name, mask in self.masked.masks.items()}

    def masks_in(self, state: Mapping[str, Tensor]) -> Masks:
        """The masks of a `masks_state`.

        Raises SlotkitError, the part of a sentence, unless each layer has its number of connections.
        """
        found = {name: unpacked(state[name], tuple(mask.shape), name) for name, mask in self._like.items()}
        for name, mask in found.items():
            if int(mask.sum()) != self.kept[name]:
                raise SlotkitError(
                    f"the mask of {name} has {int(mask.sum())} connections, where {self.kept[name]} are due"
                )
        return found

    def explored_in(self, state: Mapping[str, Any], masks: Masks) -> Masks:
        """The explored set of a `state`, in which these masks are.

        Raises SlotkitError, the part of a sentence, if they are not.
        """
        there = state["explored"]
        found = {name: unpacked(there[name], tuple(mask.shape), name) for name, mask in self._like.items()}
        for name, mask in found.items():
            if bool((masks[name].cpu() & ~mask).any()):
                raise SlotkitError(f"the explored connections of {name} lack some of its mask")
        return found

    def set_masks(self, masks: Masks) -> None:
        """Take over masks; weights are left as they are."""
        for name, mask in masks.items():
            self.masked.set_mask(name, mask)

    def set_explored(self, explored: Masks) -> None:
        """Take over what has been there so far."""
        self.explored = {name: mask.to(self._like[name].device) for name, mask in explored.items()}

    @property
    def _like(self) -> Masks:
        return self.masked.masks

    def _grow(
        self, name: str, stays: Tensor, number: int, step: int, gradients: Mapping[str, Tensor]
    ) -> Tensor:
        """A mask with `number` connections more. Those that were just dropped may come back, as in RigL."""
        if self.settings.method == "rigl":
            return grown(gradients[name].abs(), stays, number)
        candidates = [
            grown(random_scores(stays, name, self._seed, step, proposal), stays, number)
            for proposal in range(self.settings.proposals)
        ]
        if len(candidates) == 1:
            return candidates[0]
        return max(candidates, key=lambda mask: self._score(name, mask))  # of equal ones the first

    def _score(self, name: str, mask: Tensor) -> float:
        """The graph score that proposals are judged by, with the initial weights."""
        from slotkit.masks.scores import score_layer  # every training imports this file, and scipy takes long

        weight = self.masked.initial[name].double().cpu().numpy()
        found = score_layer(mask.cpu().numpy(), weight, channel_dim=self._channel_dims.get(name, 0))
        return found.norm if self.settings.proposal_score == "spectrum" else found.imdb

    def _put(self, name: str, stays: Tensor, after: Tensor, optimizer: Optimizer) -> None:
        """The mask `after`: grown weights begin anew, and nothing that was dropped or grown has momentum."""
        weight = self.masked.weights[name]
        fresh = after & ~stays
        weight.masked_fill_(~stays, 0.0)
        if self.settings.grown == "initial":
            weight.copy_(torch.where(fresh, self.masked.initial[name], weight))
        for value in optimizer.state.get(weight, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                value.masked_fill_(~stays, 0.0)
        self.masked.set_mask(name, after)
        self.explored[name] = self.explored[name] | after


def _first_masks(weights: Mapping[str, Tensor], settings: SparseSettings, seed: int) -> Masks:
    """Random masks: exactly the density of the whole, shared out among the layers."""
    assert settings.density is not None
    shapes = shapes_of(weights.items())
    densities = DISTRIBUTIONS[settings.distribution](shapes, settings.density)
    kept = kept_by_layer(shapes, densities, settings.density)
    scores = {name: random_scores(weight, name, seed, 0) for name, weight in weights.items()}
    return keep_highest_by_layer(scores, kept)


def _check_finite(name: str, step: int, *tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise DivergedError(
                f"Weights or gradients of {name} are not finite where its mask is to change, after step "
                f"{step}. Lower --lr and start again."
            )
