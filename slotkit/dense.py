"""The dense form: K options and K scores stored for every connection, the paper read literally.

Scores are an ordinary Parameter, so any torch optimizer trains them. The weight is computed from
them by torch.nn.utils.parametrize, so the module, its forward and its padding, stride and groups
stay PyTorch's own. Memory and time grow with K; in return nothing is assumed about the optimizer,
which makes this form the oracle for every other one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from slotkit.errors import SlotkitError
from slotkit.latent.weight import LatentWeight
from slotkit.picking import Picked, claim
from slotkit.reel import Reel
from slotkit.selection import find_update, greedy, sample, select


class SlotWeight(nn.Module):
    """The parametrization of one weight tensor: scores (*shape, K) in, weight (*shape) out.

    `held` is None while the weight follows the scores greedily. Otherwise it holds the option in use
    of every connection, int64 of the weight's shape, until the next spin.

    A state_dict has the scores, `held`, the seed and, so that a different init or sharing is noticed,
    the options of the last connection; the others are made from the seed.

    Args:
        reel: where options and initial scores come from.
        selection: "greedy" or "probabilistic", how training selects.
        update: "all" or "selected", see `slotkit.selection.select`.
        device, dtype: those of the weight that is replaced.
    """

    options: Tensor
    seed: Tensor
    last_options: Tensor
    probabilistic: Tensor
    held: Tensor | None

    def __init__(
        self, reel: Reel, selection: str, update: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.update = find_update(update)
        self.register_buffer("probabilistic", torch.tensor(selection == "probabilistic", device=device))
        # Whether the seed of a loaded state_dict is adopted (a layer built by hand), or another seed refused.
        self.adopts_seed = False
        self.register_buffer("held", None)
        self._set_reel(reel, device, dtype)
        self._initial: Tensor | None = reel.scores(device).to(dtype)

    def _set_reel(self, reel: Reel, device: torch.device, dtype: torch.dtype) -> None:
        self.reel = reel
        self.register_buffer("options", reel.distinct_options(device).to(dtype), persistent=False)
        self.register_buffer("last_options", _last_options(reel).to(device, dtype))
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
        errors: list[str] = rest[-1]
        sampled = state.get(prefix + "probabilistic")
        if sampled is not None and bool(sampled) != bool(self.probabilistic):
            names = ("greedy", "probabilistic")
            errors.append(
                f"{self.reel.name}: this state_dict is that of a machine with "
                f"{names[bool(sampled)]} selection, and "
                f"this one selects by {names[bool(self.probabilistic)]}. Build the network with the "
                "same selection."
            )
            return
        seed, last = state.get(prefix + "seed"), state.get(prefix + "last_options")
        if seed is not None and last is not None:
            there = replace(self.reel, seed=int(seed)) if self.adopts_seed else self.reel
            expected = _last_options(there).to(last)
            if int(seed) != there.seed or not torch.equal(expected, last):
                errors.append(
                    f"{self.reel.name}: this state_dict was saved with other options (seed "
                    f"{int(seed)}) than those of "
                    f"{self.reel}. Build the network with the seed, k, init, sharing and dtype of "
                    "the saved one."
                )
                return
            if there != self.reel:
                self._set_reel(there, self.options.device, self.options.dtype)
        held = state.get(prefix + "held")
        if held is not None and self.held is None:
            self.held = torch.empty_like(held, device=self.options.device)
        elif held is None and seed is not None and not self.probabilistic:
            self.held = None  # that machine follows its scores
        super()._load_from_state_dict(state, prefix, *rest)


def _last_options(reel: Reel) -> Tensor:
    """The options of the last connection, float32 (K,)."""
    return reel.rows(torch.tensor([math.prod(reel.shape) - 1], device="cpu"))[0][0]


def attach(holders: list[tuple[nn.Module, str]], weight: SlotWeight) -> nn.Module:
    """Put `weight` in the place of a parameter.

    Returns the module whose `original` is the scores, the new Parameter (*shape, K).

    `holders` lists every (module, parameter name) that holds the tensor: a tied weight has several,
    and all of them come to share one set of scores.
    """
    (module, name), *tied = holders
    # unsafe: the checks would call right_inverse a second time, which is refused on purpose.
    parametrize.register_parametrization(module, name, weight, unsafe=True)
    shared = module.get_submodule(f"parametrizations.{name}")
    for other, other_name in tied:
        parametrize.register_parametrization(other, other_name, nn.Identity(), unsafe=True)
        other.get_submodule("parametrizations").add_module(other_name, shared)
    claim(shared.get_parameter("original").requires_grad_(True), [(shared, "original")])
    return shared


class DenseForm:
    """The tensors of a machine in the dense form; see `slotkit.form.Form`."""

    name = "dense"

    def __init__(self, picked: list[Picked], reels: list[Reel], selection: str, update: str) -> None:
        self.update = update
        self._weights: dict[str, SlotWeight] = {}
        self._lists: dict[str, nn.Module] = {}
        for one, reel in zip(picked, reels, strict=True):
            weight = SlotWeight(reel, selection, update, one.parameter.device, one.parameter.dtype)
            self._weights[reel.name] = weight
            self._lists[reel.name] = attach(one.holders, weight)

    @property
    def reels(self) -> Mapping[str, Reel]:
        return {name: weight.reel for name, weight in self._weights.items()}

    @property
    def _scores(self) -> dict[str, nn.Parameter]:
        # Looked up each time: load_state_dict(assign=True) puts other Parameters in the model.
        return {name: shared.get_parameter("original") for name, shared in self._lists.items()}

    def __str__(self) -> str:
        return "dense form"

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self._scores.values()

    @property
    def latents(self) -> Mapping[str, LatentWeight]:
        return {}

    def state_bytes(self) -> int:
        kept = [*self._scores.values(), *(weight.options for weight in self._weights.values())]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def coefficient(self, name: str) -> float | None:
        return None

    def options(self, name: str) -> Tensor:
        return self._weights[name].options.expand_as(self._scores[name])

    def scores(self, name: str) -> Tensor:
        return self._scores[name].detach()

    def take_scores(self, scores: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._scores.items():
                parameter.copy_(scores[name])

    def selected(self, name: str) -> Tensor:
        return self._weights[name].selected(self._scores[name])

    def choose_greedy(self, follow: bool) -> None:
        for name, weight in self._weights.items():
            weight.held = None if follow else greedy(self.scores(name))

    def choose_sample(self, stream: int, number: int) -> None:
        # All tensors are checked before the first is sampled, so that a refusal changes nothing.
        for name in self._weights:
            if not torch.isfinite(self.scores(name)).all():
                raise SlotkitError(
                    f"Some scores of {name} are not finite, so no option can be drawn. Lower the "
                    "learning rate."
                )
        for name, weight in self._weights.items():
            scores = self.scores(name)
            weight.held = sample(scores, weight.reel.draw(stream, number, scores.device))

    def snapshot(self) -> dict[str, Tensor | None]:
        return {name: weight.held for name, weight in self._weights.items()}

    def restore(self, snapshot: Mapping[str, Tensor | None]) -> None:
        for name, weight in self._weights.items():
            weight.held = snapshot[name]

    def entries(self, model: nn.Module) -> set[str]:
        lists = {id(shared) for shared in self._lists.values()}
        everything = model.named_modules(remove_duplicate=False)
        inside = tuple(f"{prefix}." for prefix, module in everything if id(module) in lists)
        return {name for name in model.state_dict() if name.startswith(inside)}

    def state(self) -> dict[str, Any]:
        return {
            "scores": {name: scores.detach() for name, scores in self._scores.items()},
            "held": {name: weight.held for name, weight in self._weights.items() if weight.held is not None},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, scores in self._scores.items():
                scores.copy_(state["scores"][name])
            for name, weight in self._weights.items():
                held = state["held"].get(name)
                weight.held = None if held is None else held.to(weight.options.device).clone()
