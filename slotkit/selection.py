"""Choose one of K: the whole idea of a slot machine, in one place.

Every connection has options W_1..W_K, which are never changed, and scores s_1..s_K, which are
trained. The weight in use is w = W_k*, where

    greedy selection (GS)          k* = argmax_k s_k
    probabilistic sampling (PS)    k* ~ softmax(s_1..s_K)

and the gradient goes straight through to all K scores (Eq. 9 of the paper): ds_k = dL/dw * W_k.
Layers, checkpoints, evaluation and analyses all call the functions of this file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slotkit.errors import SlotkitError, many

SELECTIONS = ("greedy", "probabilistic")
ALIASES = {"gs": "greedy", "ps": "probabilistic"}
UPDATES = ("all", "selected")


def find_selection(name: str) -> str:
    """ "greedy" or "probabilistic" for a name or the paper's short form (GS, PS), in any case."""
    plain = ALIASES.get(name.lower(), name.lower())
    if plain not in SELECTIONS:
        raise SlotkitError(f"There is no selection {name!r}. Choose greedy (GS) or probabilistic (PS).")
    return plain


def greedy(scores: Tensor) -> Tensor:
    """Greedy selection: the index of the highest score; among equal scores the lowest index.

    scores (..., K) -> int64 (...).
    """
    return scores.max(dim=-1).indices  # those of argmax, in three quarters of its time


def greedy_within(scores: Tensor, kept: int) -> Tensor:
    """Greedy within a budget: `kept` connections use the best of options 1 .. K - 1, the others option 0.

    They are those whose best option is the furthest above option 0; of equal ones those that come first.
    With the options {0, w} this is edge-popup's choice, the top share of a layer (Ramanujan et al. 2020).

    scores (..., K) -> int64 (...).
    """
    best = scores[..., 1:].max(dim=-1)
    above = best.values - scores[..., 0]
    return torch.where(highest(above.reshape(-1), kept).reshape(above.shape), best.indices + 1, 0)


def kept_of(share: float | None, connections: int, name: str) -> int | None:
    """The budget of `greedy_within` for a tensor: that share of its connections; None for all of them.

    Raises SlotkitError for none: a layer of zeros gives every image the same, and passes no gradient on.
    """
    if share is None:
        return None
    kept = round(share * connections)
    if kept == 0:
        raise SlotkitError(
            f"share is {share}, which is none of the {many(connections, 'connection')} of {name}. Give a "
            "larger share, or leave that weight out with `where`."
        )
    return kept


def highest(values: Tensor, kept: int) -> Tensor:
    """Which of the values (n,) are the `kept` highest, bool; of equal ones those that come first."""
    if kept <= 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = values.kthvalue(len(values) - kept + 1).values
    found = values > threshold
    ties = (values == threshold).nonzero().squeeze(1)
    found[ties[: kept - int(found.sum())]] = True
    return found


def sample(scores: Tensor, uniform: Tensor) -> Tensor:
    """Probabilistic sampling: index k with probability softmax(scores)_k, by the inverse CDF.

    scores (..., K) and uniform (...) in (0, 1) -> int64 (...). The first k whose cumulative weight
    reaches uniform * total: an option of probability zero is never chosen.
    """
    if scores.dtype in (torch.float16, torch.bfloat16):
        # A cumulative sum of a few bits would prefer some options visibly.
        scores = scores.float()
    cumulative = torch.exp(scores - scores.amax(dim=-1, keepdim=True)).cumsum_(dim=-1)
    target = uniform.to(scores.dtype).unsqueeze(-1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target).squeeze(-1)


def pick_uniformly(k: int, uniform: Tensor) -> Tensor:
    """Index floor(uniform * k): every option equally likely. uniform (...) in (0, 1) -> int64 (...)."""
    return (uniform.double() * k).long()


def are_selected(selected: object, shape: torch.Size, k: int) -> bool:
    """Whether this is the number of an option, int64 from 0 to k - 1, for each connection of a shape."""
    return (
        isinstance(selected, Tensor)
        and selected.dtype == torch.int64
        and selected.shape == shape
        and not bool(((selected < 0) | (selected >= k)).any())
    )


def take(options: Tensor, selected: Tensor) -> Tensor:
    """The weight in use: options (..., K) at indices selected (...) -> (...)."""
    return options.gather(-1, selected.unsqueeze(-1)).squeeze(-1)


class StraightThrough(torch.autograd.Function):
    """w = W_k* forward; backward dL/ds_k = dL/dw * W_k, for all k or for the selected one only.

    Backward makes one tensor of K values a connection, the gradient, and no other.
    """

    generate_vmap_rule = True  # so that torch.func's transforms work

    @staticmethod
    def forward(scores: Tensor, options: Tensor, selected: Tensor, update: str) -> Tensor:
        """scores and options (..., K), selected int64 (...) -> the weight in use (...)."""
        return take(options, selected)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what backward needs: the options, or the selected ones."""
        _, options, selected, ctx.update = inputs
        ctx.k = options.shape[-1]
        ctx.save_for_backward(*((options,) if ctx.update == "all" else (output, selected)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """dL/dw (...) -> dL/ds (..., K), Eq. 9; no gradient for options, selection and update."""
        if ctx.update == "all":
            (options,) = ctx.saved_tensors
            return gradients[0].unsqueeze(-1) * options, None, None, None
        weight, selected = ctx.saved_tensors
        moved = gradients[0] * weight.detach()  # an option is a constant, also for a second derivative
        only = moved.new_zeros((*moved.shape, ctx.k))
        return only.scatter_(-1, selected.unsqueeze(-1), moved.unsqueeze(-1)), None, None, None


def select(scores: Tensor, options: Tensor, selected: Tensor, update: str = "all") -> Tensor:
    """`take` with the straight-through gradient to `scores`.

    scores and options (..., K), selected int64 (...) -> weight (...). update="all" is the paper's
    Eq. 9; update="selected" moves only the chosen option's score, as the CENG501 reproduction does.
    """
    weight: Tensor = StraightThrough.apply(scores, options, selected, update)
    return weight


def find_update(name: str) -> str:
    """ "all" or "selected"; raises SlotkitError for anything else."""
    if name not in UPDATES:
        raise SlotkitError(
            f"There is no update {name!r}. Choose all (the paper) or selected (the CENG501 code)."
        )
    return name
