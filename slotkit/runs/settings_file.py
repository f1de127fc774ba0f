"""A FILE.toml of settings, for `--config`: one that somebody wrote, or the config.toml of a run."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from slotkit.config import Overrides, check_path, flatten, full_path, resolve
from slotkit.errors import SlotkitError
from slotkit.runs.folder import NOT_SETTINGS
from slotkit.runs.schema import Tables, naming, read_text

# Origins of what a run took from its dataset, which another run takes from its own.
FROM_DATASET = "dataset "


def read(path: Path, lower: Sequence[Overrides] = ()) -> Overrides:
    """The settings of a file, to be laid over `lower`. A name is a path ("training.lr") or its end ("lr").

    The tables that a run's config.toml has beside its settings are no settings. A run has every setting, so
    what the file says as `lower` does is left out: it comes from there.

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
    values = {
        full_path(name): value
        for name, value in flatten({key: value for key, value in tables.items() if key not in NOT_SETTINGS})
    }
    for name in values:
        check_path(name, origin)
    taken = [name for name in values if origins.get(name, "").startswith(FROM_DATASET)]
    usual = dict(flatten(resolve(lower).config.model_dump(mode="json")))
    told = {
        name: value
        for name, value in values.items()
        if name not in taken and not (name in usual and value == usual[name])
    }
    return Overrides(origin, told)
