"""The latent form of a machine; see `slotkit.form.Form`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.latent.engines.registry import find_engine
from slotkit.latent.guard import fingerprint
from slotkit.latent.state import STATE, pack
from slotkit.latent.weight import LatentWeight, is_finite, move_states, relocate, sample
from slotkit.picking import Picked, claim, release
from slotkit.reel import Reel

# Stored tables take 8 K bytes a connection. Where draws read them all, "auto" stores up to this much.
STORED_BYTES = 1 << 28


class LatentForm:
    """The tensors of a machine in the latent form.

    Attributes:
        weights: tensor name -> its `LatentWeight`.
        stored: whether options and initial scores are kept in tables.
    """

    name = "latent"
    update = "all"
    share: float | None = None

    def __init__(
        self, picked: list[Picked], reels: list[Reel], selection: str, engine: str, tables: str
    ) -> None:
        connections = sum(one.parameter.numel() for one in picked)
        needed = any(reel.compiled_spec() is None for reel in reels)
        self.stored = tables == "stored" or (tables == "auto" and needed)
        # Refused before anything is changed.
        found = [
            find_engine(engine, one.parameter, reel, self.stored)
            for one, reel in zip(picked, reels, strict=True)
        ]
        if tables == "auto" and selection == "probabilistic" and any(each.draws_read_all for each in found):
            self.stored |= 8 * reels[0].k * connections <= STORED_BYTES
        self.weights: dict[str, LatentWeight] = {}
        for one, reel in zip(picked, reels, strict=True):
            claim(one.parameter.requires_grad_(one.take()), one.holders)
            self.weights[reel.name] = LatentWeight(
                reel, one.parameter, one.holders, engine, self.stored, selection == "greedy"
            )
        listed = list(self.weights.values())
        pack(listed, [(weight.parameter.device, weight.state_dtype) for weight in listed])
        for weight in listed:
            weight.choose_all()

    @property
    def latents(self) -> Mapping[str, LatentWeight]:
        return self.weights

    @property
    def reels(self) -> Mapping[str, Reel]:
        return {name: weight.reel for name, weight in self.weights.items()}

    def __str__(self) -> str:
        engines = sorted({weight.engine.name for weight in self.weights.values()})
        return f"latent form, {'/'.join(engines)} engine, tables {'stored' if self.stored else 'recomputed'}"

    def parameters(self) -> Iterator[nn.Parameter]:
        for weight in self.weights.values():
            yield weight.parameter

    def state_bytes(self) -> int:
        kept = [getattr(weight, name) for weight in self.weights.values() for name in STATE]
        kept += [table for weight in self.weights.values() for table in weight.tables or ()]
        stored: int = sum(tensor.nbytes for tensor in kept)
        return stored + sum(weight.kept_bytes() for weight in self.weights.values())

    def options(self, name: str) -> Tensor:
        return self.weights[name].options()

    def scores(self, name: str) -> Tensor:
        return self.weights[name].scores()

    def has_initial_scores(self) -> bool:
        return all(one.line.c == 1.0 and not bool(one.latent.any()) for one in self.weights.values())

    def take_scores(self, scores: Mapping[str, Tensor]) -> None:
        lines = {name: weight.line_of(scores[name]) for name, weight in self.weights.items()}
        move_states(list(self.weights.values()))
        for name, weight in self.weights.items():
            weight.restart(*lines[name])

    def selected(self, name: str) -> Tensor:
        return self.weights[name].selected()

    def coefficient(self, name: str) -> float:
        return self.weights[name].line.c

    def choose_greedy(self, follow: bool, names: Iterable[str] | None = None) -> None:
        chosen = self._named(names)
        relocate(chosen)
        for weight in chosen:
            weight.choose_all()
            weight.follows = follow

    def choose_sample(
        self, stream: int, number: int | Tensor, names: Iterable[str] | None = None, in_place: bool = False
    ) -> None:
        # All are looked at before the first is drawn: a refused draw changes nothing.
        chosen = self._named(names)
        relocate(chosen)
        for weight in chosen:
            # In training on a device that isn't waited for, the next step looks.
            unseen = in_place and isinstance(weight.line_of_draws(), Tensor)
            if not unseen and not (math.isfinite(weight.line.c) and is_finite(weight.latent)):
                raise SlotkitError(
                    f"Some scores of {weight.reel.name} are not finite, so no option can be drawn. Lower the "
                    "learning rate."
                )
        sample(chosen, stream, number)
        for weight in chosen:
            weight.follows = False

    def counting_device(self) -> torch.device | None:
        lines = [weight.line_of_draws() for weight in self.weights.values()]
        devices = {line.device for line in lines if isinstance(line, Tensor)}
        all_there = all(isinstance(line, Tensor) for line in lines)
        return devices.pop() if all_there and len(devices) == 1 else None

    def follows(self) -> bool:
        return all(weight.follows for weight in self.weights.values())

    def check(self, names: Iterable[str] | None = None) -> None:
        chosen = self._named(names)
        relocate(chosen)
        for weight in chosen:
            weight.check_untouched()

    def check_selected(self, name: str, selected: Tensor) -> None:
        weight = self.weights[name]
        values = weight.options_at(selected.reshape(-1)).to(weight.parameter.dtype)
        if not torch.equal(values.view(weight.reel.shape), weight.parameter.detach()):
            raise weight.guard.changed()

    def is_frozen(self, name: str) -> bool:
        return not self.weights[name].parameter.requires_grad

    def has_gradient(self, name: str) -> bool:
        return not self.is_frozen(name) and self.weights[name].parameter.grad is not None

    def is_given(self, name: str) -> bool:
        return not self.weights[name].guard.is_in_place()

    def is_touched(self, name: str) -> bool:
        return self.weights[name].guard.is_touched()

    def fingerprint(self, name: str) -> list[float]:
        return fingerprint(self.weights[name].parameter)

    def suspect(self, parameters: set[int]) -> None:
        for weight in self.weights.values():
            if id(weight.parameter) in parameters:
                # PyTorch's fused optimizers don't count their changes.
                torch.autograd.graph.increment_version(weight.parameter)

    def has_new_scores(self) -> bool:
        return False  # only slotkit has them

    def mark(self) -> None:
        pass  # each weight's guard marks what slotkit writes

    def _named(self, names: Iterable[str] | None) -> list[LatentWeight]:
        return [self.weights[name] for name in (self.weights if names is None else names)]

    def snapshot(self) -> dict[str, tuple[Tensor, bool, int]]:
        return {
            name: (weight.parameter.detach().clone(), weight.follows, weight.line.steps)
            for name, weight in self.weights.items()
        }

    def restore(self, snapshot: Mapping[str, tuple[Tensor, bool, int]]) -> None:
        for name, weight in self.weights.items():
            values, weight.follows, steps = snapshot[name]
            if weight.follows and weight.line.steps != steps:
                # The optimizer has stepped since the snapshot: the weights in it do not fit the scores.
                weight.choose_all()
            else:
                weight.put(values)

    def entries(self, model: nn.Module) -> set[str]:
        return set()

    def ties(self, model: nn.Module) -> dict[str, str]:
        return {}  # the model's own state_dict has every name

    def state(self) -> dict[str, Any]:
        tables = {key: {name: getattr(weight, key) for name, weight in self.weights.items()} for key in STATE}
        lines = {name: weight.line.state() for name, weight in self.weights.items()}
        follows = {name: weight.follows for name, weight in self.weights.items()}
        return {**tables, "lines": lines, "follows": follows}

    def check_state(self, state: Mapping[str, Any]) -> None:
        for name, weight in self.weights.items():
            weight.check({key: state[key][name] for key in STATE} | state["lines"][name])
            # Those that follow their scores are chosen anew if need be.
            if not state["follows"][name] and not weight.are_options(state["others"][name]):
                raise SlotkitError(
                    f"This state has others/{name} with numbers that are no options of {weight.reel}. It is "
                    "damaged, or was put together by hand."
                )

    def load(self, state: Mapping[str, Any]) -> None:
        move_states(list(self.weights.values()))
        for name, weight in self.weights.items():
            weight.load({key: state[key][name] for key in STATE} | state["lines"][name])
            weight.follows = state["follows"][name]
            if weight.is_consistent():
                weight.guard.mark()
            elif weight.follows:
                weight.choose_all()
            else:  # another dtype has rounded them
                weight.put_options(state["others"][name])

    def end(self, model: nn.Module) -> None:
        for weight in self.weights.values():
            release(weight.parameter, weight.guard.holders)
            weight.parameter.grad = None  # it was for the scores
            weight.guard.is_over = True
