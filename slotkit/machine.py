"""slotify: turn any PyTorch model into a slot machine. SlotMachine: what there is to do with one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from slotkit.dense import DenseForm
from slotkit.draws import Draws
from slotkit.errors import SlotkitError
from slotkit.form import Form
from slotkit.latent.form import LatentForm
from slotkit.optim import SlotSGD
from slotkit.others import Treated, check_others, treat_others
from slotkit.picking import Picked, Where, is_claimed, pick, unfreeze
from slotkit.reel import (
    EVALUATION_DRAWS,
    INITIAL_PICK,
    Init,
    Reel,
    ReelSettings,
)
from slotkit.selection import find_selection, find_update, pick_uniformly, take
from slotkit.states import check_machine_state

FORMS = ("latent", "dense")
TABLES = ("auto", "stored", "recomputed")

# Which weights of a machine are taken: those of the highest scores, or what they are now.
READINGS = ("greedy", "in use")


# What is made in inference mode can't be trained outside of it.
@torch.inference_mode(False)
def slotify(
    model: nn.Module,
    k: int = 8,
    selection: str = "greedy",
    sharing: str = "none",
    init: str | Init = "glorot-uniform",
    seed: int = 0,
    form: str = "latent",
    engine: str = "auto",
    where: Where = None,
    others: str = "frozen",
    update: str = "all",
    symmetric: bool = False,
    tables: str = "auto",
    kind: str | None = None,
) -> SlotMachine:
    """Make a slot machine of `model`, in place.

    Every picked weight gets K fixed random options and K scores a connection; its values, pretrained
    or not, are replaced by the selected options. Biases and norms are made neutral, unless `others` says
    otherwise. Nothing else changes in a training loop but the optimizer, which comes from
    `SlotMachine.optimizer`. `SlotMachine.to_learned` gives the ordinary network back.

    Args:
        model: any module with weights of Linear, Conv1d/2d/3d or ConvTranspose1d/2d/3d.
        k: options a connection, 1 or more.
        selection: "greedy" (GS) or "probabilistic" (PS, drawn anew for each optimizer step).
        sharing: "none", "layer", "channel" or "network": which connections have the same K options. Those
            of the network are K numbers, times the bound of each layer.
        init: "glorot-uniform", "glorot-deviation", a mixture of them (`slotkit.inits.MIXED_INITS`) or an
            object (`slotkit.inits.Init`).
        seed: of options, scores and draws; the same seed gives the same bits on every device.
        form: "latent" trains one number a connection by SGD, exactly as K scores, at the cost of an
            ordinary step; modules and state_dict stay those of an ordinary network. "dense" keeps K
            options and K scores, for any torch optimizer and for update="selected".
        engine: of the latent form: "auto", "numba" (CPU), "triton" (CUDA) or "eager" (plain PyTorch,
            every device).
        where: which parameters become reels: None (every weight of the layers above), names or glob
            patterns, or a predicate (name, parameter) -> bool.
        others: what becomes of the non-slot parameters: "frozen" (biases 0, norms identity, as in the
            paper's networks), "trained" (from the values that they have), or "kept" (as they are, untrained:
            for pretrained ones).
        update: "all" scores get a gradient (the paper) or only the "selected" one (CENG501).
        symmetric: options in pairs +v, -v. Worth it with sharing: a few plain uniform values shared
            by a layer don't average to zero, and can leave every ReLU dead.
        tables: of the latent form: options and scores "stored" (8 K bytes a connection), "recomputed"
            when they are needed (no memory that grows with K, the same bits), or "auto".
        kind: another kind of options, a name in `slotkit.kinds.KINDS`; None is what `symmetric` says.

    Raises:
        SlotkitError: for a value that is not accepted, or a model without such weights.
    """
    settings = ReelSettings(k, seed, init, sharing, symmetric, kind)
    selection, update = find_selection(selection), find_update(update)
    check_form(form, engine, update, tables)
    check_others(others)
    picked = pick(model, where)
    # All reels are made before the model is changed, so that a refusal leaves it as it was.
    reels = [_reel(one, settings) for one in picked]
    if form == "dense":
        chosen: Form = DenseForm(picked, reels, selection, update)
    else:
        chosen = LatentForm(picked, reels, selection, engine, tables)
    return SlotMachine(model, chosen, treat_others(model, picked, others), selection)


def randomize(
    model: nn.Module, k: int = 1, init: str | Init = "glorot-uniform", seed: int = 0, where: Where = None
) -> None:
    """Give an ordinary network, in place, the weights of an untrained slot machine.

    Each weight becomes one of the K options that the slot machine of the same seed would have,
    picked uniformly: the start of the authors' learned-weight baselines (their `subnet_K_0`).
    """
    settings = ReelSettings(k, seed, init)
    for one in pick(model, where):
        reel = _reel(one, settings)
        device = one.parameter.device
        index = pick_uniformly(k, reel.draw(INITIAL_PICK, 0, device))
        with torch.no_grad():
            one.parameter.copy_(take(reel.options(device), index))


def _reel(one: Picked, settings: ReelSettings) -> Reel:
    return settings.reel(one.name, one.parameter.shape, one.channel_dim)


def check_form(form: str, engine: str, update: str, tables: str) -> None:
    """Raise SlotkitError for what the form doesn't have."""
    if form not in FORMS:
        raise SlotkitError(f"There is no form {form!r}. Choose one of {', '.join(FORMS)}.")
    if tables not in TABLES:
        raise SlotkitError(
            f"There is no storage policy tables={tables!r}. Choose one of {', '.join(TABLES)}."
        )
    if form == "latent" and update == "selected":
        raise SlotkitError(
            "update='selected' moves one score of K, so the scores leave the line that the latent form "
            "relies on. Use form='dense'."
        )
    if form == "dense" and (engine, tables) != ("auto", "auto"):
        raise SlotkitError(
            "engine and tables belong to the latent form. Leave them out, or use form='latent'."
        )


