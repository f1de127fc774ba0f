"""The dense form: K options and K scores stored for every connection, the paper read literally.

Scores are an ordinary Parameter, so any torch optimizer trains them. The weight is computed from
them by torch.nn.utils.parametrize, so the module, its forward and its padding, stride and groups
stay PyTorch's own. Memory and time grow with K; in return nothing is assumed about the optimizer,
which makes this form the oracle for every other one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from slotkit.errors import SlotkitError
from slotkit.reel import Reel
from slotkit.selection import find_update, greedy, select


class SlotWeight(nn.Module):
    """The parametrization of one weight tensor: scores (*shape, K) in, weight (*shape) out.

    `held` is None while the weight follows the scores greedily. Otherwise it holds the option in use
    of every connection, int64 of the weight's shape, until the next spin.

    A state_dict has the scores, `held`, the seed and, so that a different init or sharing is noticed,
    the options of the last connection; the others follow from the seed.

    Args:
        reel: where options and initial scores come from.
        update: "all" or "selected", see `slotkit.selection.select`.
        device, dtype: those of the weight that is replaced.
    """

    options: Tensor
    seed: Tensor
    last_options: Tensor
    held: Tensor | None

    def __init__(self, reel: Reel, update: str, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.update = find_update(update)
        # Whether a state_dict of another seed is followed (a layer built by hand) or refused.
        self.follows_seed = False
        self.register_buffer("held", None)
        self._set_reel(reel, device, dtype)
        self._initial: Tensor | None = reel.scores(device).to(dtype)

    def _set_reel(self, reel: Reel, device: torch.device, dtype: torch.dtype) -> None:
        self.reel = reel
        self.register_buffer("options", reel.distinct_options(device).to(dtype), persistent=False)
        self.register_buffer("last_options", self.options.reshape(-1, reel.k)[-1].clone())
        self.register_buffer("seed", torch.tensor(reel.seed, device=device))

    def forward(self, scores: Tensor) -> Tensor:
        return select(scores, self.options.expand_as(scores), self.selected(scores), self.update)

    def selected(self, scores: Tensor) -> Tensor:
        """The index of the option in use, int64, of the weight's shape."""
        return greedy(scores.detach()) if self.held is None else self.held

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The initial scores, once: parametrize asks for them when it takes the module over."""
        if self._initial is None:
            raise SlotkitError(
                f"{self.reel.name} is a slot machine's weight and can't be assigned: it is always one of its "
                f"{self.reel.k} options. Change the scores, or build an ordinary network for other weights."
            )
        initial, self._initial = self._initial, None
        return initial

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        seed, last = state.get(prefix + "seed"), state.get(prefix + "last_options")
        if seed is not None and last is not None:
            there = replace(self.reel, seed=int(seed)) if self.follows_seed else self.reel
            expected = there.distinct_options().reshape(-1, there.k)[-1].to(last)
            if int(seed) != there.seed or not torch.equal(expected, last):
                errors: list[str] = rest[-1]
                errors.append(
                    f"{self.reel.name}: this state_dict was saved with other options (seed "
                    f"{int(seed)}) than those of "
                    f"{self.reel}. Build the network with the seed, k, init and sharing of the saved one."
                )
                return
            if there != self.reel:
                self._set_reel(there, self.options.device, self.options.dtype)
        held = state.get(prefix + "held")
        if held is not None and self.held is None:
            self.held = torch.empty_like(held, device=self.options.device)
        super()._load_from_state_dict(state, prefix, *rest)


def attach(owners: list[tuple[nn.Module, str]], weight: SlotWeight) -> nn.Parameter:
    """Put `weight` in the place of a parameter and return the scores, the new Parameter (*shape, K).

    `owners` lists every (module, parameter name) that holds the tensor: a tied weight has several,
    and all of them come to share one set of scores.
    """
    (module, name), *tied = owners
    # unsafe: the checks would call right_inverse a second time, which is refused on purpose.
    parametrize.register_parametrization(module, name, weight, unsafe=True)
    shared = module.get_submodule(f"parametrizations.{name}")
    for other, other_name in tied:
        parametrize.register_parametrization(other, other_name, nn.Identity(), unsafe=True)
        other.get_submodule("parametrizations").add_module(other_name, shared)
    scores = shared.get_parameter("original")
    scores.requires_grad_(True)
    return scores
