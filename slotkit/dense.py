"""The dense form: K options and K scores stored for every connection, the paper read literally.

Scores are an ordinary Parameter, so any torch optimizer trains them. The weight is computed from
them by torch.nn.utils.parametrize, so the module, its forward and its padding, stride and groups
stay PyTorch's own. Memory and time grow with K; in return nothing is assumed about the optimizer,
which makes this form the oracle for every other one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList

from slotkit.errors import SlotkitError
from slotkit.latent.guard import fingerprint, is_same
from slotkit.latent.weight import LatentWeight
from slotkit.picking import Picked, claim
from slotkit.reel import Reel
from slotkit.selection import are_selected, find_update, greedy, greedy_within, kept_of, sample, select


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
        share: of the connections that may use another option than the first; None is all of them.
    """

    options: Tensor
    seed: Tensor
    last_options: Tensor
    probabilistic: Tensor
    held: Tensor | None

    def __init__(
        self,
        reel: Reel,
        selection: str,
        update: str,
        device: torch.device,
        dtype: torch.dtype,
        share: float | None = None,
    ) -> None:
        super().__init__()
        self.kept = kept_of(share, math.prod(reel.shape), reel.name)
        self.update = find_update(update)
        self.register_buffer("probabilistic", torch.tensor(selection == "probabilistic", device=device))
        # Whether the seed of a loaded state_dict is adopted (a layer built by hand), or another seed refused.
        self.adopts_seed = False
        self.is_refused = False  # whether the last state_dict was
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
        return self.greedy(scores.detach()) if self.held is None else self.held

    def greedy(self, scores: Tensor) -> Tensor:
        """The greedy choice, within the share if there is one."""
        return greedy(scores) if self.kept is None else greedy_within(scores, self.kept)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The initial scores, once: parametrize asks for them when it takes the module over."""
        if self._initial is None:
            raise SlotkitError(
                f"{self.reel.name} is a slot machine's weight and can't be assigned: it is always one of its "
                f"{self.reel.k} options. Change the scores, or build an ordinary network for other weights."
            )
        initial, self._initial = self._initial, None
        return initial

    def refusal(self, state: Mapping[str, Any], prefix: str) -> str | None:
        """Why a state_dict of other options or another selection can't be taken over."""
        sampled = state.get(prefix + "probabilistic")
        if sampled is not None and bool(sampled) != bool(self.probabilistic):
            names = ("greedy", "probabilistic")
            return (
                f"{self.reel.name}: this state_dict is that of a machine with {names[bool(sampled)]} "
                f"selection, and this one selects by {names[bool(self.probabilistic)]}. Build the network "
                "with the same selection."
            )
        held = state.get(prefix + "held")
        if held is not None and not are_selected(held, torch.Size(self.reel.shape), self.reel.k):
            return (
                f"{self.reel.name}: this state_dict holds a sample that is not the number of an option, 0 to "
                f"{self.reel.k - 1}, for each connection. It is damaged, or was put together by hand."
            )
        seed, last = state.get(prefix + "seed"), state.get(prefix + "last_options")
        if seed is None or last is None:
            return None
        there = self._reel_of(seed)
        if int(seed) != there.seed or not torch.equal(_last_options(there).to(last), last):
            return (
                f"{self.reel.name}: this state_dict was saved with other options (seed {int(seed)}) than "
                f"those of {self.reel}. Build the network with the seed, k, init, sharing and dtype of the "
                "saved one."
            )
        return None

    def _reel_of(self, seed: Tensor) -> Reel:
        return replace(self.reel, seed=int(seed)) if self.adopts_seed else self.reel

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        refusal = self.refusal(state, prefix)
        self.is_refused = refusal is not None
        if refusal is not None:
            rest[-1].append(refusal)
            return
        seed = state.get(prefix + "seed")
        if seed is not None and prefix + "last_options" in state and self._reel_of(seed) != self.reel:
            self._set_reel(self._reel_of(seed), self.options.device, self.options.dtype)
        held = state.get(prefix + "held")
        if held is not None and self.held is None:
            self.held = torch.empty_like(held, device=self.options.device)
        elif held is None and seed is not None and not self.probabilistic:
            self.held = None  # that machine follows its scores
        super()._load_from_state_dict(state, prefix, *rest)


