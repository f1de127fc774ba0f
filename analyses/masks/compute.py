"""The table of `masks`, from searches and trained masks; its quantities are in the package's docstring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from slotkit.analyses.common.result import Result, in_lines
from slotkit.analyses.masks.folders import find
from slotkit.analyses.masks.words import ALL, FIRST, HIGH, LOW, OVER, sentences

from slotkit.errors import SlotkitError
from slotkit.masks import file as mask_file
from slotkit.masks.correlations import Estimate, difference
from slotkit.masks.densities import erk_densities
from slotkit.masks.file import Masks
from slotkit.masks.keeping import digest, share_of
from slotkit.masks.members import BY_SCORE, NO_CONTROLS, check_name
from slotkit.masks.outcomes import Outcome, Trained, trained
from slotkit.masks.population import Group, Report, report_of
from slotkit.masks.saliency import shapes_of
from slotkit.masks.scores import find_rules
from slotkit.masks.search import explored_by_chance
from slotkit.masks.search_folder import MASKS, SETTINGS, SearchFolder
from slotkit.runs.listing import left_out
from slotkit.sweeps.sweep import Sweep

COLUMNS = ["search", "group", "mask", "seed", "at", "layer", "quantity", "level", "value"]

Row = dict[str, Any]


def analyze(
    folders: Path | str | Sequence[Path | str], rules: str = "dst", runs_dir: Path | None = None
) -> Result:
    """Searches of masks, and masks that were trained.

    Args:
        folders: of searches and of populations, or their names in `runs_dir`. The searches that a
            population's masks come from are looked at too, if they are still there.
        rules: of the graph scores.

    A search that is damaged, or another one than that of the trained masks, is left out, and named in the
    summary.

    Raises SlotkitError for other folders, for damaged populations and those that can't be compared, and where
    nothing is left.
    """
    import pandas as pd
    from slotkit.analyses.masks.figure import plot

    chosen = find_rules(rules)
    named = [folders] if isinstance(folders, str | Path) else list(folders)
    places = list({place.resolve(): place for place in find(named, runs_dir)}.values())
    sweeps = [Sweep.open(place) for place in places if not (place / SETTINGS).is_file()]
    found = trained(sweeps, chosen)
    where = _searches([place for place in places if (place / SETTINGS).is_file()], found)
    told = report_of(found)
    rows: list[Row] = []
    faults: dict[str, SlotkitError] = {}
    for name, place in where.items():
        try:
            _check_searched(place, found)
            rows += list(_of_search(name, SearchFolder(place).open()))
        except SlotkitError as fault:
            faults[name] = fault
    if not (rows or told.groups):
        raise next(iter(faults.values()), None) or SlotkitError(_nothing(sweeps, found))
    where = {name: place for name, place in where.items() if name not in faults}
    rows += [row for one in found.outcomes for row in _of_mask(one, one is found.baseline)]
    rows += _over_masks(told, found)
    table = pd.DataFrame(rows, columns=COLUMNS)
    notes = [left_out(name, fault) for name, fault in faults.items()]
    return Result("masks", table, in_lines([*sentences(table, told, where), *notes]), plot)


def _searches(named: Sequence[Path], found: Trained) -> dict[str, Path]:
    """The searches that are named, and those of trained masks that are still there, by name."""
    known: dict[str, Path] = {}
    found_by_name: dict[str, Path] = {}
    paths = dict.fromkeys(one.path.parent.parent for one in found.outcomes)
    there = [path for path in paths if (path / SETTINGS).is_file()]
    for place in (*named, *there):
        check_name(known, place)
        found_by_name.setdefault(place.resolve().name, place)  # as it is named: sentences repeat that
    return found_by_name


def _check_searched(place: Path, found: Trained) -> None:
    """Raise SlotkitError if the search in that folder has other masks than those of it that were trained: it
    was made anew since then.
    """
    masks = place.resolve() / MASKS
    for one in found.outcomes:
        if one.path.parent.resolve() == masks and not _is_same(one.path, one.file):
            raise SlotkitError(
                f"{one.path} is gone, or another mask than the one that was trained, so the search is "
                "another one. Give a search that is made anew another --name."
            )


def _is_same(one: Path, other: Path) -> bool:
    return one.is_file() and digest(mask_file.load(one)[0]) == digest(mask_file.load(other)[0])


def _nothing(sweeps: Sequence[Sweep], found: Trained) -> str:
    """The sentence where there is nothing to draw."""
    places = " and ".join(str(sweep.path) for sweep in sweeps)
    what = "No mask but the first" if found.outcomes else "No mask"
    told = f"{what} of {places} is trained to the end: {found.left} left, {found.diverged} diverged."
    if found.left:
        commands = dict.fromkeys(sweep.manifest.command or "slotkit masks train" for sweep in sweeps)
        return f"{told} Repeat {' and '.join(f'`{one}`' for one in commands)}, which goes on."
    if found.diverged:
        return f"{told} Train them with a lower --lr, under another --name."
    return f"{told} Name more masks to `slotkit masks train`, to compare with it."


def _of_search(name: str, folder: SearchFolder) -> Iterator[Row]:
    saved = [(one.draw, mask_file.load(folder.path / one.file)[0]) for one in folder.saved]
    first = saved[0][1]
    sizes = {layer: mask.numel() for layer, mask in first.items()}
    densities = {layer: share_of({layer: mask}) for layer, mask in first.items()}
    accept = folder.settings().get("accept")
    about = {"search": name, "group": accept}
    explored = [(0, folder.saved[0].explored), *((row.draw, row.explored) for row in folder.rows)]
    for draw, value in explored:
        chance = sum(sizes[one] * explored_by_chance(d, draw + 1) for one, d in densities.items())
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


def _of_mask(one: Outcome, is_first: bool) -> Iterator[Row]:
    about = {
        "search": one.told.get("search", ""),
        "group": FIRST if is_first else one.group,
        "mask": one.name,
        "at": one.told.get("draw", math.nan),
    }
    for seed, test, validation in zip(one.seeds, one.test, one.validation, strict=True):
        yield _number("accuracy", test) | about | {"seed": seed}
        yield _number("validation accuracy", validation) | about | {"seed": seed}
    for name, value in one.scores.items():
        yield _number(f"score {name}", value) | about


def _over_masks(told: Report, found: Trained) -> Iterator[Row]:
    """Correlations of each group, and how far the masks kept by a graph score are ahead of a control."""
    others = [one for one in found.outcomes if one is not found.baseline]
    ours = [one.accuracy for one in others if one.group == BY_SCORE]
    for group in told.groups:
        for name, estimate in _estimates(group):
            yield from _interval(group.name, name, estimate)
        if group.name not in NO_CONTROLS:
            theirs = [one.accuracy for one in others if one.group == group.name]
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
