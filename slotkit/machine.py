"""slotify: turn any PyTorch model into a slot machine. SlotMachine: what there is to do with one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from slotkit.dense import SlotWeight, attach
from slotkit.errors import SlotkitError
from slotkit.others import settle_others
from slotkit.picking import Picked, Where, pick
from slotkit.reel import (
    EVALUATION_DRAWS,
    INITIAL_PICK,
    REEL_SPEC,
    TRAINING_DRAWS,
    Init,
    Reel,
    check_reel_settings,
)
from slotkit.selection import find_selection, find_update, greedy, pick_uniformly, sample, take

FORMS = ("dense",)


def slotify(
    model: nn.Module,
    k: int = 8,
    selection: str = "greedy",
    sharing: str = "none",
    init: str | Init = "authors",
    seed: int = 0,
    form: str = "dense",
    where: Where = None,
    others: str = "frozen",
    update: str = "all",
    symmetric: bool = False,
) -> SlotMachine:
    """Make a slot machine of `model`, in place.

    Every picked weight gets K fixed random options and K scores a connection; its values are
    replaced by the selected options. Nothing else changes in a training loop but the optimizer,
    which comes from `SlotMachine.optimizer` or is any torch optimizer over
    `SlotMachine.parameters()`.

    Args:
        model: any module with weights of Linear, Conv1d/2d/3d or ConvTranspose1d/2d/3d.
        k: options a connection, 1 or more.
        selection: "greedy" (GS) or "probabilistic" (PS, drawn anew in each forward in training mode).
        sharing: "none", "layer" or "channel": which connections have the same K options.
        init: "authors", "paper" or an object (`slotkit.reel.Init`).
        seed: of options, scores and draws; the same seed gives the same bits on every device.
        form: "dense", the literal form.
        where: which parameters become reels: None (every weight of the layers above), names or glob
            patterns, or a predicate (name, parameter) -> bool.
        others: what becomes of the other parameters: "frozen" (biases 0, norms identity, as in the
            paper's networks), "trained", or "kept" (as they are, untrained).
        update: "all" scores get a gradient (the paper) or only the "selected" one (CENG501).
        symmetric: options in pairs +v, -v. Worth it with sharing: a few plain uniform values shared
            by a layer don't average to zero, and can leave every ReLU dead.

    Raises:
        SlotkitError: for a value that is not accepted, or a model without such weights.
    """
    check_reel_settings(k, seed, init, sharing, symmetric)
    selection, update = find_selection(selection), find_update(update)
    if form not in FORMS:
        raise SlotkitError(f"There is no form {form!r}. Choose one of {', '.join(FORMS)}.")
    picked = pick(model, where)
    # All reels before the first change, so that a refused tensor leaves the model as it was.
    reels = [_reel(place, k, seed, init, sharing, symmetric) for place in picked]
    trained = settle_others(model, picked, others)
    weights: dict[str, SlotWeight] = {}
    scores: dict[str, nn.Parameter] = {}
    for place, reel in zip(picked, reels, strict=True):
        weights[reel.name] = SlotWeight(reel, update, place.parameter.device, place.parameter.dtype)
        scores[reel.name] = attach(place.owners, weights[reel.name])
    return SlotMachine(model, weights, scores, trained, selection)


def randomize(
    model: nn.Module, k: int = 1, init: str | Init = "authors", seed: int = 0, where: Where = None
) -> None:
    """Give an ordinary network, in place, the weights of an untrained slot machine.

    Each weight becomes one of the K options that the slot machine of the same seed would have,
    picked uniformly: the start of the authors' learned-weight baselines (their `subnet_K_0`).
    """
    check_reel_settings(k, seed, init, "none", False)
    for place in pick(model, where):
        reel = _reel(place, k, seed, init, "none", False)
        device = place.parameter.device
        index = pick_uniformly(k, reel.draw(INITIAL_PICK, 0, device))
        with torch.no_grad():
            place.parameter.copy_(take(reel.options(device), index))


def _reel(place: Picked, k: int, seed: int, init: str | Init, sharing: str, symmetric: bool) -> Reel:
    shape = tuple(place.parameter.shape)
    return Reel(place.name, shape, k, seed, init, sharing, symmetric, place.channel_dim)


class SlotMachine:
    """A model whose weights are selected, not learned. Made by `slotify`.

    Attributes:
        model: the model, changed in place.
        selection: "greedy" or "probabilistic", how training selects.
        draws: how many times training has sampled so far; part of the state.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: dict[str, SlotWeight],
        scores: dict[str, nn.Parameter],
        trained: dict[str, nn.Parameter],
        selection: str,
    ) -> None:
        self.model = model
        self.selection = selection
        self.draws = 0
        self._weights = weights
        self._scores = scores
        self._trained = trained
        self._borrowed = False
        if selection == "probabilistic":
            self.spin()
            model.register_forward_pre_hook(self._spin_before_forward)

    def __repr__(self) -> str:
        reel = next(iter(self.reels.values()))
        total = sum(scores[..., 0].numel() for scores in self._scores.values())
        values = "in pairs +v -v" if reel.symmetric else "plain"
        return (
            f"SlotMachine({total:,} connections in {len(self._scores)} tensors, K = {reel.k}, "
            f"{self.selection} selection, options {values}, sharing {reel.sharing}, seed {reel.seed})"
        )

    @property
    def reels(self) -> dict[str, Reel]:
        """Tensor name -> `Reel`."""
        return {name: weight.reel for name, weight in self._weights.items()}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything an optimizer should train: the scores, and the others if they are trained."""
        yield from self._scores.values()
        yield from self._trained.values()

    def optimizer(
        self, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, **options: Any
    ) -> torch.optim.Optimizer:
        """torch.optim.SGD over `parameters()`. Weight decay (L2) acts on the scores, not the weights."""
        return torch.optim.SGD(
            self.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, **options
        )

    def options(self, name: str) -> Tensor:
        """The K options of every connection, of shape (*weight.shape, K). They never change."""
        weight = self._weight(name)
        return weight.options.expand_as(self._scores[name])

    def scores(self, name: str) -> Tensor:
        """The current scores, of shape (*weight.shape, K), detached."""
        self._weight(name)
        return self._scores[name].detach()

    def selected(self, name: str) -> Tensor:
        """The index of the option in use, int64, of the weight's shape."""
        return self._weight(name).selected(self._scores[name])

    def spin(self, selection: str | None = None) -> None:
        """Write the weights anew from the current scores, greedily or sampled.

        Without an argument this is what a training step does: sampled weights stay until the next
        spin, greedy ones follow the scores. Each sampled spin uses the next draw number.
        """
        how = self.selection if selection is None else find_selection(selection)
        if how == "probabilistic":
            self._hold_sample(TRAINING_DRAWS, self.draws)
            self.draws += 1
        else:
            self._hold_greedy()

    @contextmanager
    def using(self, selection: str, draw: int = 0) -> Iterator[nn.Module]:
        """Within the block the weights are chosen by `selection`; afterwards they are as before.

        A sample taken here is number `draw` of a stream of its own: evaluation never disturbs the
        draws of training, and the same number gives the same sample of the same scores. The weights
        are put back on an exception too.
        """
        how = find_selection(selection)
        before = {name: weight.held for name, weight in self._weights.items()}
        borrowed, self._borrowed = self._borrowed, True
        try:
            if how == "probabilistic":
                self._hold_sample(EVALUATION_DRAWS, draw)
            else:
                self._hold_greedy()
            yield self.model
        finally:
            self._borrowed = borrowed
            for name, weight in self._weights.items():
                weight.held = before[name]

    def state_dict(self) -> dict[str, Any]:
        """All that training changes, and what the options were made from.

        Keys: "settings" (plain values), "draws" (int), "scores" and "held" (tensor name -> tensor),
        "others" (every other entry of the model's own state_dict). The options are not in it:
        they are a function of the settings.
        """
        return {
            "settings": self._settings(),
            "draws": self.draws,
            "scores": {name: scores.detach() for name, scores in self._scores.items()},
            "held": {name: weight.held for name, weight in self._weights.items() if weight.held is not None},
            "others": self._others(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict` of a machine with the same settings.

        Raises SlotkitError, before anything is changed, if the settings or shapes differ.
        """
        mine, theirs = self._settings(), state["settings"]
        different = [key for key in mine if mine[key] != theirs.get(key)]
        if different:
            told = "; ".join(
                f"{key} is {theirs.get(key)!r} there and {mine[key]!r} here" for key in different
            )
            raise SlotkitError(f"This state belongs to another slot machine: {told}. Build that one first.")
        others: dict[str, Tensor] = state["others"]
        if {name: v.shape for name, v in self._others().items()} != {
            name: v.shape for name, v in others.items()
        }:
            raise SlotkitError("This state belongs to a model with other parameters. Build that model first.")
        with torch.no_grad():
            for name, scores in self._scores.items():
                scores.copy_(state["scores"][name])
            for name, weight in self._weights.items():
                held = state["held"].get(name)
                weight.held = None if held is None else held.to(weight.options.device).clone()
        self.model.load_state_dict(others, strict=False)
        self.draws = state["draws"]

    def _others(self) -> dict[str, Tensor]:
        """The model's own state_dict without what belongs to the reels."""
        lists = (
            prefix
            for prefix, module in self.model.named_modules(remove_duplicate=False)
            if isinstance(module, ParametrizationList) and isinstance(module[0], SlotWeight)
        )
        inside = tuple(f"{prefix}." for prefix in lists)
        return {name: value for name, value in self.model.state_dict().items() if not name.startswith(inside)}

    def _settings(self) -> dict[str, Any]:
        reel = next(iter(self.reels.values()))
        return {
            "reel_spec": REEL_SPEC,
            "k": reel.k,
            "seed": reel.seed,
            "init": reel.init if isinstance(reel.init, str) else repr(reel.init),
            "sharing": reel.sharing,
            "symmetric": reel.symmetric,
            "selection": self.selection,
            "reels": {name: list(reel.shape) for name, reel in self.reels.items()},
        }

    def _weight(self, name: str) -> SlotWeight:
        if name not in self._weights:
            raise SlotkitError(f"There is no reel {name!r}. This machine has {', '.join(self._weights)}.")
        return self._weights[name]

    def _hold_sample(self, stream: int, number: int) -> None:
        for name, weight in self._weights.items():
            scores = self.scores(name)
            weight.held = sample(scores, weight.reel.draw(stream, number, scores.device))

    def _hold_greedy(self) -> None:
        for name, weight in self._weights.items():
            # A greedy machine follows its scores; a probabilistic one stays where it was put.
            weight.held = None if self.selection == "greedy" else greedy(self.scores(name))

    def _spin_before_forward(self, model: nn.Module, inputs: Any) -> None:
        if model.training and not self._borrowed:
            self.spin()
