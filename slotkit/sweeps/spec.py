"""What a sweep is asked to be: a FILE.toml, or the options of the command. `plan` has its runs.

    name = "lenet"                          # of the sweep's folder; by default that of the file
    recipe = "paper-lenet-greedy"           # what every run starts from
    seeds = [0, 1, 2]
    settings.training.epochs = 200          # of every run
    grid.k = [2, 4, 8]                      # every combination of the lists of `grid`
    list = [{ lr = 0.1, momentum = 0.9 },   # with each of these
            { lr = 1.0, momentum = 0.0 }]

    [[runs]]                                # instead of grid and list: several such blocks, each with a
    recipe = "paper-lenet-learned"          # recipe, seeds, settings, grid and list of its own

A setting is named by its path ("training.lr") or by the path's end, where that is the only one ("lr");
`recipe` can be in a grid or list as well.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from slotkit.config import Overrides, flatten, full_path, short_name
from slotkit.errors import SlotkitError
from slotkit.runs.fingerprint import FREE
from slotkit.runs.schema import naming, read_text
from slotkit.section import Section

RECIPE = "recipe"


@dataclass(frozen=True)
class Block:
    """Some runs: every combination of `grid`, with each row of `rows`, once a seed.

    Attributes:
        settings: what they share, lowest first; none of it can be varied.
        grid: path, or "recipe" -> its values.
        rows: sets of values that belong together.
        seeds: none where the settings say them.
        base: settings between the recipe and all of these, which may be varied.
    """

    recipe: str | None
    settings: tuple[Overrides, ...]
    grid: Mapping[str, Sequence[Any]]
    rows: Sequence[Mapping[str, Any]]
    seeds: Sequence[int]
    base: tuple[Overrides, ...] = ()


@dataclass(frozen=True)
class Spec:
    """A sweep as it was asked for.

    Attributes:
        name: of its folder.
        source: where that stands, for sentences: "lenet.toml", "the command line".
    """

    name: str
    source: str
    blocks: tuple[Block, ...]


class _Told(Section):
    """A block as it stands in a file."""

    model_config = ConfigDict(populate_by_name=True)

    recipe: str | None = None
    seeds: list[int] | None = Field(None, min_length=1)
    settings: dict[str, Any] = Field({})
    grid: dict[str, Any] = Field({})
    rows: list[dict[str, Any]] = Field([], alias="list")


class _ToldFile(_Told):
    name: str | None = None
    runs: list[_Told] = Field([])


def read(path: Path, seeds: Sequence[int] | None = None, upper: Sequence[Overrides] = ()) -> Spec:
    """The sweep that a FILE.toml asks for.

    Args:
        seeds: instead of those in the file.
        upper: settings over all that it says.

    Raises SlotkitError if it can't be read, or for what a sweep doesn't have.
    """
    if not path.is_file():
        raise SlotkitError(
            f"There is no file {path}. Give a FILE.toml, or --grid with what is to be varied; "
            "`slotkit sweep status SWEEP` looks at a sweep that is there."
        )
    with naming(path, "docs/sweeps.md says what a sweep's file has."):
        told = _ToldFile.model_validate(tomllib.loads(read_text(path)))
        if told.runs and (told.grid or told.rows):
            raise ValueError("it has both [[runs]] and a grid or list beside them; put those into a [[runs]]")
        blocks = tuple(_block(told, part, path.name, seeds, upper) for part in told.runs or [told])
    return Spec(told.name or path.stem, path.name, blocks)


def from_options(
    grid: Sequence[str],
    recipe: str | None = None,
    seeds: Sequence[int] | None = None,
    upper: Sequence[Overrides] = (),
    name: str | None = None,
    base: Sequence[Overrides] = (),
) -> Spec:
    """The same from --grid, --recipe, --seeds, settings that hold for all, and those that may be varied."""
    axes: dict[str, list[Any]] = {}
    for text in grid:
        path, values = parse_axis(text)
        if path in axes:
            raise SlotkitError(f"--grid has {path} twice. Give all its values at once, as in {path}=2,4,8.")
        axes[path] = values
    block = _check(Block(recipe, tuple(upper), axes, (), seeds or (), tuple(base)), "--grid")
    axis_names = [short_name(path) for path in axes] or ["seeds"]
    return Spec(
        name or "-".join(["sweep", *([recipe] if recipe else []), *axis_names]), "the command line", (block,)
    )


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """ "k=2,4,8" -> its path and values; each is read as TOML, and as plain text where it is none."""
    path, equals, values = text.partition("=")
    if not equals or not path.strip() or not values.strip():
        raise SlotkitError(f"--grid {text} is not of the form a=v,w, such as k=2,4,8.")
    try:
        return full_path(path.strip()), list(tomllib.loads(f"value = [{values}]")["value"])
    except tomllib.TOMLDecodeError:
        return full_path(path.strip()), [_value(one.strip()) for one in values.split(",")]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _block(
    whole: _Told, part: _Told, source: str, seeds: Sequence[int] | None, upper: Sequence[Overrides]
) -> Block:
    settings = [_whole(one.settings) for one in ([whole] if part is whole else [whole, part])]
    layers = [Overrides(source, values) for values in settings if values]
    for path, values in flatten(part.grid):
        if not isinstance(values, list):
            raise ValueError(f"grid.{path} is {values!r}, and a grid has lists, such as [{values!r}]")
    grid = {full_path(path): values for path, values in flatten(part.grid)}
    rows = tuple(_whole(row) for row in part.rows)
    own = seeds or part.seeds or whole.seeds or ()
    return _check(Block(part.recipe or whole.recipe, (*layers, *upper), grid, rows, own), source)


def _whole(tables: Mapping[str, Any]) -> dict[str, Any]:
    return {full_path(path): value for path, value in flatten(tables)}


def _check(block: Block, source: str) -> Block:
    """Raise SlotkitError for an axis without values, with a value twice, or that is set elsewhere as well."""
    if len(set(block.seeds)) < len(block.seeds):
        raise SlotkitError(f"{source} has a seed twice: the runs would be equal.")
    for path, values in block.grid.items():
        if not values or any(value in values[:at] for at, value in enumerate(values)):
            what = "no value" if not values else "a value twice"
            raise SlotkitError(f"{source} has {what} for {path}: {values}. Give each once, as in [2, 4, 8].")
    settings = {path: layer.origin for layer in block.settings for path in layer.values}
    for path in [path for path in settings if block.seeds and path.startswith("seeds.")]:
        raise SlotkitError(
            f"{path} is varied by the seeds of repetitions and set by {settings[path]} too. Leave it out of "
            "one of them."
        )
    for path in dict.fromkeys([*block.grid, *(path for row in block.rows for path in row)]):
        elsewhere = settings.get(path) or (path in block.grid and any(path in row for row in block.rows))
        if elsewhere:
            where = elsewhere if isinstance(elsewhere, str) else "list"
            raise SlotkitError(
                f"{path} is varied by {source} and set by {where} too. Leave it out of one of them."
            )
        if path in block.grid and path in FREE:
            raise SlotkitError(
                f"{path} is no axis: it changes no result, so that the runs would be equal. Set it in "
                "`settings` (--set)."
            )
        if path.startswith("seeds."):
            raise SlotkitError(f"{path} is no axis: the seeds of repetitions are `seeds` (--seeds 0,1,2).")
    return block
