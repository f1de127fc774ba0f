"""SlotMachine: what there is to do with a model whose weights are selected. `making.py` makes one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from operator import index
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from slotkit.draws import Draws
from slotkit.errors import SlotkitError
from slotkit.form import Form
from slotkit.optim import SlotSGD
from slotkit.others import Treated
from slotkit.picking import TRAINED, Holders, holders_of, is_claimed, unfreeze
from slotkit.reel import (
    EVALUATION_DRAWS,
    Reel,
)
from slotkit.selection import find_selection
from slotkit.states import check_machine_state

# Which weights of a machine are taken: those of the highest scores, or what they are now.
READINGS = ("greedy", "in use")


def check_reading(reading: str) -> None:
    """Raise SlotkitError unless `reading` is one of READINGS."""
    if reading not in READINGS:
        raise SlotkitError(f"There is no reading {reading!r}. Choose one of {', '.join(READINGS)}.")


def draw_number(number: object) -> int:
    """The number of a draw. Raises SlotkitError if it is none: engines would wrap it around, each in its
    way.
    """
    if not isinstance(number, SupportsIndex) or not 0 <= index(number) < 2**32:
        raise SlotkitError(f"The draw number is {number!r}. Give an integer from 0 to 2**32 - 1.")
    return index(number)


class SlotMachine:
    """A model whose weights are selected, not learned. Made by `slotify`.

    A probabilistic machine draws once an optimizer step. The draw is taken when the first forward after
    the step begins, of the model or of a part of it that has reels, in training mode; all forwards until
    the next step see the same sample. So gradient accumulation, two inputs and one loss, activation
    checkpointing and a closure have the weights that their gradient belongs to, and draw number and step
    count stay together. `spin` draws by hand, in place of the next draw. Never drawn are: weights whose
    gradient is switched off (`requires_grad_(False)`; the optimizer leaves them alone too), weights that
    a call is given from outside (`torch.func.functional_call`), and those of a copy of the machine that
    somebody else wrote to (averages of weights).

    In the latent form only slotkit's optimizers may step on the weights. What reads or writes the state
    of a machine looks first whether somebody else has, and says so; `spin` and `load_state_dict` put the
    weights right.

    Attributes:
        model: the model, changed in place.
        selection: "greedy" or "probabilistic", how training selects.
        drawing: when it draws (`slotkit.draws.Draws`).
        endings: called when `to_learned` is done.
    """

    def __init__(self, model: nn.Module, form: Form, others: Treated, selection: str) -> None:
        self.model = model
        self._form: Form | None = form
        self.selection = selection
        self.drawing = Draws(form, selection)
        self._others_are = others
        self._borrowed = False
        self._hooks: list[RemovableHandle] = []
        self.endings: list[Callable[[], None]] = []
        if selection == "probabilistic":
            self.drawing.by_hand(self.reels)
            self.drawing.restart()
            for module in _with_reels(model, form):
                self._hooks.append(module.register_forward_pre_hook(self._draw_before_forward))

    @property
    def form(self) -> Form:
        """Where options and scores live. Raises SlotkitError if the machine has ended."""
        if self._form is None:
            raise SlotkitError(
                "This slot machine has ended: to_learned() gave its network back, whose weights are ordinary "
                "ones. Train model.parameters() with any optimizer, or slotify the network anew."
            )
        return self._form

    def __repr__(self) -> str:
        if self._form is None:
            return "SlotMachine(ended: its network has learned weights)"
        reel = next(iter(self.reels.values()))
        total = sum(math.prod(reel.shape) for reel in self.reels.values())
        return (
            f"SlotMachine({total:,} connections in {len(self.reels)} tensors, K = {reel.k}, "
            f"{self.selection} selection, options {reel.rule.words}, sharing {reel.sharing}, seed "
            f"{reel.seed}, {self.form})"
        )

    @property
    def draws(self) -> int:
        """How many times training has sampled so far; part of the state."""
        return self.drawing.number

    @draws.setter
    def draws(self, number: int) -> None:
        self.drawing.number = number

    @property
    def reels(self) -> Mapping[str, Reel]:
        """Tensor name -> `Reel`."""
        return self.form.reels

    @property
    def others(self) -> str:
        """What became of the non-slot parameters: "frozen", "trained" or "kept", as `slotify` has it."""
        return self._others_are.how

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Name -> those of the non-slot parameters that are trained, and that no other machine has since."""
        # Looked up each time: load_state_dict(assign=True) puts other Parameters in the model.
        return {name: value for name, value, _ in self._still_ordinary(self._others_are.trained)}

    def _still_ordinary(self, names: Collection[str]) -> Iterator[tuple[str, nn.Parameter, Holders]]:
        """Those of the parameters that no machine has taken since, and who holds them."""
        holders = holders_of(self.model)
        for name, value in self.model.named_parameters():
            if name in names and not is_claimed(value, holders[name]):
                yield name, value, holders[name]

    def parameters(self) -> Iterator[nn.Parameter]:
        """What an optimizer trains: the form's, and the non-slot parameters that are trained.

        In the dense form these are the scores, for any torch optimizer. In the latent form they are
        the weights, which only slotkit's own optimizers may step on.
        """
        yield from self.form.parameters()
        yield from self.trained.values()

    def optimizer(
        self, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, **options: Any
    ) -> torch.optim.Optimizer:
        """SGD on the scores: `SlotSGD` in the latent form, torch.optim.SGD in the dense form.

        Weight decay (L2) acts on the scores, not on the weights. `trained` parameters are included.
        """
        options |= {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        if self.form.latents:
            return SlotSGD(self, **options)
        return torch.optim.SGD(list(self.parameters()), **options)

    def options(self, name: str) -> Tensor:
        """The K options of every connection, of shape (*weight.shape, K). They never change."""
        return self.form.options(self._known(name))

    def scores(self, name: str) -> Tensor:
        """The current scores, of shape (*weight.shape, K), detached."""
        return self.form.scores(self._checked(name))

    def copy_scores(self, other: SlotMachine) -> None:
        """Take over the scores of a machine with the same reels, in whichever form it is.

        From latent to dense this is always possible: scores are c * S + A * W. From dense to latent
        it is if they are on that line, as SGD on all K scores leaves them. The momentum of SlotSGD starts
        anew; what a torch optimizer of the dense form, or SlotAdam, remembers of earlier gradients stays:
        make it anew too.

        Raises SlotkitError, before anything is changed, if the reels differ or the scores are not on
        the line, with the tensor and by how much.
        """
        if dict(self.reels) != dict(other.reels):
            raise SlotkitError(
                "The other machine has other reels. Slotify the same model with the same k, seed, init, "
                "sharing and symmetric."
            )
        self.form.take_scores({name: other.scores(name) for name in other.reels})
        if self.selection == "greedy":
            self.form.choose_greedy(follow=True)
        else:
            self.drawing.by_hand(self.reels)
        self.drawing.restart()

    def selected(self, name: str) -> Tensor:
        """The index of the option in use, int64, of the weight's shape."""
        selected = self.form.selected(self._checked(name))
        self.form.check_selected(name, selected)
        return selected

    def spin(self, selection: str | None = None) -> None:
        """Write the weights anew from the current scores, greedily or sampled.

        Without an argument this is what a training step does: sampled weights stay until the next
        spin, greedy ones follow the scores. Each sampled spin uses the next draw number, and is the
        draw of this step: the next one is taken after the next step. Weights whose gradient is switched
        off stay as they are.
        """
        how = self.selection if selection is None else find_selection(selection)
        # A greedy choice of the same scores changes nothing, but puts right what somebody else wrote.
        follow = self.selection == "greedy"
        frozen = [] if follow and how == "greedy" else self._frozen()
        names = [name for name in self.reels if name not in frozen]
        if how == "probabilistic":
            self.drawing.by_hand(names)
        else:
            # A greedy machine follows its scores; a probabilistic one stays where it was put until it trains.
            self.form.choose_greedy(follow, names)
            self.drawing.restart()

    def _frozen(self) -> list[str]:
        """The tensors that no spin draws: without a gradient, and with the weights that slotkit left."""
        return [name for name in self.reels if self.form.is_frozen(name) and not self._is_changed(name)]

    def _is_changed(self, name: str) -> bool:
        try:
            self.form.check([name])
        except SlotkitError:
            return True
        return False

    @contextmanager
    def using(self, selection: str, draw: int = 0) -> Iterator[nn.Module]:
        """Within the block the weights are chosen by `selection`; afterwards they are as before.

        A sample taken here is number `draw` of a stream of its own: evaluation never disturbs the
        draws of training, and the same number (0 .. 2**32 - 1) gives the same sample of the same scores.
        The weights are put back on an exception too.
        """
        how = find_selection(selection)
        number = draw_number(draw)
        self.form.check()
        before = self.form.snapshot()
        borrowed, self._borrowed = self._borrowed, True
        try:
            if how == "probabilistic":
                self.form.choose_sample(EVALUATION_DRAWS, number)
            else:
                self.form.choose_greedy(follow=self.selection == "greedy")
            yield self.model
        finally:
            self._borrowed = borrowed
            self.form.restore(before)

    def to_learned(self, reading: str = "greedy") -> nn.Module:
        """End the machine: the model is an ordinary network again, whose weights are the selected options.

        They are Parameters like any other, with a gradient unless the user has switched it off. Other
        parameters keep their values; those that slotify froze have a gradient as before. Nothing of slotkit
        is left on the model, and the machine and its optimizer can't be used any more.

        Args:
            reading: "greedy" (the highest scores) or "in use" (what the weights are now: under
                probabilistic selection the last sample).

        Returns:
            The model.

        Raises SlotkitError, before anything is changed, if somebody else has written to the weights.
        """
        check_reading(reading)
        form = self.form
        form.check()
        if reading == "greedy":
            form.choose_greedy(follow=True)
        form.end(self.model)
        self.drawing.end()
        for hook in self._hooks:
            hook.remove()
        for _, value, holders in self._still_ordinary(self._others_are.frozen):
            unfreeze(value, holders)
        for _, value, holders in self._still_ordinary(self._others_are.trained):
            TRAINED.take_off(value, holders)
        self._form = None
        for ending in self.endings:
            ending()
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """All that training changes, and what the options were made from.

        Keys: "settings" (plain values), "draws" (int), "waiting" (the tensors that the next training
        forward draws), "others" (every entry of the model's own
        state_dict that is not the form's), "ties" (further name -> first name of tied tensors that "others"
        has not, if there are any), and the form's tables (tensor name -> tensor): "scores"
        and "held" in the dense form; "latent", "velocity", "lower", "upper" and "lines" in the
        latent form. The options are not in it: they are a function of the settings.
        """
        self.form.check()
        ties = self.form.ties(self.model)
        return {
            "settings": self._settings(),
            "draws": self.draws,
            "waiting": sorted(self.drawing.waiting),
            "others": self._others(),
            **({"ties": ties} if ties else {}),
            **self.form.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a `state_dict` of a machine with the same settings, of any dtype.

        Weights that follow their scores and do not agree with them are chosen anew.

        Raises SlotkitError, before anything is changed, if the settings or shapes differ, or if sampled
        weights are no options.
        """
        own = {"settings": self._settings(), "others": self._others(), **self.form.state()}
        check_machine_state(state, own, self.selection == "greedy" and not state.get("held"))
        self.form.check_state(state)
        before = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in own["others"].items()
        }
        try:
            self.model.load_state_dict(state["others"], strict=False)
        except RuntimeError:
            # Layers that are slot machines of their own may refuse, when torch has loaded the rest.
            self.model.load_state_dict(before, strict=False)
            raise
        self.form.load(state)
        self.drawing.number = state["draws"]
        self.drawing.restart(state.get("waiting"))

    def _others(self) -> dict[str, Tensor]:
        """The model's own state_dict without what belongs to the reels."""
        own = self.form.entries(self.model)
        return {name: value for name, value in self.model.state_dict().items() if name not in own}

    def _settings(self) -> dict[str, Any]:
        reel = next(iter(self.reels.values()))
        share = {} if self.form.share is None else {"share": self.form.share}
        return {
            **share,
            "reel_spec": reel.spec,
            "form": self.form.name,
            **reel.settings.to_dict(),
            "selection": self.selection,
            "update": self.form.update,
            "reels": {name: list(reel.shape) for name, reel in self.reels.items()},
        }

    def _known(self, name: str) -> str:
        if name not in self.reels:
            near = [known for known in self.reels if known.startswith(f"{name}.")]
            near += difflib.get_close_matches(name, self.reels, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise SlotkitError(f"There is no reel {name!r}.{hint} This machine has {', '.join(self.reels)}.")
        return name

    def _checked(self, name: str) -> str:
        """A known name whose weights are those that slotkit left."""
        self.form.check([self._known(name)])
        return name

    def _draw_before_forward(self, module: nn.Module, inputs: Any) -> None:
        if module.training and self.model.training and not self._borrowed:
            self.drawing.before_forward(module)


def _with_reels(model: nn.Module, form: Form) -> Iterator[nn.Module]:
    """The modules whose forward uses reels, the model first. A weight is read through a parametrization too,
    and reading is no forward.
    """
    own = {id(parameter) for parameter in form.parameters()}
    for module in model.modules():
        reading = isinstance(module, nn.utils.parametrize.ParametrizationList)
        if not reading and any(id(parameter) in own for parameter in module.parameters()):
            yield module
