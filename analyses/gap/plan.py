"""What `gap` trains: a two-level design between two sources, and the runs that it takes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slotkit.analyses.gap.factorial import design
from slotkit.analyses.gap.sources import (
    DROPOUT,
    READING,
    SAMPLING,
    TRAINING,
    Factor,
    Settings,
    factors_between,
    join_init,
    lent_settings,
    renamed,
    source_settings,
)

from slotkit import recipes
from slotkit.config import Overrides
from slotkit.errors import SlotkitError
from slotkit.selection import find_selection

# No factor: in every cell the best checkpoint is chosen by validation, read in this way.
SELECTING = {DROPOUT: False, SAMPLING: "greedy"}

SEEDS = ("seeds.reels", "seeds.data", "seeds.training")

Cell = tuple[int, ...]  # the level of each factor of training: -1 low, 1 high


@dataclass(frozen=True)
class Plan:
    """A sweep: every run is `base` with a level of each factor, once a seed.

    Every source whose settings are levels of the factors is a corner of the design's cube; the
    reproduction is the one where all are low.

    Attributes:
        reference, reproduction: what the two ends are called.
        base: settings that all runs share: those of the reference.
        factors: of training; a column of the design each.
        readings: factors of evaluation only.
        held: factors between the ends that were left out, at the reference's level in every run.
    """

    model: str
    dataset: str
    k: int
    epochs: int
    reference: str
    reproduction: str
    base: Settings
    factors: tuple[Factor, ...]
    readings: tuple[Factor, ...]
    held: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """A folder's name, the same for the same sweep."""
        dataset = Path(self.dataset.partition(":")[2] or self.dataset).name
        model = self.model.replace("/", "-")
        return f"gap-{model}-{dataset}-k{self.k}-{self.base['slots.selection']}"

    @property
    def cells(self) -> NDArray[np.int64]:
        """(cells, factors) of the design."""
        return design(len(self.factors))

    @property
    def ends(self) -> tuple[Cell, Cell]:
        """The cells of reference and reproduction."""
        return (
            tuple(1 if factor.between else -1 for factor in self.factors),
            (-1,) * len(self.factors),
        )

    def neighbours(self, end: Cell) -> dict[int, Cell]:
        """The cells next to an end on the way to the other: factor -> the end with that factor changed."""
        return {
            index: tuple(-level if i == index else level for i, level in enumerate(end))
            for index, factor in enumerate(self.factors)
            if factor.between
        }

    def trained(self) -> list[Cell]:
        """All cells: the design's, then the ends and their neighbours that it lacks."""
        cells = [tuple(int(level) for level in cell) for cell in self.cells]
        near = [cell for end in self.ends for cell in self.neighbours(end).values()]
        return list(dict.fromkeys([*cells, *self.ends, *near]))

    def layers(self, cell: Cell, seed: int) -> list[Overrides]:
        """The settings of one run."""
        levels: Settings = {}
        for factor, level in zip(self.factors, cell, strict=True):
            levels |= factor.high if level > 0 else factor.low
        settings = join_init(self.base | levels) | dict.fromkeys(SEEDS, seed)
        return [Overrides("slotkit analyze gap", settings)]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Plan:
        factors = {kind: tuple(_factor(one) for one in told[kind]) for kind in ("factors", "readings")}
        lists = {name: tuple(told[name]) for name in ("held", "seeds")}
        return cls(**{**told, **factors, **lists, "base": renamed(told["base"])})


def _factor(told: Mapping[str, Any]) -> Factor:
    return Factor(**{**told, "low": renamed(told["low"]), "high": renamed(told["high"])})


def plan(
    dataset: str | None = None,
    model: str = "lenet",
    selection: str = "greedy",
    k: int = 8,
    epochs: int | None = None,
    seeds: Sequence[int] = (0,),
    reference: str | None = None,
    reproduction: str | None = None,
    factors: Sequence[str] | None = None,
    layers: Sequence[Overrides] = (),
) -> Plan:
    """The sweep between two sources.

    Args:
        dataset, epochs: by default the reference's.
        reference, reproduction: recipes; by default authors-MODEL-SELECTION and ceng501-MODEL-SELECTION.
            CENG501 has convolutional networks only: another model gets its settings for conv2, as far as
            the model has them.
        factors: those to vary, by name; by default all. Others stay at the reference's level.
        layers: settings laid over every source: what they set is no factor any more.

    Raises SlotkitError for a recipe, setting or factor that isn't there, or where the ends are the same.
    """
    selection = find_selection(selection)
    reference = reference or f"authors-{model}-{selection}"
    flags = {"model.name": model, "slots.k": k, "data.dataset": dataset, "training.epochs": epochs}
    top = [Overrides("slotkit analyze gap", {p: v for p, v in flags.items() if v is not None}), *layers]
    near = source_settings(reference, k, top)
    wanted = reproduction or f"ceng501-{model}-{selection}"
    if reproduction or wanted in recipes.names():
        reproduction, far = wanted, source_settings(wanted, k, top)
    else:
        lent = f"ceng501-conv2-{selection}"
        far = lent_settings(lent, k, top, model, channels=len(near.get("data.mean", ())))
        reproduction = f"{lent} for {model}"
    sources = {reference: near}
    for name in (f"paper-{model}-{selection}", f"authors-{model}-{selection}"):
        if name in recipes.names() and name not in (reference, reproduction):
            sources[name] = source_settings(name, k, top)
    found = factors_between(TRAINING, sources, far)
    readings = factors_between(READING[: 2 if selection == "probabilistic" else 1], sources, far)
    chosen = _chosen([*found, *readings], factors)
    if not any(factor in found for factor in chosen):
        raise SlotkitError(
            f"{reference} and {reproduction} differ in no setting of training that is varied. Choose other "
            "recipes, or leave out --factors or --set."
        )
    given = {path for layer in layers for path in layer.values}
    base = near | {path: value for path, value in SELECTING.items() if path not in given}
    base |= {} if "recording.trace" in given else {"recording.trace": "off"}
    varied = {path for factor in chosen if factor in found for path in (*factor.low, *factor.high)}
    return Plan(
        model=model,
        dataset=near["data.dataset"],
        k=k,
        epochs=near["training.epochs"],
        reference=reference,
        reproduction=reproduction,
        base={path: value for path, value in base.items() if path not in varied},
        factors=tuple(factor for factor in found if factor in chosen),
        readings=tuple(factor for factor in readings if factor in chosen),
        held=tuple(f.name for f in (*found, *readings) if f.between and f not in chosen),
        seeds=tuple(seeds),
    )


def _chosen(found: list[Factor], names: Sequence[str] | None) -> list[Factor]:
    if names is None:
        return found
    known = {factor.name: factor for factor in found}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise SlotkitError(
                f"There is no factor {name!r} here. {hint}The sources differ in: {', '.join(known)}."
            )
    return [known[name] for name in dict.fromkeys(names)]
