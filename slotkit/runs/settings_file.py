"""A FILE.toml of settings, for `--config`: one that somebody wrote, or the config.toml of a run."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slotkit import recipes
from slotkit.config import Overrides, check_path, flatten, full_path, resolve
from slotkit.data.sources import SOURCES
from slotkit.errors import SlotkitError
from slotkit.runs.folder import NOT_SETTINGS
from slotkit.runs.schema import Tables, naming, read_text

# Origins of what a run took from its dataset, which another run takes from its own.
FROM_DATASET = "dataset "


def below(recipe: str | None, path: Path | None, upper: Sequence[Overrides]) -> list[Overrides]:
    """What `upper` (flags, --set) is laid over: a recipe for training, then a file of settings.

    Raises SlotkitError as `read`, and if there is no such recipe.
    """
    given = [] if path is None else [read(path)]
    lower = [] if recipe is None else recipes.below(recipe, [*given, *upper])
    return [*lower, *(without_known(one, lower) for one in given)]


def read(path: Path) -> Overrides:
    """The settings of a file. A name is a setting's path ("training.lr") or the path's end ("lr").

    The tables that a run's config.toml has beside its settings are no settings, and what the run took from
    its dataset is left out: another run takes it from its own.

    Raises SlotkitError if the file can't be read, or has what is no setting, with the nearest ones.
    """
    origin = f"--config {path}"
    if path.is_dir():
        raise SlotkitError(f"{origin} is a folder. Give a file, such as the config.toml of a run.")
    if not path.is_file():
        raise SlotkitError(f"There is no file {path}. --config takes a FILE.toml of settings.")
    with naming(path, "docs/runs.md says what a file of settings has."):
        tables = tomllib.loads(read_text(path))
        origins = Tables.model_validate(tables).origins
    own = {name: value for name, value in tables.items() if name not in NOT_SETTINGS}
    values = {full_path(name): value for name, value in flatten(own)}
    # In a run from before there was a record of its data, data.dir meant nothing for a folder.
    if origins and path.with_name("data.json").is_file():
        values = _where_it_lies(values)
    for name in values:
        check_path(name, origin)
    taken = {name for name, came_from in origins.items() if came_from.startswith(FROM_DATASET)}
    return Overrides(origin, {name: value for name, value in values.items() if name not in taken})


def _where_it_lies(values: dict[str, Any]) -> dict[str, Any]:
    """A run's settings with the place to which its folder of pictures has moved, if it has, in the dataset's
    name: `data.dir`, which has it, says nothing to a new run.
    """
    dataset, place = values.get("data.dataset"), values.get("data.dir")
    kind = str(dataset).partition(":")[0]
    if not isinstance(place, str) or not place or f"{kind}:DIR" not in SOURCES:
        return values
    return {**values, "data.dataset": f"{kind}:{place}", "data.dir": None}


def without_known(given: Overrides, lower: Sequence[Overrides]) -> Overrides:
    """Those of the settings that are otherwise in `lower`: a run's config.toml has all settings there are."""
    known = dict(flatten(resolve(lower).config.model_dump(mode="json")))
    told = {path: value for path, value in given.values.items() if path not in known or value != known[path]}
    return Overrides(given.origin, told)
