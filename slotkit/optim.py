"""SlotSGD and SlotAdam: ordinary torch optimizers that train the latents of slot machines.

The weights of a machine in latent form get the slot update. Any other parameter in the same
optimizer is trained by torch's own SGD or AdamW with the hyper-parameters of its group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.latent.engines.contract import OnDevice
from slotkit.latent.line import AdamRule, AdamStep, Hyperparameters, LineColumn, adam_step
from slotkit.latent.weight import LatentWeight, WeightStep
from slotkit.slot_optimizer import Groups, Machines, SlotOptimizer, Stepping, as_list, steps_by_itself
from slotkit.uncompiled import SGD, AdamW


class SlotSGD(SlotOptimizer):
    """SGD on the K scores of every connection, through one number a connection: exactly the same selections.

    Args:
        machines: one slot machine in latent form, or several (a param group each).
        lr, momentum, dampening, weight_decay, nesterov, maximize: those of torch.optim.SGD, read at
            every step, so that schedulers work. Weight decay acts on the scores.
        parameters: ordinary parameters, or param groups of them, for torch's SGD.

    Raises:
        SlotkitError: for a machine in dense form. ValueError, from torch, for bad hyper-parameters.
    """

    _needed = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")

    def __init__(
        self,
        machines: Machines,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        parameters: Groups = (),
    ) -> None:
        listed = as_list(machines)  # it may be an iterator
        nothing, fused = [torch.zeros(0)], steps_by_itself(listed)
        ordinary = SGD(
            nothing, lr, momentum, dampening, weight_decay, nesterov, maximize=maximize, fused=fused
        )
        super().__init__(listed, parameters, ordinary)

    def _weight_steps(self, stepping: Stepping, skip: Tensor | None = None) -> list[WeightStep]:
        return [
            WeightStep(
                weight, gradient, _hyperparameters(group, weight, skip), None, _on_device(weight, group, skip)
            )
            for weight, gradient, group in stepping
        ]

    def _prepare_ordinary(self) -> None:
        # Skipped before there is any, momentum would start from memory that nobody has written to.
        for group in self.param_groups[len(self._members) :]:
            for parameter in group["params"] if group["momentum"] else []:
                if parameter.grad is not None and self.state[parameter].get("momentum_buffer") is None:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


class SlotAdam(SlotOptimizer):
    """Adam on the latent number A of every connection. This goes beyond the paper, which has SGD only.

    Adam on the K scores is not on a line, so this is a method of its own: straight-through training
    of one number through the staircase of random thresholds. c stays 1. Thresholds of A are of order
    1 in every layer whatever its width, so one learning rate (0.01) suits all.

    Args:
        machines: one slot machine in latent form, or several (a param group each).
        lr, betas, eps, weight_decay: those of torch.optim.AdamW (decoupled decay, of A).
        parameters: ordinary parameters, or param groups of them, for torch's AdamW.
    """

    _needed = ("lr", "betas", "eps", "weight_decay")

    def __init__(
        self,
        machines: Machines,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        parameters: Groups = (),
    ) -> None:
        listed = as_list(machines)
        fused = steps_by_itself(listed)
        ordinary = AdamW([torch.zeros(0)], lr, betas, eps, weight_decay, fused=fused)
        super().__init__(listed, parameters, ordinary)

    def _weight_steps(self, stepping: Stepping, skip: Tensor | None = None) -> list[WeightStep]:
        for weight, _, group in stepping:
            if group["amsgrad"] or not group["decoupled_weight_decay"]:
                raise SlotkitError(
                    f"The param group of {weight.reel.name} asks for amsgrad or coupled weight decay, which "
                    "SlotAdam has for ordinary parameters only. Nothing was changed. Leave them to AdamW's "
                    "defaults there."
                )
        return [self._weight_step(*one, skip) for one in stepping]

    def _weight_step(
        self, weight: LatentWeight, gradient: Tensor, group: dict[str, Any], skip: Tensor | None
    ) -> WeightStep:
        state, latent = self.state[weight.parameter], weight.latent
        mean = state.get("exp_avg")
        if mean is None:
            nothing = torch.zeros_like(latent)
            self._remember(weight, 0.0, nothing, nothing)
        elif (mean.device, mean.dtype) != (latent.device, latent.dtype):
            self._remember(weight, state["step"], mean, state["exp_avg_sq"])
        moments = state["exp_avg"], state["exp_avg_sq"]
        beta1, beta2 = (float(beta) for beta in group["betas"])
        eps, weight_decay, maximize = (
            float(group["eps"]),
            float(group["weight_decay"]),
            bool(group["maximize"]),
        )
        on_device = _on_device(weight, group, skip)
        if on_device is None:
            state["step"] += 1
            lr, betas = float(group["lr"]), (beta1, beta2)
            rule: AdamStep | AdamRule = adam_step(
                float(state["step"]), lr, betas, eps, weight_decay, maximize
            )
            return WeightStep(weight, gradient, rule, moments)
        if weight not in self._counted:
            on_device.numbers[LineColumn.T] = float(state["step"])
            self._counted.add(weight)
        sign, lr = -1.0 if maximize else 1.0, _rate(group, on_device)
        rule = AdamRule(lr, weight_decay, 1 - beta1, beta1, 1 - beta2, beta2, eps, sign)
        return WeightStep(weight, gradient, rule, moments, on_device)

    def _settle(self, weight: LatentWeight) -> None:
        super()._settle(weight)
        if weight in self._counted and weight.line_on_device is not None:
            self.state[weight.parameter]["step"].fill_(float(weight.line_on_device[LineColumn.T]))

    def _come_back(self, weight: LatentWeight) -> None:
        super()._come_back(weight)
        self._counted.discard(weight)

    def _remember(self, weight: LatentWeight, step: float | Tensor, mean: Tensor, square: Tensor) -> None:
        """Make these the moments of a weight: copies beside its latents, in their dtype."""
        with torch.inference_mode(False):
            self.state[weight.parameter] |= {
                "step": torch.tensor(float(step), dtype=torch.float32, device="cpu"),
                "exp_avg": mean.to(weight.latent, copy=True),
                "exp_avg_sq": square.to(weight.latent, copy=True),
            }

    def _load_latent(self, weight: LatentWeight, state: Mapping[str, Any]) -> None:
        super()._load_latent(weight, state)
        self._counted.discard(weight)
        if "step" in state:
            self._remember(weight, state["step"], state["exp_avg"], state["exp_avg_sq"])


def _hyperparameters(group: Mapping[str, Any], weight: LatentWeight, skip: Tensor | None) -> Hyperparameters:
    # torch.optim.SGD starts its momentum buffer with the first gradient, without dampening. Ours starts at 0.
    # What is kept on the device knows by itself which step is the first.
    on_device = _on_device(weight, group, skip)
    damped = on_device is not None or weight.line.has_velocity
    return Hyperparameters(
        _rate(group, on_device),
        float(group["momentum"]),
        1 - float(group["dampening"]) if damped else 1.0,
        bool(group["nesterov"]),
        float(group["weight_decay"]),
        -1.0 if group["maximize"] else 1.0,
    )


def _rate(group: Mapping[str, Any], on_device: OnDevice | None) -> float:
    """The learning rate, or 0 where the device has it."""
    return 0.0 if on_device is not None and on_device.lr is not None else float(group["lr"])


def _on_device(weight: LatentWeight, group: Mapping[str, Any], skip: Tensor | None) -> OnDevice | None:
    """What of the step is on the device, where `skip` is: also a learning rate that is a tensor there."""
    if skip is None or weight.line_on_device is None:
        return None
    lr = group["lr"]
    there = isinstance(lr, Tensor) and lr.device == skip.device
    return OnDevice(weight.line_on_device, skip, lr.double().reshape(1) if there else None)
