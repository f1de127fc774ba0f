"""Recipes: every experiment of the sources, each a TOML file.

A recipe has a table `about` (source, differences, expected), settings in the tables of
`slotkit.config.Config`, and any number of `[[for_k]]` entries whose settings hold where K is above
a number (the sources lower the learning rate for large K).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from slotkit.config import Overrides, flatten, resolve
from slotkit.errors import SlotkitError


@dataclass(frozen=True)
class Recipe:
    """One experiment: what it is, its settings, and those that depend on K.

    Attributes:
        source: who reports it, and where.
        differences: how it departs from the other sources.
        expected: the result to expect, or that none is known.
        search: options of `slotkit masks search`; the other settings are of network and data, and of
            the trainings of the masks that it finds.
    """

    name: str
    text: str
    source: str
    differences: str
    expected: str
    settings: dict[str, Any]
    for_k: tuple[tuple[int, dict[str, Any]], ...]
    search: dict[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """The command that it is for: "train", "finetune" or "masks search"."""
        if self.search:
            return "masks search"
        return "finetune" if self.name.startswith("finetune-") else "train"

    def overrides(self, k: int | None = None) -> list[Overrides]:
        """Its settings for `slotkit.config.resolve`; `k` takes the place of the recipe's own K."""
        chosen = k if k is not None else self.settings.get("slots.k", 8)
        base = Overrides(f"recipe {self.name}", self.settings)
        return [base] + [
            Overrides(f"recipe {self.name} for k > {above}", settings)
            for above, settings in self.for_k
            if chosen > above
        ]


def names() -> list[str]:
    """Every recipe's name, sorted."""
    return sorted(
        path.name.removesuffix(".toml") for path in files(__name__).iterdir() if path.name.endswith(".toml")
    )


def below(name: str, upper: Sequence[Overrides]) -> list[Overrides]:
    """The settings of a recipe for training that `upper` is laid over: those for its K, if it sets one."""
    own_k = resolve(upper).config.slots.k if any("slots.k" in layer.values for layer in upper) else None
    return load(name, "train").overrides(own_k)


def load(name: str, stage: str | None = None) -> Recipe:
    """The recipe of that name.

    Raises SlotkitError with the nearest names, or if `stage` is given and the recipe is for another.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise SlotkitError(f"There is no recipe {name!r}. {hint}`slotkit recipes list` shows them all.")
    text = (files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    about = tables.pop("about")
    if set(about) != {"source", "differences", "expected"}:
        raise SlotkitError(
            f"Recipe {name}: the table `about` needs source, differences and expected, and has "
            f"{', '.join(about)}."
        )
    search = tables.pop("search", {})
    for_k = tuple((entry.pop("above"), dict(flatten(entry))) for entry in tables.pop("for_k", []))
    recipe = Recipe(
        *(name, text, about["source"], about["differences"], about["expected"]),
        *(dict(flatten(tables)), for_k, search),
    )
    if stage not in (None, recipe.stage):
        raise SlotkitError(
            f"The recipe {name} is for `slotkit {recipe.stage}`, not for `slotkit {stage}`. "
            "`slotkit recipes list` shows them all; those of finetuning begin with finetune-, those of "
            "searches with masks-."
        )
    return recipe
