"""The table of `masks`, from searches and trained masks; its quantities are in the package's docstring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from slotkit.analyses.common.result import Result
from slotkit.analyses.masks.folders import find
from slotkit.analyses.masks.words import ALL, FIRST, HIGH, LOW, OVER, sentences

from slotkit.errors import SlotkitError
from slotkit.masks import file as mask_file
from slotkit.masks.correlations import Estimate, difference
from slotkit.masks.densities import erk_densities
from slotkit.masks.file import Masks
from slotkit.masks.keeping import share_of
from slotkit.masks.population import BY_SCORE, Group, Outcome, Report, is_population, outcomes, report_of
from slotkit.masks.saliency import shapes_of
from slotkit.masks.scores import find_rules
from slotkit.masks.search_folder import SETTINGS, SearchFolder
from slotkit.sweeps.sweep import Sweep

COLUMNS = ["search", "group", "mask", "seed", "at", "layer", "quantity", "level", "value"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What was named: searches, and trained masks of populations.

    Attributes:
        left, diverged: masks of these populations without a result.
    """

    searches: dict[str, SearchFolder]
    trained: list[Outcome]
    left: int
    diverged: int


def analyze(
    folders: Path | str | Sequence[Path | str], rules: str = "dst", runs_dir: Path | None = None
) -> Result:
    """Searches of masks, and masks that were trained.

    Args:
        folders: of searches and of populations, or their names in `runs_dir`. The searches that a
            population's masks come from are looked at too, if they are still there.
        rules: of the graph scores.

    Raises SlotkitError for other folders, and for damaged ones.
    """
    import pandas as pd
    from slotkit.analyses.masks.figure import plot

    chosen = find_rules(rules)
    named = [folders] if isinstance(folders, str | Path) else list(folders)
    found = _open(find(named, runs_dir), chosen)
    rows = [row for name, folder in found.searches.items() for row in _of_search(name, folder)]
    rows += [row for one in found.trained for row in _of_mask(one)]
    told = report_of(found.trained, found.left, found.diverged)
    rows += _over_masks(told, found.trained)
    table = pd.DataFrame(rows, columns=COLUMNS)
    where = {name: folder.path for name, folder in found.searches.items()}
    return Result("masks", table, "\n".join(sentences(table, told, where)), plot)


def _open(places: Sequence[Path], rules: Any) -> Found:
    searches: dict[str, SearchFolder] = {}
    trained: list[Outcome] = []
    left = diverged = 0
    for place in places:
        if (place / SETTINGS).is_file():
            searches[place.resolve().name] = SearchFolder(place).open()
            continue
        sweep = Sweep.open(place)
        if not is_population(sweep):
            raise SlotkitError(
                f"{place} is a sweep, but not of masks. `slotkit masks train` makes a population of masks."
            )
        found, waiting, lost = outcomes(sweep, rules)
        trained, left, diverged = trained + found, left + waiting, diverged + lost
    for path in dict.fromkeys(one.path.parent.parent for one in trained):
        if (path / SETTINGS).is_file():
            searches.setdefault(path.name, SearchFolder(path).open())
    return Found(searches, trained, left, diverged)


def _of_search(name: str, folder: SearchFolder) -> Iterator[Row]:
    saved = [(one.draw, mask_file.load(folder.path / one.file)[0]) for one in folder.saved]
    first = saved[0][1]
    sizes = {layer: mask.numel() for layer, mask in first.items()}
    densities = {layer: share_of({layer: mask}) for layer, mask in first.items()}
    accept = folder.settings().get("accept")
    about = {"search": name, "group": accept}
    explored = [(0, folder.saved[0].explored), *((row.draw, row.explored) for row in folder.rows)]
    for draw, value in explored:
        chance = sum(sizes[one] * (1 - (1 - d) ** (draw + 1)) for one, d in densities.items())
        yield _number("explored", value, at=draw) | about
        yield _number("explored by chance", chance / sum(sizes.values()), at=draw) | about
    for draw, masks in saved:
        shared, chance = overlap(masks, first)
        yield _number("overlap", shared, at=draw) | about
        yield _number("overlap by chance", chance, at=draw) | about
        whole = share_of(masks)
        yield _number("density", whole, at=draw) | about
        erk = erk_densities(shapes_of(masks.items()), whole)
        for layer, mask in masks.items():
            yield _number("density", share_of({layer: mask}), at=draw, layer=layer) | about
            yield _number("ERK density", erk[layer], at=draw, layer=layer) | about


def overlap(one: Masks, other: Masks) -> tuple[float, float]:
    """2 |A and B| / (|A| + |B|) of two masks, and its expectation if both were random, layer by layer."""
    both = sum(int((mask & other[name]).sum()) for name, mask in one.items())
    counts = [(int(mask.sum()), int(other[name].sum()), mask.numel()) for name, mask in one.items()]
    size = sum(a + b for a, b, _ in counts) / 2
    return (both / size, sum(a * b / n for a, b, n in counts) / size) if size else (math.nan, math.nan)


def _of_mask(one: Outcome) -> Iterator[Row]:
    about = {
        "search": one.told.get("search", ""),
        "group": FIRST if one.is_first else one.group,
        "mask": one.name,
        "at": one.told.get("draw", math.nan),
    }
    for seed, (test, validation) in enumerate(zip(one.test, one.validation, strict=True)):
        yield _number("accuracy", test) | about | {"seed": seed}
        yield _number("validation accuracy", validation) | about | {"seed": seed}
    for name, value in one.scores.items():
        yield _number(f"score {name}", value) | about


def _over_masks(told: Report, trained: Sequence[Outcome]) -> Iterator[Row]:
    """Correlations of each group, and how far the masks kept by a graph score are ahead of it."""
    ours = [one.accuracy for one in trained if one.group == BY_SCORE and one is not told.baseline]
    for group in told.groups:
        for name, estimate in _estimates(group):
            yield from _interval(group.name, name, estimate)
        if group.name != BY_SCORE:
            theirs = [one.accuracy for one in trained if one.group == group.name and one is not told.baseline]
            yield from _interval(group.name, "accuracy ahead", difference(ours, theirs))


def _estimates(group: Group) -> Iterator[tuple[str, Estimate]]:
    for kind, by_score in (("pearson", group.pearson), ("spearman", group.spearman)):
        for score, estimate in by_score.items():
            yield f"{kind} {score}", estimate


def _interval(group: str, quantity: str, found: Estimate) -> Iterator[Row]:
    for level, value in ((np.nan, found.value), (LOW, found.low), (HIGH, found.high)):
        if value is not None:
            yield _number(quantity, value, level=level) | {"group": group, "mask": OVER}


def _number(
    quantity: str, value: float, at: float = math.nan, layer: str = ALL, level: float = math.nan
) -> Row:
    return {
        **{"search": "", "group": "", "mask": "", "seed": math.nan},
        **{"at": at, "layer": layer, "quantity": quantity, "level": level, "value": value},
    }
