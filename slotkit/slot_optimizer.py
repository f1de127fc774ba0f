"""What SlotSGD and SlotAdam share: the weights of machines, their checks, and steps here and on devices."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from slotkit.errors import DivergedError, SlotkitError
from slotkit.form import Form
from slotkit.latent.line import Hyperparameters
from slotkit.latent.verdict import Verdict, not_finite
from slotkit.latent.weight import LatentWeight, NotFiniteError, WeightStep, check_finite, relocate, step
from slotkit.picking import is_claimed
from slotkit.states import check_optimizer_state
from slotkit.uncompiled import Optimizer
from slotkit.wait_policy import Pace, is_decided, slow_words


class Machine(Protocol):
    """What an optimizer asks of a `slotkit.SlotMachine`."""

    @property
    def form(self) -> Form:
        """Its form."""

    @property
    def trained(self) -> Mapping[str, nn.Parameter]:
        """Name -> those of the non-slot parameters that are trained."""


Machines = Machine | Form | Iterable[Machine | Form]
Groups = Iterable[Tensor | dict[str, Any]]

# c of the scores is 1 at first and gets smaller. At this size float32 still holds A, which grows with it.
TOO_LARGE = 1e30

# A machine's weight that has a gradient, that gradient, and the param group it is in.
Stepping = list[tuple[LatentWeight, Tensor, dict[str, Any]]]


class SlotOptimizer(Optimizer):
    """What both optimizers share: the weights of the machines, their checks, and their state.

    Every machine has a param group. Then come one group of ordinary parameters, if there are any (the
    non-slot parameters that machines train, and those in `parameters`), and the groups in `parameters`.
    `state` of a machine's weight holds latent, velocity, lower, upper (tensors of float32 or float64), the
    numbers of its line (c and e are float64), and what the optimizer adds. `ordinary` is torch's optimizer of
    the same kind: it has the defaults, and steps on the ordinary parameters.
    """

    # Others than these are strangers to the weights of a machine (`slotkit.draws`).
    trains_latents = True

    # What a param group needs in a state that is loaded.
    _needed: tuple[str, ...]

    def __init__(self, machines: Machines, parameters: Groups, ordinary: torch.optim.Optimizer) -> None:
        self._ordinary = ordinary
        listed = as_list(machines)
        members = [_latents(machine) for machine in listed]
        self._members = members
        self._index()
        self._steps, self._has_ordinary = 0, False
        groups: list[dict[str, Any]] = [
            {"params": [weight.parameter for weight in weights]} for weights in members
        ]
        given = list(parameters)
        loose: list[Tensor] = [
            value for machine in listed for value in getattr(machine, "trained", {}).values()
        ]
        loose += [value for value in given if isinstance(value, Tensor)]
        groups += [{"params": loose}] if loose else []
        groups += [dict(group) for group in given if isinstance(group, dict)]
        for group in groups[len(members) :]:
            group["params"] = _ordinary(group["params"])
        super().__init__(groups, ordinary.defaults)
        self._show_state()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As every torch optimizer's. Raises SlotkitError for the weights of another slot machine."""
        given = param_group["params"]
        if isinstance(given, Iterator):
            given = list(given)
        listed = [given] if isinstance(given, Tensor) else list(given)
        _ordinary([value for value in listed if isinstance(value, Tensor) and value not in self._latents])
        super().add_param_group(param_group | {"params": given})

    def _index(self) -> None:
        self._latents: dict[Tensor, LatentWeight] = {
            weight.parameter: weight for weights in self._members for weight in weights
        }
        # Every step looks all parameters up, and hashing a tensor is slow.
        self._by_id = {id(parameter): weight for parameter, weight in self._latents.items()}
        self._pace: Pace | None = Pace()  # None when nothing is left to say
        self._verdict: Verdict | None = None
        self._counted: set[LatentWeight] = set()  # whose steps of Adam the device counts

    def __getstate__(self) -> dict[str, Any]:
        # torch leaves out what it doesn't know; hooks stay behind, as those of its own optimizers do.
        self._ask()
        for weight in self._latents.values():
            self._settle(weight)
        kept = ("_members", "_steps", "_has_ordinary", "_ordinary")
        return super().__getstate__() | {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_members" in state:  # torch's load_state_dict comes here with less
            self._index()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. Raises SlotkitError, before anything is changed, if a gradient of a machine's
        weight is not finite or a weight was changed by something else.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._steps += 1
        started = self._pace.clock() if self._pace else 0.0
        for weights in self._members:
            relocate(weights)
        stepping, self._has_ordinary = [], False
        for group in self.param_groups:
            for parameter in group["params"]:
                weight = self._by_id.get(id(parameter))
                if weight is None:
                    self._has_ordinary = True
                    _check_fused(parameter, group)
                    continue
                gradient = parameter.grad
                if gradient is None or not parameter.requires_grad:
                    weight.rest()
                else:
                    _check_dense(weight, gradient)
                    weight.check_untouched()
                    weight.guard.mark()
                    stepping.append((weight, gradient, group))
        if self.steps_on_device:
            self._step_on_device(stepping)
        else:
            self._step_on_host(stepping)
        if self._pace:
            self._watch(self._pace, self._pace.clock() - started)
        return loss

    def _ask(self) -> None:
        """Wait for what the device has to say of the steps before. Raises DivergedError."""
        if self._verdict is not None:
            self._verdict.ask()

    def _step_on_host(self, stepping: Stepping) -> None:
        self._ask()
        self._verdict = None
        for weight in self._latents.values():
            if weight.line_on_device is not None:
                self._come_back(weight)
        try:
            check_finite((weight, gradient) for weight, gradient, _ in stepping)
        except NotFiniteError as problem:
            what = f"The gradient of {problem.weight.reel.name} is"
            raise DivergedError(not_finite(what, self._steps)) from None
        for weight, _, group in stepping:
            if not math.isfinite(group["lr"]):
                what = f"The learning rate of {weight.reel.name} is"
                raise DivergedError(not_finite(what, self._steps))
        steps = self._weight_steps(stepping)
        for each in steps:
            self._check_line(each)
        step(steps)
        if self._has_ordinary:
            with self._only_ordinary():
                _plain_step(self._ordinary)
        self._show_lines()

    def _check_line(self, each: WeightStep) -> None:
        """Raise DivergedError if weight decay has made the scores larger step by step: it overshoots."""
        rule = each.rule
        if not isinstance(rule, Hyperparameters):
            return
        line = each.weight.line.after(rule)
        if not (abs(line.c) <= TOO_LARGE and abs(line.e) <= TOO_LARGE):
            raise DivergedError(
                f"The scores of {each.weight.reel.name} have grown out of bounds in step {self._steps} of "
                f"this optimizer: a learning rate of {rule.lr:g} with a weight decay of "
                f"{rule.weight_decay:g} and momentum {rule.momentum:g} overshoots. Nothing was changed. "
                "Lower the learning rate or the weight decay."
            )

    @property
    def steps_on_device(self) -> bool:
        """Whether steps never wait for the device: engines keep the lines there, and torch's own optimizer is
        one that skips a step by itself.
        """
        weights = self._latents.values()
        ordinary = [group for group in self.param_groups[len(self._members) :] if group["params"]]
        return (
            len({weight.latent.device for weight in weights}) == 1
            and all(weight.engine.keeps_lines for weight in weights)
            and all(group["fused"] and not group.get("dampening") for group in ordinary)
        )

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a GradScaler leaves it to this optimizer to divide by the scale and to skip a step."""
        return self.steps_on_device

    def _step_on_device(self, stepping: Stepping) -> None:
        """The host only says what is to be done. What it has to know it is told later: see `Verdict`."""
        if not stepping and not self._has_ordinary:
            return
        device = next(iter(self._latents.values())).latent.device
        if self._verdict is None or self._verdict.skip.device != device:
            self._ask()
            self._verdict = Verdict(
                self._steps - 1,
                device,
                [
                    words
                    for weight in self._latents.values()
                    for words in (
                        f"The gradient of {weight.reel.name} is",
                        f"Some scores of {weight.reel.name} are",
                    )
                ],
            )
        verdict: Verdict = self._verdict
        verdict.hear()
        scale, overflow = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if scale is not None and stepping:
            divided = torch._foreach_div([gradient for _, gradient, _ in stepping], scale)
            stepping = [(one[0], gradient, one[2]) for one, gradient in zip(stepping, divided, strict=True)]
        verdict.look(self._to_be_finite(stepping, gradients=overflow is None), overflow)
        for weight, _, _ in stepping:
            weight.keep_line(on_device=True)
        step(self._weight_steps(stepping, verdict.skip))
        if self._has_ordinary:
            self._prepare_ordinary()
            ordinary: Any = self._ordinary
            ordinary.found_inf, ordinary.grad_scale = verdict.skip.squeeze(), scale
            try:
                with self._only_ordinary():
                    _plain_step(ordinary)
            finally:
                del ordinary.found_inf, ordinary.grad_scale
        verdict.hear()

    def _to_be_finite(self, stepping: Stepping, gradients: bool) -> dict[int, Tensor]:
        """Of each weight its gradient, and its scores if they are sampled, by the place of their names."""
        places = {weight: 2 * i for i, weight in enumerate(self._latents.values())}
        found = {places[weight]: gradient for weight, gradient, _ in stepping} if gradients else {}
        return found | {places[weight] + 1: weight.latent for weight, _, _ in stepping if not weight.follows}

    def _prepare_ordinary(self) -> None:
        """What torch's fused optimizer needs in order to skip its very first step."""

    def _come_back(self, weight: LatentWeight) -> None:
        """The weight has another engine now: its numbers are the host's again."""
        self._settle(weight)
        weight.keep_line(on_device=False)

    def _settle(self, weight: LatentWeight) -> None:
        """`state` is told what the device has counted, and of tensors that are elsewhere now."""
        self.state[weight.parameter].update(weight.as_dict())

    def _watch(self, pace: Pace, seconds: float) -> None:
        """Warn, once, when steps on the CPU have become slow and the way that threads wait may be why."""
        slow = pace.add(seconds)
        if slow is None:
            return
        on_cpu = all(weight.latent.device.type == "cpu" for weight in self._latents.values())
        if on_cpu and torch.get_num_threads() > 1 and not is_decided(os.environ):
            warnings.warn(slow_words(*slow), stacklevel=5)
        self._pace = None

    def _weight_steps(self, stepping: Stepping, skip: Tensor | None = None) -> list[WeightStep]:
        """What each machine's weight that has a gradient does in this step: on the device with `skip`."""
        raise AssertionError("SlotSGD and SlotAdam define it")

    @contextmanager
    def _only_ordinary(self) -> Iterator[None]:
        """torch's optimizer over the groups and state of this one; it skips parameters without a gradient."""
        gradients = {weight: weight.parameter.grad for weight in self._latents.values()}
        for weight in gradients:
            weight.parameter.grad = None
        self._ordinary.param_groups, self._ordinary.state = self.param_groups, self.state
        try:
            yield
        finally:
            for weight, gradient in gradients.items():
                weight.parameter.grad = gradient

    def _show_lines(self) -> None:
        """Update `state` after a step: its numbers, and its tensors only if they are other ones."""
        for parameter, weight in self._latents.items():
            shown = self.state[parameter]
            if shown.get("latent") is weight.latent:
                shown.update(weight.line.state())
            else:
                self._show_state()

    def _show_state(self) -> None:
        for parameter, weight in self._latents.items():
            self.state[parameter].update(weight.as_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As every torch optimizer's, but the latents keep their dtype (torch casts state to the weight's),
        and no tensor is shared with `state_dict`.

        Weights of the machines that do not agree with the loaded latents are chosen anew.

        Raises SlotkitError, before anything is changed, for a state that is not of such an optimizer and
        weights.
        """
        check_optimizer_state(state_dict, self.param_groups, self._latents, self._needed, type(self).__name__)
        # `fused` belongs to the engine, not to the state. torch asks it where numbers of steps are to lie.
        groups = [
            saved | {"fused": group["fused"]}
            for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=True)
        ]
        super().load_state_dict({**state_dict, "param_groups": groups})
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, key in zip(group["params"], saved["params"], strict=True):
                if parameter in self._latents:
                    self._load_latent(self._latents[parameter], state_dict["state"][key])
                elif parameter in self.state:
                    self.state[parameter] = deepcopy(self.state[parameter])
        if self._verdict is not None:
            self._verdict.forget()
        self._show_state()

    def state_dict(self) -> dict[str, Any]:
        """As every torch optimizer's. Raises SlotkitError if somebody else has written to a weight, and
        DivergedError for a gradient that was not finite if the step has not told yet.
        """
        self._ask()
        for weight in self._latents.values():
            weight.check_untouched()
            self._settle(weight)
        return super().state_dict()

    def _load_latent(self, weight: LatentWeight, state: Mapping[str, Any]) -> None:
        weight.load(state)
        if weight.is_consistent():
            weight.guard.mark()
        else:
            weight.choose_all()


def _check_dense(weight: LatentWeight, gradient: Tensor) -> None:
    """Raise SlotkitError for a sparse gradient: weight decay and momentum move every connection."""
    if gradient.layout is not torch.strided:
        raise SlotkitError(
            f"The gradient of {weight.reel.name} is sparse. Nothing was changed. Give a dense one: build the "
            "embedding with sparse=False, or leave it out of `where`."
        )


def _check_fused(parameter: Tensor, group: Mapping[str, Any]) -> None:
    """Raise SlotkitError for a sparse gradient of an ordinary parameter: fused optimizers take none."""
    gradient = parameter.grad
    if gradient is not None and gradient.layout is not torch.strided and group["fused"]:
        raise SlotkitError(
            f"The gradient of an ordinary parameter of shape {tuple(parameter.shape)} is sparse, and its "
            "param group is fused, as steps on a device need it. Nothing was changed. Give that group "
            "fused=False, or build the embedding with sparse=False."
        )


def _plain_step(optimizer: torch.optim.Optimizer) -> None:
    """optimizer.step() without the hooks, which this optimizer's own step calls."""
    step: Any = type(optimizer).step
    getattr(step, "__wrapped__", step)(optimizer)


def as_list(machines: Machines) -> list[Machine | Form]:
    return list(machines) if isinstance(machines, Iterable) else [machines]


def _latents(machine: Machine | Form) -> list[LatentWeight]:
    form: Form = getattr(machine, "form", machine)  # type: ignore[arg-type]
    if not form.latents:
        raise SlotkitError(
            "This optimizer trains slot machines in the latent form, and this one is in the dense "
            "form. Use any "
            "torch optimizer over machine.parameters(), or slotify with form='latent'."
        )
    return list(form.latents.values())


def _ordinary(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The parameters as a list. Raises SlotkitError if one is a slot machine's own."""
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if any(is_claimed(parameter) for parameter in listed):
        raise SlotkitError(
            "Among the ordinary parameters is one that belongs to a slot machine. Give that machine to the "
            "optimizer instead of its parameters."
        )
    return listed


def steps_by_itself(machines: Machines) -> bool | None:
    """torch's `fused` for what is trained beside these machines: such an optimizer skips a step by itself."""
    weights = [weight for machine in as_list(machines) for weight in _latents(machine)]
    return True if all(weight.engine.keeps_lines for weight in weights) else None
