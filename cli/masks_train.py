"""slotkit masks train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.hints import print_next
from slotkit.cli.options import DATA_DIR, AsJson, Device, RecipeName, RunsDir, Set
from slotkit.cli.output import print_json
from slotkit.cli.table import table

from slotkit.errors import SlotkitError, are, many, typed

if TYPE_CHECKING:
    from slotkit.config import Overrides
    from slotkit.masks.population import Report
    from slotkit.sweeps.contract import Options

WIDTH = 100


def train(
    what: Annotated[
        list[str],
        typer.Argument(metavar="FILE|SEARCH...", help="A mask file; or searches and files, as a population."),
    ],
    controls: Annotated[
        str | None,
        typer.Option(help="Also controls of a search's masks: shuffled,reinitialised,erk-random, or all."),
    ] = None,
    recipe: RecipeName = None,
    dataset: Annotated[str | None, typer.Option(help="Default: that of the mask file or search.")] = None,
    data_dir: Annotated[str | None, DATA_DIR] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of training.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the split, the order of images and dropout; initial weights are the file's."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="A population: trainings of each mask, such as 0,1,2.")
    ] = None,
    device: Device = None,
    set_: Set = None,
    executor: Annotated[
        str | None, typer.Option(help="A population: local (default), ray or inline.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="A population: runs at the same time. local: one a core.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="A population: threads of each run.")] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Leave out masks of before that are not named any more.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the run folder, or of the population's.")] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Train learned weights under masks, from the initial weights that they were made for.

    One mask file is a run like any other: `slotkit train --resume` goes on with it. The masks of a search, or
    several files, are a population: a sweep, and then a report of how accuracies go with graph scores. The
    same command again goes on where it was stopped. The best epoch is that of the validation part, and the
    test set is read once.
    """
    from slotkit.config import Overrides, parse_seeds
    from slotkit.masks.making import layers, under_recipe
    from slotkit.sweeps.contract import Options

    flags = {"training.epochs": epochs, "training.lr": lr}
    given = {path: value for path, value in flags.items() if value is not None}
    told = layers("slotkit masks train", None, dataset, data_dir, device, None, set_ or [])
    upper = [Overrides("slotkit masks train", given), *told]
    if len(what) == 1 and Path(what[0]).is_file() and seeds is None and controls is None:
        _refuse_of_one({"--executor": executor, "--jobs": jobs, "--threads": threads, "--changed": changed})
        _one(Path(what[0]), seed or 0, under_recipe(recipe), upper, name, runs_dir, as_json)
        return
    if seed is not None and seeds is not None:
        raise SlotkitError("--seed and --seeds both say which seeds there are. Give one of them.")
    _population(
        what,
        _kinds(controls),
        parse_seeds(seeds) if seeds is not None else [seed or 0],
        under_recipe(recipe),
        upper,
        name,
        runs_dir,
        executor or "local",
        Options(jobs=jobs, threads=threads),
        changed,
        as_json,
    )


def _refuse_of_one(options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value not in (None, False)]
    if given:
        raise SlotkitError(
            f"{given[0]} is of a population, and one mask file is trained as one run. Leave it out, or give "
            "--seeds, which makes a population of it."
        )


def _one(
    file: Path,
    seed: int,
    below: list[Overrides],
    upper: list[Overrides],
    name: str | None,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    from slotkit.cli.train import train_resolved

    from slotkit.config import resolve
    from slotkit.masks.members import of_file
    from slotkit.masks.population import planned

    (run,) = planned([of_file(file)], [seed], below, upper)
    train_resolved(resolve(run.layers), name, runs_dir, as_json)


def _kinds(controls: str | None) -> list[str]:
    from slotkit.masks.controls import CONTROLS, find_control

    if controls is None:
        return []
    if controls == "all":
        return list(CONTROLS)
    return [find_control(kind.strip()).name for kind in controls.split(",")]


def _population(
    named: list[str],
    controls: list[str],
    seeds: list[int],
    below: list[Overrides],
    upper: list[Overrides],
    name: str | None,
    runs_dir: Path | None,
    executor: str,
    options: Options,
    changed: bool,
    as_json: bool,
) -> None:
    from slotkit.cli.sweep import train_planned

    from slotkit.masks.members import find_members
    from slotkit.masks.population import planned, report
    from slotkit.runs.folder import default_runs_dir

    place = runs_dir or default_runs_dir()
    members, notes = find_members(named, place, controls)
    for note in notes:
        print(note, file=sys.stderr)
    runs = planned(members, seeds, below, upper)
    usual = f"{Path(named[0]).name.partition('.mask.')[0]}-trained"
    sweep, failed = train_planned(
        runs,
        "slotkit masks train",
        place / (name or usual),
        executor,
        options,
        changed=changed,
    )
    found = report(sweep)
    if as_json:
        print_json({"population": str(sweep.path), **found.as_dict()})
    else:
        _show(found)
        print(f"population: {sweep.path}")
        print_next([(f"slotkit analyze masks {typed(sweep.path)}", "figure and verdict")])
    if failed:
        raise typer.Exit(1)


def _show(found: Report) -> None:
    if found.baseline is not None:
        print(f"the first mask, {found.baseline.name}: test accuracy {_percent(found.baseline.accuracy)}")
    else:
        print(f"the first mask, {found.first}, is not trained to the end: no mask is compared with it")
    if found.best is not None:
        print(
            f"the best of the others by validation, {found.best.name}: test accuracy "
            f"{_percent(found.best.accuracy)}"
        )
    rows = [
        (
            group.name,
            str(group.n),
            _percent(group.mean) + ("" if group.spread is None else f" ± {100 * group.spread:.2f}"),
            group.better.words(".0f", 100),
        )
        for group in found.groups
    ]
    print(table(("masks", "n", "test accuracy", "% better than the first"), rows, WIDTH))
    for group in found.groups:
        scores = [
            (score, group.pearson[score].words(), group.spearman[score].words()) for score in group.pearson
        ]
        print(f"{group.name}, {many(group.n, 'mask')}: correlation of scores with test accuracy")
        print(table(("score", "Pearson [95 %]", "Spearman [95 %]"), scores, WIDTH))
    if found.left or found.diverged:
        print(f"{many(found.left, 'mask')} {are(found.left)} not trained yet, {found.diverged} diverged.")
    for sentence in found.left_out:
        print(sentence)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
