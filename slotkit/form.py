"""What a form of the method has to do for a machine. The forms are `dense.py` and `latent/form.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from slotkit.latent.weight import LatentWeight
from slotkit.reel import Reel


class Form(Protocol):
    """Where options and scores of a machine's tensors live, and how weights are chosen from them.

    Attributes:
        name: "dense" or "latent".
        update: "all" or "selected".
        share: of each tensor's connections, those that may use another option than the first; None is all.
    """

    name: str
    update: str
    share: float | None

    @property
    def reels(self) -> Mapping[str, Reel]:
        """Tensor name -> Reel."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What an optimizer of this form trains."""

    @property
    def latents(self) -> Mapping[str, LatentWeight]:
        """Tensor name -> its latents, which slotkit's optimizers train. Empty if this form has none."""

    def state_bytes(self) -> int:
        """Memory of options, scores, latents and intervals, in bytes; without weights and gradients."""

    def coefficient(self, name: str) -> float | None:
        """c of scores c * S + A * W, None if this form doesn't keep them on a line."""

    def options(self, name: str) -> Tensor:
        """(*weight.shape, K)."""

    def scores(self, name: str) -> Tensor:
        """(*weight.shape, K), detached."""

    def has_initial_scores(self) -> bool:
        """Whether all scores are those that the reels began with, in float32 at least."""

    def take_scores(self, scores: Mapping[str, Tensor]) -> None:
        """Replace the scores of all reels, each (*weight.shape, K). Momentum starts anew.

        Raises SlotkitError, before anything is changed, if this form can't have such scores.
        """

    def selected(self, name: str) -> Tensor:
        """int64, of the weight's shape."""

    def choose_greedy(self, follow: bool, names: Iterable[str] | None = None) -> None:
        """Use the options with the highest scores, of some tensors or all. With `follow`, do so again after
        every step.
        """

    def choose_sample(
        self, stream: int, number: int | Tensor, names: Iterable[str] | None = None, in_place: bool = False
    ) -> None:
        """Use a sample of the scores: draw `number` of `stream`, of some tensors or all. A number on the
        `counting_device` is int64 (1,).

        It stays until the next choice. With `in_place` it is written to where the last sample is.
        """

    def counting_device(self) -> torch.device | None:
        """Where draws of training are counted, so that a CUDA graph can take them; None: by the host."""

    def follows(self) -> bool:
        """Whether all weights are those of the highest scores, and chosen anew after every step."""

    def check(self, names: Iterable[str] | None = None) -> None:
        """Raise SlotkitError if something else than slotkit has changed one of these weights, or any."""

    def check_selected(self, name: str, selected: Tensor) -> None:
        """As `check`, by the values of the weight: a write to .data is counted nowhere."""

    def is_frozen(self, name: str) -> bool:
        """Whether the user has switched off its gradient: it is neither drawn nor stepped."""

    def has_gradient(self, name: str) -> bool:
        """Whether an optimizer's step moves the scores of this tensor."""

    def is_given(self, name: str) -> bool:
        """Whether the model is being called with another weight in its place (torch.func.functional_call)."""

    def is_touched(self, name: str) -> bool:
        """Whether somebody else has written to what the weight comes from since the last `mark`."""

    def fingerprint(self, name: str) -> list[float]:
        """Numbers that change when what the weight comes from does, however it is written to."""

    def suspect(self, parameters: set[int]) -> None:
        """An ordinary optimizer is about to step on the parameters with these ids."""

    def has_new_scores(self) -> bool:
        """Whether somebody has written to scores since the last `mark`: a step without an optimizer."""

    def mark(self) -> None:
        """All is as it should be."""

    def snapshot(self) -> Any:
        """The choice in use, for `restore`."""

    def restore(self, snapshot: Any) -> None:
        """Use the choice of a `snapshot` again."""

    def entries(self, model: nn.Module) -> set[str]:
        """Names in model.state_dict() that are this form's own."""

    def ties(self, model: nn.Module) -> dict[str, str]:
        """Further name -> first name of each tied tensor of which model.state_dict() has neither."""

    def state(self) -> dict[str, Any]:
        """Tables (name -> tensor) and plain values that training changes."""

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise SlotkitError for a state of the right names and shapes with weights that none can have."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over a `state` of the same reels."""

    def end(self, model: nn.Module) -> None:
        """Make the options in use ordinary Parameters of the model, which no machine has. The form is then of
        no use.
        """
