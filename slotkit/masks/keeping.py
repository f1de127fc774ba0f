"""From scores to masks: exactly k connections, those of the highest scores, and of equal ones the first."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.masks.file import Masks, packed
from slotkit.selection import highest


def number_kept(density: float, connections: int) -> int:
    """The whole number nearest to that share. Raises SlotkitError unless it is one connection or more."""
    if not 0 < density <= 1:
        raise SlotkitError(f"The density is {density}. Give a share of the connections above 0, at most 1.")
    kept = round(density * connections)
    if kept < 1:
        raise SlotkitError(
            f"The density {density} of {connections} connections keeps none. Give {1 / connections:.2g} or "
            "more."
        )
    return kept


def share_of(masks: Masks) -> float:
    """The share of connections that are there, of all layers together."""
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def are_equal(one: Masks, other: Masks) -> bool:
    """Whether two masks of a network have the same connections."""
    return one.keys() == other.keys() and all(mask.equal(other[name]) for name, mask in one.items())


def digest(masks: Masks) -> str:
    """Of names, shapes and connections: the same for equal masks, whatever their files say."""
    found = hashlib.blake2b(digest_size=16)
    for name, mask in sorted(masks.items()):
        found.update(f"{name} {tuple(mask.shape)} ".encode())
        found.update(packed(mask).numpy().tobytes())
    return found.hexdigest()


def keep_highest(scores: Mapping[str, Tensor], kept: int) -> Masks:
    """The `kept` highest scores of all layers together; of equal scores the first, by layer and place.

    Raises SlotkitError if a score is not a number.
    """
    for name, score in scores.items():
        if bool(score.isnan().any()):
            raise SlotkitError(
                f"The scores of {name} are not numbers. Its network's loss or gradient overflows: give it "
                "other initial weights or batches, or another mode."
            )
    flat = torch.cat([score.detach().reshape(-1) for score in scores.values()])
    chosen = torch.split(highest(flat, kept), [score.numel() for score in scores.values()])
    return {
        name: part.reshape(score.shape) for (name, score), part in zip(scores.items(), chosen, strict=True)
    }


def keep_highest_by_layer(scores: Mapping[str, Tensor], kept: Mapping[str, int]) -> Masks:
    """In each layer, so many of its highest scores."""
    return {name: keep_highest({name: score}, kept[name])[name] for name, score in scores.items()}
