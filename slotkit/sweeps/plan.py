"""The runs of a sweep: every configuration resolved, with the key that it is known by."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from slotkit import recipes
from slotkit.config import Config, Overrides, flatten, resolve, short_name
from slotkit.data import sources
from slotkit.runs.fingerprint import FREE
from slotkit.runs.listing import SEEDS, shown
from slotkit.sweeps.spec import RECIPE, Block, Spec
from slotkit.training.checks import check_settings
from slotkit.training.prepare import whole_path

# What a run takes from its dataset if the settings leave it open.
FROM_DATASET = ("data.validation", "data.mean", "data.std")

LONGEST_NAME = 80


@dataclass(frozen=True)
class Planned:
    """A run that is wanted.

    Attributes:
        layers: its settings, later ones over earlier ones.
        varied: what tells it from the others, in words; without the seed.
        seed: of a repetition; None where the settings say it.
        name: of its folder, if its maker has one; else `folder_name`.
    """

    layers: tuple[Overrides, ...]
    varied: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    name: str | None = None

    def settings(self) -> dict[str, Any]:
        """Its resolved configuration: those settings that are not at their default."""
        return deciding(resolve(self.layers).config)


def deciding(config: Config) -> dict[str, Any]:
    """The settings that make a run what it is, as JSON has them, without those at their default.

    A setting that a later slotkit adds is at its default in every older run, so keys stay as they are.
    """
    usual = dict(flatten(Config().model_dump(mode="json")))
    told = dict(flatten(config.model_dump(mode="json")))
    told["data.dataset"] = sources.absolute(config.data.dataset)
    told["mask"] = None if config.mask is None else whole_path(config.mask)  # as the run's folder has it
    return {path: value for path, value in told.items() if path not in FREE and value != usual.get(path)}


def key_of(settings: Mapping[str, Any]) -> str:
    """The key of a run: a digest of what `deciding` gives."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def cell_of(settings: Mapping[str, Any]) -> str:
    """The key of its cell: the same for all repetitions."""
    return key_of({path: value for path, value in settings.items() if path not in SEEDS})


def folder_name(planned: Planned, key: str) -> str:
    """Such as "k2-greedy-s0-3fa9c1": what is varied, the seed, the first digits of the key."""
    parts = [_slug(name, value) for name, value in planned.varied.items()]
    parts += [] if planned.seed is None else [f"s{planned.seed}"]
    words = re.sub(r"[^A-Za-z0-9.+-]+", "-", "-".join(parts)).strip("-.")[:LONGEST_NAME]
    return "-".join(filter(None, [words, key[:6]]))


def plan(spec: Spec) -> list[Planned]:
    """Every run, all of a seed before the next seed. Raises SlotkitError for a setting that is refused."""
    blocks = spec.blocks
    told = _differing(blocks)
    wanted = [list(_runs(block, told[at])) for at, block in enumerate(blocks)]
    seeds = dict.fromkeys(run.seed for runs in wanted for run in runs)
    found: dict[str, Planned] = {}
    for seed in seeds:
        for run in (run for runs in wanted for run in runs if run.seed == seed):
            found.setdefault(key_of(run.settings()), run)
    return list(found.values())


def check(planned: Iterable[Planned], here: bool = True) -> None:
    """Raise SlotkitError for a run that would be refused; see `slotkit.training.checks`."""
    for one in planned:
        check_settings(resolve(one.layers).config, here)


def words(varied: Mapping[str, Any], seed: int | None = None) -> str:
    """What a run is, for people: "k 2, selection greedy, seed 0"."""
    told = [f"{name} {shown(value)}" for name, value in varied.items()]
    return ", ".join(told + ([] if seed is None else [f"seed {seed}"]))


def _runs(block: Block, told: Mapping[str, Any]) -> Iterator[Planned]:
    for cell in _cells(block):
        recipe = cell.get(RECIPE, block.recipe)
        values = {path: value for path, value in cell.items() if path != RECIPE}
        upper = [*block.base, *block.settings, *([Overrides("the sweep", values)] if values else [])]
        layers = [*([] if recipe is None else recipes.below(recipe, upper)), *upper]
        resolved = dict(flatten(resolve(layers).config.model_dump(mode="json")))
        varied = {RECIPE: recipe} if RECIPE in told or RECIPE in cell else {}
        # What is not in a run's key does not tell it from another one.
        paths = [path for path in dict.fromkeys([*told, *values]) if path not in (RECIPE, *FREE)]
        varied |= {short_name(path): resolved.get(path, values.get(path)) for path in paths}
        for seed in block.seeds or (None,):
            seeded = [] if seed is None else [Overrides("seeds of the sweep", dict.fromkeys(SEEDS, seed))]
            yield Planned((*layers, *seeded), varied, seed)


def _cells(block: Block) -> Iterator[dict[str, Any]]:
    """What is varied, as {path: value}: each row with every combination of the grid."""
    for row in block.rows or [{}]:
        for values in product(*block.grid.values()):
            yield dict(zip(block.grid, values, strict=True)) | dict(row)


def _differing(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """For each block what it has otherwise than the others: recipe and settings."""
    own = [{RECIPE: block.recipe} | _merged(block.settings) for block in blocks]
    same = {path for path in own[0] if all(path in one and one[path] == own[0][path] for one in own)}
    return [
        {path: value for path, value in one.items() if path not in same and value is not None} for one in own
    ]


def _merged(layers: Iterable[Overrides]) -> dict[str, Any]:
    return {path: value for layer in layers for path, value in layer.values.items()}


def _slug(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no-{name}"
    if isinstance(value, str):
        return value.rpartition("/")[2]
    if isinstance(value, list | tuple):
        return name + "+".join(map(shown, value))
    return f"{name}{shown(value)}"
