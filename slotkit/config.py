"""All settings of a run and, once resolved, where each came from.

Every setting has a default. A recipe overrides defaults; `--set` and flags override the recipe. Overrides
are a flat mapping from dotted paths ("training.lr") to values. `resolve` lays them over the defaults in
order, checks the result and keeps where each value came from.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import Field, ValidationError

from slotkit.errors import SlotkitError
from slotkit.masks.sparse_settings import SparseSettings
from slotkit.section import Section
from slotkit.settings import (
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    RecordingSettings,
    SeedSettings,
    SlotSettings,
    TrainingSettings,
)

# A range of more seeds than these is a slip of the hand.
MOST_SEEDS = 10_000

# Names of `slotkit train` that are not the end of their setting's path.
_FLAGS = {"model": "model.name"}


class Config(Section):
    """All settings of a run: config.toml."""

    method: Literal["slot", "learned"] = Field(
        "slot", description="slot machine, or ordinary learned weights"
    )
    learned_init: Literal["reels", "torch"] = Field(
        "reels", description="learned weights start as one of the K options each, or as PyTorch has it"
    )
    learned_others: Literal["trained", "frozen", "kept"] = Field(
        "trained", description="learned weights: what becomes of biases and norms beside them"
    )
    mask: str | None = Field(
        None, description="learned weights: a mask file; connections outside of it are 0 and stay so"
    )
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    slots: SlotSettings = SlotSettings()
    sparse: SparseSettings = SparseSettings()
    training: TrainingSettings = TrainingSettings()
    seeds: SeedSettings = SeedSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    recording: RecordingSettings = RecordingSettings()

    @property
    def form(self) -> str:
        """The form of a slot machine, with "auto" decided."""
        if self.slots.form != "auto":
            return self.slots.form
        dense = self.slots.update == "selected" or self.slots.share is not None
        return "dense" if dense else "latent"

    @property
    def probabilistic(self) -> bool:
        """Whether training samples its weights."""
        return self.method == "slot" and self.slots.selection == "probabilistic"


@dataclass(frozen=True)
class Overrides:
    """Some settings and where they come from ("recipe paper-lenet-greedy", "--lr")."""

    origin: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """A checked configuration and the origin of every value that is not a default."""

    config: Config
    origins: Mapping[str, str]

    def explain(self) -> list[tuple[str, Any, str]]:
        """Every setting as (path, value, origin)."""
        return [
            (path, value, self.origins.get(path, "default"))
            for path, value in flatten(self.config.model_dump())
        ]


def flatten(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables -> (dotted path, value)."""
    for key, value in tables.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and (value or path != "model.options"):
            yield from flatten(value, f"{path}.")
        elif not isinstance(value, Mapping):
            yield path, value


def resolve(overrides: Sequence[Overrides]) -> Resolved:
    """Lay `overrides` over the defaults, later ones over earlier ones, and check the result.

    Raises SlotkitError with one sentence for the first setting that is wrong, naming its origin.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for given in overrides:
        for path, value in given.values.items():
            check_path(path, given.origin)
            values[path], origins[path] = value, given.origin
    try:
        return Resolved(Config.model_validate(nest(values)), origins)
    except ValidationError as fault:
        raise SlotkitError(_sentence(fault, origins)) from None


def parse_assignment(
    text: str, flag: str = "--set", example: str = "a.b=value, such as training.lr=0.2"
) -> Overrides:
    """ "training.lr=0.2" -> overrides; the value is read as TOML, and as plain text where it is none.

    Python's True and False are meant as such: as a text both would be true in options of networks.
    """
    import tomllib

    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise SlotkitError(f"{flag} {text} is not of the form {example}.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = {"True": True, "False": False}.get(value.strip(), value)
    return Overrides(f"{flag} {path.strip()}", {path.strip(): parsed})


def parse_seeds(text: str) -> list[int]:
    """ "0,1,2" and "0-2" -> the seeds of repetitions."""
    try:
        seeds = [seed for part in text.split(",") for seed in _seeds_in(part)]
    except ValueError:
        raise SlotkitError(
            f"--seeds {text} is not a list of integers such as 0,1,2, or a range such as 0-4."
        ) from None
    if len(set(seeds)) < len(seeds):
        raise SlotkitError(f"--seeds {text} has a seed twice: the runs would be equal.")
    return seeds


def _seeds_in(part: str) -> Sequence[int]:
    """One seed, or those from the first of a range to its last."""
    first, dash, last = part.partition("-")
    if not dash:
        return [int(part)]
    seeds = range(int(first), int(last) + 1)
    if not 0 < len(seeds) <= MOST_SEEDS:
        raise ValueError
    return seeds


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path -> value, as nested tables."""
    tables: dict[str, Any] = {}
    for path, value in values.items():
        *parents, key = path.split(".")
        table = tables
        for parent in parents:
            table = table.setdefault(parent, {})
        table[key] = value
    return tables


@cache
def setting_paths() -> tuple[str, ...]:
    """The dotted path of every setting."""
    return tuple(path for path, _ in flatten(Config().model_dump()))


def full_path(name: str) -> str:
    """ "k" -> "slots.k"; a path, and what is no setting at all, as it is."""
    return _short_names().get(name, name)


def short_name(path: str) -> str:
    """The reverse: "slots.k" -> "k"."""
    return next((name for name, whole in _short_names().items() if whole == path), path)


@cache
def _short_names() -> dict[str, str]:
    ends = Counter(path.rpartition(".")[2] for path in setting_paths())
    tables = {name for name, _ in Config()}
    return _FLAGS | {
        end: path
        for path in setting_paths()
        if "." in path and ends[end := path.rpartition(".")[2]] == 1 and end not in tables
    }


def check_path(path: str, origin: str) -> None:
    """Raise SlotkitError with the nearest names if there is no such setting."""
    known = setting_paths()
    if path in known or path.startswith("model.options."):
        return
    last = path.rpartition(".")[2]
    near = [other for other in known if other.rpartition(".")[2] == last]
    near += [other for other in difflib.get_close_matches(path, known, n=3, cutoff=0.5) if other not in near]
    hint = f" Near it: {', '.join(near)}." if near else " `slotkit train --show-config` lists them all."
    raise SlotkitError(f"{path} (from {origin}) is not a setting.{hint}")


def _sentence(fault: ValidationError, origins: Mapping[str, str]) -> str:
    error = fault.errors()[0]
    keys = [str(part) for part in error["loc"]]
    path = next(
        (".".join(keys[:n]) for n in range(len(keys), 0, -1) if ".".join(keys[:n]) in origins),
        ".".join(keys),
    )
    reason = error["msg"].removeprefix("Value error, ").replace("Input should", "it should", 1)
    if error["type"] == "tuple_type":
        reason = f"it should be a list, such as {_as_list(error['input'])}"
    origin = f" (from {origins[path]})" if path in origins else ""
    return f"{path}{origin} is {error['input']!r}, but {reason}."


def _as_list(given: object) -> str:
    """A list of what was given, as --set takes it; also of texts whose quotes a shell ate."""
    if not isinstance(given, str):
        return f"'{json.dumps([given], default=str)}'"
    parts = [part.strip().strip("'\"") for part in given.strip("[] ").split(",")]
    return f"'[{', '.join(part if _is_number(part) else json.dumps(part) for part in parts)}]'"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
