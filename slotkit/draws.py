"""When a probabilistic machine draws: once an optimizer step.

The draw is taken when the first training-mode forward after a step begins, and all forwards until the next
step see the same sample: gradient accumulation, two inputs and one loss, and a recomputation in the backward
pass (`torch.utils.checkpoint`) have the weights that their gradient belongs to.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from slotkit.errors import SlotkitError
from slotkit.form import Form
from slotkit.reel import TRAINING_DRAWS

NO_DRAW = (
    "This probabilistic machine made a step without a draw of its own: its gradient comes from weights of an "
    "earlier draw. No forward in training mode has reached the machine since the last step. That is so in "
    "evaluation mode, with gradients set by hand, and where torch.compile uses a graph that it made for "
    "another network, because it does not look whether modules have hooks. Call machine.spin() after each "
    "step, or set torch._dynamo.config.skip_nnmodule_hook_guards = False before the first forward."
)

# Of all machines that an optimizer's step means something for: a draw, or a step that is not its own.
_watched: WeakSet[Draws] = WeakSet()

# Of two threads in forwards of one machine the second waits for the draw of the first.
_drawing = threading.RLock()


class Draws:
    """The draws of one machine.

    Attributes:
        waiting: the tensors that the next training-mode forward draws. All of them after a step; those that
            are frozen, or given from outside (`torch.func.functional_call`), go on waiting.
    """

    # Of the tensors those whose present draw a step has had already, or is not one for a step.
    _used: set[str]

    def __init__(self, form: Form, selection: str) -> None:
        self.form = form
        self._counter: Tensor | None = None
        self.number = 0
        self._automatic = selection == "probabilistic"
        self._copied = self._stepping = self._told = False
        self._values: dict[str, list[float] | None] = {}
        self.waiting: set[str] = set()
        self.restart()
        self._watch()

    def __getstate__(self) -> dict[str, Any]:
        # A copy remembers the values that it was made with, unless somebody has written to them already.
        values = {
            name: None if self._is_written(name) else self.form.fingerprint(name) for name in self.form.reels
        }
        return self.__dict__ | {"_values": values, "_number": self.number, "_counter": None}

    def _is_written(self, name: str) -> bool:
        """Whether this is a copy, and somebody has written to what the weight comes from."""
        if not self._copied:
            return False
        return self.form.is_touched(name) or self.form.fingerprint(name) != self._values[name]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._copied, self._stepping = True, False
        self._watch()

    def _watch(self) -> None:
        if self._automatic or self.form.latents:
            _watched.add(self)

    @property
    def number(self) -> int:
        """How many draws training has taken so far; the next one has this number.

        Waits for the device where that counts them, as it does for a CUDA graph.
        """
        return self._number if self._counter is None else int(self._counter)

    @number.setter
    def number(self, number: int) -> None:
        self._number = number
        if self._counter is not None:
            self._counter.fill_(number)

    def _next(self) -> int | Tensor:
        """The number of the next draw: on the device, if lines are kept there too."""
        self._count_there()
        return self._number if self._counter is None else self._counter

    def _count_there(self) -> None:
        """Before a CUDA graph takes a draw: it would make the counter anew each time."""
        device = self.form.counting_device()
        here = None if self._counter is None else self._counter.device
        if here != device:
            number, self._counter = self.number, None
            if device is not None:
                self._counter = torch.zeros(1, dtype=torch.int64, device=device)
            self.number = number

    def end(self) -> None:
        """Draw no more."""
        _watched.discard(self)

    def restart(self, waiting: Iterable[str] | None = None) -> None:
        """The next forward draws these tensors, or all; whoever wrote to them before had a right to."""
        everything = self.form.reels if self._automatic else ()
        self.waiting = set(everything if waiting is None else waiting) & set(everything)
        self._used = set(self.waiting)
        self.form.mark()

    def _taken(self, names: Iterable[str]) -> None:
        """These tensors have been drawn."""
        self.waiting -= set(names)
        self._used -= set(names)
        self.form.mark()

    def by_hand(self, names: Iterable[str]) -> None:
        """Take the next draw now; the forwards until the next step see it."""
        names = list(names)
        if names:
            self.form.choose_sample(TRAINING_DRAWS, self.number, names)
            self.number += 1
            self._taken(names)

    # A draw is no part of a compiled graph. As torch.compiler.disable, which takes a second to import.
    @torch._disable_dynamo  # type: ignore[attr-defined]
    def before_forward(self, module: nn.Module) -> None:
        """A training-mode forward begins: take the draw of this step, unless it has been taken."""
        with _drawing:
            with torch._C._DisableFuncTorch():
                self._notice_steps_by_hand()
                names = self._to_draw()
            if not names:
                return
            if getattr(module, "_is_replica", False):
                raise SlotkitError(
                    "nn.DataParallel copies the weights before the forward that would draw them, so this "
                    "draw would reach no copy. Call machine.spin() after each optimizer.step(), or use "
                    "DistributedDataParallel."
                )
            self._take(names)

    def _take(self, names: list[str]) -> None:
        # In inference mode a draw would make tensors that no gradient can be had from; in a transform
        # (torch.func.grad) nothing may be written that is not the transform's.
        with torch.inference_mode(False), torch.no_grad(), torch._C._DisableFuncTorch():
            self.form.check(names)
            first, number = self.waiting == set(self.form.reels), self._next()
            self.form.choose_sample(TRAINING_DRAWS, number if first else number - 1, names, in_place=True)
            if first and isinstance(number, Tensor):
                number.add_(1)
            elif first:
                self.number += 1
        self._taken(names)

    def _to_draw(self) -> list[str]:
        """Which of the waiting can be drawn: in a copy of a machine none that somebody else wrote to."""
        form = self.form
        return [
            name
            for name in form.reels
            if name in self.waiting
            and not form.is_frozen(name)
            and not form.is_given(name)
            and not self._is_written(name)
        ]

    def _notice_steps_by_hand(self) -> None:
        """Scores that somebody wrote to, outside of an optimizer's step, are a step too."""
        if not self._copied and not self._stepping and self.form.has_new_scores():
            self.restart()

    def is_stepped_by(self, parameters: set[int]) -> bool:
        """Whether one of the parameters with these ids is the machine's."""
        return any(id(own) in parameters for own in self.form.parameters())

    def begin_step(self, parameters: set[int], is_own: bool) -> None:
        """An optimizer's step begins: whatever it does with the scores, forwards in it are one step's."""
        self._stepping = True
        if not is_own:
            self.form.suspect(parameters)

    def end_step(self, parameters: set[int], skipped: bool) -> None:
        """An optimizer's step on the parameters with these ids is done: the next forward draws anew."""
        self._stepping = False
        self._copied = False  # a copy that trains is a machine like any other
        used = self._used
        if self._automatic and not skipped:
            pairs = zip(self.form.reels, self.form.parameters(), strict=True)
            stepped = {name for name, own in pairs if id(own) in parameters and self.form.has_gradient(name)}
            if stepped & used:
                self._tell_of_no_draw()
            used = used | stepped
        if self._automatic:
            self._count_there()
        self.restart(self.waiting if skipped else None)
        self._used = used  # of several optimizers each has its part of one draw

    def _tell_of_no_draw(self) -> None:
        """Warn, once, of a step whose gradient does not belong to a draw of its own."""
        if self._told:
            return
        self._told = True
        warnings.warn(NO_DRAW, stacklevel=6)


def _stepped(optimizer: Optimizer) -> tuple[list[Draws], set[int]]:
    parameters = {id(value) for group in optimizer.param_groups for value in group["params"]}
    return [draws for draws in list(_watched) if draws.is_stepped_by(parameters)], parameters


def _before_step(optimizer: Optimizer, *_: Any) -> None:
    found, parameters = _stepped(optimizer)
    for draws in found:
        draws.begin_step(parameters, is_own=hasattr(optimizer, "trains_latents"))


def _after_step(optimizer: Optimizer, *_: Any) -> None:
    # A GradScaler tells fused optimizers so; others are not called at all where it skips a step. Where nobody
    # waits for steps, the next forward draws anew whether or not this one was skipped.
    unknown = getattr(optimizer, "steps_on_device", False)
    overflow = None if unknown else getattr(optimizer, "found_inf", None)
    found, parameters = _stepped(optimizer)
    for draws in found:
        draws.end_step(parameters, skipped=overflow is not None and bool(overflow))


register_optimizer_step_pre_hook(_before_step)
register_optimizer_step_post_hook(_after_step)
