"""The settings of training with a mask that changes: the table `sparse` of a configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slotkit.errors import SlotkitError
from slotkit.section import Section


class SparseSettings(Section):
    """Dynamic sparse training of learned weights."""

    method: Literal["none", "set", "rigl"] = Field(
        "none", description="set grows connections at random, rigl where the gradient is largest"
    )
    density: float | None = Field(
        None, gt=0, le=1, description="share of the connections of all layers; not with a mask to begin with"
    )
    distribution: Literal["uniform", "er", "erk"] = Field(
        "erk", description="densities of the layers: equal, or of Erdos-Renyi graphs (erk: with the kernel)"
    )
    interval: int = Field(100, ge=1, description="steps between two updates of the mask")
    drop_rate: float = Field(
        0.5, gt=0, le=1, description="share of a layer's connections that an update drops, at step 0"
    )
    drop_schedule: Literal["constant", "cosine", "linear"] = Field(
        "cosine", description="drop_rate over the time of updates"
    )
    drop_end: float = Field(0.005, ge=0, le=1, description="cosine and linear: drop_rate at the end")
    drop_by: Literal["magnitude", "signs"] = Field(
        "magnitude", description="signs: half of the smallest positive, half of the largest negative weights"
    )
    grown: Literal["zero", "initial"] = Field(
        "zero", description="value of a grown weight: 0, or its initial one (feed-forward)"
    )
    until: float = Field(0.75, gt=0, le=1, description="share of the training after which the mask stays")
    hold_lr: bool = Field(False, description="keep the learning rate at training.lr while the mask changes")
    proposals: int = Field(
        1, ge=1, le=1000, description="set: ways to grow that are tried a layer; the best graph is taken"
    )
    proposal_score: Literal["spectrum", "imdb"] = Field(
        "spectrum", description="what makes a graph the best: the layer's l2 spectrum, or its IMDB"
    )
    keep_masks: bool = Field(False, description="keep the mask of every update as a file, in the run")

    @property
    def is_on(self) -> bool:
        """Whether the mask changes at all."""
        return self.method != "none"

    def check(self, mask: str | None) -> None:
        """Raise SlotkitError for what can't go together. `mask` is the mask file to begin with, if any."""
        if not self.is_on:
            given = [name for name, value in self if value != type(self).model_fields[name].default]
            if given:
                raise SlotkitError(
                    f"sparse.{given[0]} is {getattr(self, given[0])}, and sparse.method is none: no mask "
                    "would change. Choose sparse.method=set or rigl, or leave it out."
                )
            return
        if self.density is None and mask is None:
            raise SlotkitError(
                f"sparse.method is {self.method}, and how many connections there are is not said. Give "
                "sparse.density, such as 0.1, or mask, a mask file to begin with."
            )
        if self.density is not None and mask is not None:
            raise SlotkitError(
                "sparse.density and mask both say how many connections there are. Leave one of them out."
            )
        if self.method == "rigl" and self.proposals > 1:
            raise SlotkitError(
                f"sparse.proposals is {self.proposals}, and rigl grows by the gradient: all proposals would "
                "be one. Choose sparse.method=set, or one proposal."
            )
        for idle, name, why in (
            (mask is not None, "distribution", "the layers of a mask file have the densities of that mask"),
            (self.drop_schedule == "constant", "drop_end", "a constant drop rate ends as it begins"),
            (self.proposals == 1, "proposal_score", "of one proposal there is no best"),
        ):
            value = getattr(self, name)
            if idle and value != type(self).model_fields[name].default:
                raise SlotkitError(f"sparse.{name} is {value}, and does nothing here: {why}. Leave it out.")