def _keep_scores_if_refused(
    shared: ParametrizationList, state: dict[str, Any], prefix: str, *rest: Any
) -> None:
    """torch loads the scores before it asks the `SlotWeight` that they belong to."""
    weight = shared[0]
    if isinstance(weight, SlotWeight) and weight.refusal(state, prefix + "0."):
        state[prefix + "original"] = shared._parameters["original"]


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
    for holder, _ in holders:
        # `DenseForm.end` puts the weight back in its place among the parameters.
        holder.__dict__.setdefault("ordinary_order", list(holder._parameters))
    # unsafe: the checks would call right_inverse a second time, which is refused on purpose.
    parametrize.register_parametrization(module, name, weight, unsafe=True)
    shared = module.get_submodule(f"parametrizations.{name}")
    shared.register_load_state_dict_pre_hook(_keep_scores_if_refused)  # type: ignore[no-untyped-call]
    for other, other_name in tied:
        parametrize.register_parametrization(other, other_name, nn.Identity(), unsafe=True)
        other.get_submodule("parametrizations").add_module(other_name, shared)
    claim(shared.get_parameter("original"), [(shared, "original")])
    return shared


class Mark(NamedTuple):
    """What a tensor's scores and sample were when they were last marked, and how often written to."""

    scores: nn.Parameter
    held: Tensor | None
    versions: tuple[int, int]
    values: list[float]