def check_reading(reading: str) -> None:
    """Raise SlotkitError unless `reading` is one of READINGS."""
    if reading not in READINGS:
        raise SlotkitError(f"There is no reading {reading!r}. Choose one of {', '.join(READINGS)}.")


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
    def trained(self) -> dict[str, nn.Parameter]:
        """Name -> those of the non-slot parameters that are trained."""
        # Looked up each time: load_state_dict(assign=True) puts other Parameters in the model.
        return {name: self.model.get_parameter(name) for name in self._others_are.trained}

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
        it is if they are on that line, as SGD on all K scores leaves them. Momentum starts anew.

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
        draws of training, and the same number gives the same sample of the same scores. The weights
        are put back on an exception too.
        """
        how = find_selection(selection)
        self.form.check()
        before = self.form.snapshot()
        borrowed, self._borrowed = self._borrowed, True
        try:
            if how == "probabilistic":
                self.form.choose_sample(EVALUATION_DRAWS, draw)
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
        for name in self._others_are.frozen:
            self._unfreeze(name)
        self._form = None
        for ending in self.endings:
            ending()
        return self.model

    def _unfreeze(self, name: str) -> None:
        """Give a parameter a gradient again, unless another machine has taken it since."""
        prefix, _, last = name.rpartition(".")
        holder = self.model.get_submodule(prefix)
        value = holder._parameters.get(last)
        if value is not None and not is_claimed(value, [(holder, last)]):
            unfreeze(value)

    def state_dict(self) -> dict[str, Any]:
        """All that training changes, and what the options were made from.

        Keys: "settings" (plain values), "draws" (int), "waiting" (the tensors that the next training
        forward draws), "others" (every entry of the model's own
        state_dict that is not the form's), and the form's tables (tensor name -> tensor): "scores"
        and "held" in the dense form; "latent", "velocity", "lower", "upper" and "lines" in the
        latent form. The options are not in it: they are a function of the settings.
        """
        self.form.check()
        return {
            "settings": self._settings(),
            "draws": self.draws,
            "waiting": sorted(self.drawing.waiting),
            "others": self._others(),
            **self.form.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a `state_dict` of a machine with the same settings.

        Raises SlotkitError, before anything is changed, if the settings or shapes differ.
        """
        own = {"settings": self._settings(), "others": self._others(), **self.form.state()}
        check_machine_state(state, own, self.selection == "greedy" and not state.get("held"))
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
        return {
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