def _version(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.is_inference() else tensor._version


class DenseForm:
    """The tensors of a machine in the dense form; see `slotkit.form.Form`."""

    name = "dense"

    def __init__(
        self,
        picked: list[Picked],
        reels: list[Reel],
        selection: str,
        update: str,
        share: float | None = None,
    ) -> None:
        self.update = update
        self.share = share
        self._weights: dict[str, SlotWeight] = {}
        self._lists: dict[str, nn.Module] = {}
        for one, reel in zip(picked, reels, strict=True):
            weight = SlotWeight(reel, selection, update, one.parameter.device, one.parameter.dtype, share)
            self._weights[reel.name] = weight
            self._lists[reel.name] = attach(one.holders, weight).requires_grad_(one.take())
        self.mark()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Of a copy, whose tensors count their changes anew.
        self.__dict__.update(state)
        self.mark()

    @property
    def reels(self) -> Mapping[str, Reel]:
        return {name: weight.reel for name, weight in self._weights.items()}

    @property
    def _scores(self) -> dict[str, nn.Parameter]:
        # Looked up each time: load_state_dict(assign=True) puts other Parameters in the model.
        found = {name: shared._parameters["original"] for name, shared in self._lists.items()}
        # torch.func.functional_call puts other tensors there, for as long as the call takes.
        return {
            name: value if isinstance(value, nn.Parameter) else self._marks[name].scores
            for name, value in found.items()
        }

    def __str__(self) -> str:
        return "dense form" if self.share is None else f"dense form, top share {self.share:g} of each tensor"

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

    def has_initial_scores(self) -> bool:
        # In half precision scores are rounded, and the highest of them may be another one.
        return all(
            torch.finfo(scores.dtype).bits >= 32
            and torch.equal(scores.detach(), self.reels[name].scores(scores.device).to(scores))
            for name, scores in self._scores.items()
        )

    def take_scores(self, scores: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._scores.items():
                parameter.copy_(scores[name])

    def selected(self, name: str) -> Tensor:
        return self._weights[name].selected(self._scores[name])

    def choose_greedy(self, follow: bool, names: Iterable[str] | None = None) -> None:
        for name in self._weights if names is None else names:
            weight = self._weights[name]
            weight.held = None if follow else weight.greedy(self.scores(name))

    def counting_device(self) -> torch.device | None:
        return None

    def choose_sample(
        self, stream: int, number: int | Tensor, names: Iterable[str] | None = None, in_place: bool = False
    ) -> None:
        assert isinstance(number, int)
        # All are looked at before the first is drawn: a refused draw changes nothing.
        chosen = list(self._weights if names is None else names)
        for name in chosen:
            if not torch.isfinite(self.scores(name)).all():
                raise SlotkitError(
                    f"Some scores of {name} are not finite, so no option can be drawn. Lower the "
                    "learning rate."
                )
        for name in chosen:
            scores, weight = self.scores(name), self._weights[name]
            samples = sample(scores, weight.reel.draw(stream, number, scores.device))
            if in_place and weight.held is not None and not weight.held.is_inference():
                # functional_call puts back the buffers of before: only what is written in them stays.
                weight.held.copy_(samples)
            else:
                weight.held = samples

    def follows(self) -> bool:
        return all(weight.held is None for weight in self._weights.values())

    def check(self, names: Iterable[str] | None = None) -> None:
        pass  # the weights come from the scores, which any optimizer may move

    def check_selected(self, name: str, selected: Tensor) -> None:
        pass

    def is_frozen(self, name: str) -> bool:
        return not self._scores[name].requires_grad

    def has_gradient(self, name: str) -> bool:
        return not self.is_frozen(name) and self._scores[name].grad is not None

    def is_given(self, name: str) -> bool:
        return not is_same(self._lists[name]._parameters["original"], self._scores[name])

    def is_touched(self, name: str) -> bool:
        now, mark = self._now(name), self._marks[name]
        return now.scores is not mark.scores or now.held is not mark.held or now.versions != mark.versions

    def fingerprint(self, name: str) -> list[float]:
        return fingerprint(self._scores[name], self._weights[name].held)

    def suspect(self, parameters: set[int]) -> None:
        pass  # any optimizer may step

    def has_new_scores(self) -> bool:
        pairs = [(self._now(name), mark) for name, mark in self._marks.items()]
        return any(
            now.scores is not mark.scores or now.versions[0] != mark.versions[0] or now.values != mark.values
            for now, mark in pairs
        )

    def mark(self) -> None:
        self._marks = {name: self._now(name) for name in self._weights}

    def _now(self, name: str) -> Mark:
        scores, held = self._scores[name], self._weights[name].held
        return Mark(scores, held, (_version(scores), _version(held)), fingerprint(scores))

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

    def ties(self, model: nn.Module) -> dict[str, str]:
        firsts, found = {id(shared): name for name, shared in self._lists.items()}, {}
        for place, module in model.named_modules(remove_duplicate=False):
            if id(module) in firsts:
                prefix, _, last = place.rpartition("parametrizations.")
                found[prefix + last] = firsts[id(module)]
        return {name: first for name, first in found.items() if name != first}

    def state(self) -> dict[str, Any]:
        return {
            "scores": {name: scores.detach() for name, scores in self._scores.items()},
            "held": {name: weight.held for name, weight in self._weights.items() if weight.held is not None},
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        pass  # the weights come from the scores

    def load(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, scores in self._scores.items():
                scores.copy_(state["scores"][name])
            for name, weight in self._weights.items():
                held = state["held"].get(name)
                weight.held = None if held is None else held.to(weight.options.device).clone()

    def end(self, model: nn.Module) -> None:
        lists = {id(shared): name for name, shared in self._lists.items()}
        found: dict[str, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():
            if parametrize.is_parametrized(module):
                for own, chain in module.get_submodule("parametrizations").named_children():
                    if id(chain) in lists:
                        found.setdefault(lists[id(chain)], []).append((module, own))
        for name, holders in found.items():
            scores, (module, own) = self._scores[name], holders[0]
            with torch.no_grad():
                weight = nn.Parameter(getattr(module, own).clone(), scores.requires_grad)
            for holder, held in holders:
                _detach(holder, held, weight)


def _detach(module: nn.Module, name: str, weight: nn.Parameter) -> None:
    """Put a parameter where a `SlotWeight` was, in its old place among the parameters."""
    # torch keeps a property on the module's class, which deep copies of the module have in common.
    shared = type(module)
    module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    module._parameters[name] = weight
    if not parametrize.is_parametrized(module):
        order = module.__dict__.pop("ordinary_order", [])
        for each in [each for each in order if each in module._parameters]:
            module._parameters[each] = module._parameters.pop(each)
