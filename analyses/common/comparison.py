"""Which runs are repetitions of each other, and which rows of their tables are compared.

A group is runs that differ by their seeds only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slotkit.analyses.common.recorded import GREEDY

from slotkit.data.identity import Identity, differences
from slotkit.errors import SlotkitError
from slotkit.models import OWN
from slotkit.recording.replay import settings_of
from slotkit.recording.trace import Trace
from slotkit.runs import checkpoint
from slotkit.runs.fingerprint import free_of
from slotkit.runs.folder import RunFolder
from slotkit.runs.listing import SEEDS
from slotkit.runs.schema import naming

if TYPE_CHECKING:
    import pandas as pd

# Settings that don't tell runs apart: they say where and how a run was made and recorded. Those that don't
# change what a run trains (`free_of`) don't, either.
INCIDENTAL = ("seeds.", "recording.", "data.dir", "data.download", "training.device", "training.log_every")

# Settings that name a run, the most telling first; other settings come after these.
TELLING = {
    "slots.k": "K",
    "slots.selection": "selection",
    "model.name": "model",
    "recorded.network": "network",
    "connections": "connections",
    "shapes": "shapes",
    "data.dataset": "dataset",
    "data": "data",
    "recipe": "recipe",
    "training.optimizer": "optimizer",
    "training.lr": "lr",
    "training.weight_decay": "L2",
    "slots.update": "update",
    "training.schedule": "schedule",
    "training.epochs": "epochs",
    "recorded.optimizer": "class of the optimizer",
    "recorded.init": "init",
}

# What settings bring with them, by the beginnings of names.
FROM_DATA = ("data.mean", "data.std", "data.validation", "data.size")
FROM_NETWORK = ("slots.where", "connections", "shapes")
BROUGHT = {
    "model.name": ("model.options.",),
    "recorded.network": FROM_NETWORK,
    "connections": FROM_NETWORK,
    "shapes": FROM_NETWORK,
    "data.dataset": FROM_DATA,
    "data": FROM_DATA,
}

NO_RECIPE = "no recipe"


def run_names(folders: Sequence[RunFolder]) -> list[str]:
    """Folder names; whole paths where names would be the same."""
    names = [folder.name for folder in folders]
    return [str(folder.path) if names.count(folder.name) > 1 else folder.name for folder in folders]


def group_labels(folders: Sequence[RunFolder]) -> list[str]:
    """For each run the name of its group: the fewest settings that tell the groups apart, as "K = 8".

    One group alone is called by its recipe, else by model and dataset, and by K.
    """
    group_of, ones = _groups(folders)
    if len(ones) == 1:
        first = ones[0]
        of_run = f"{first.get('model.name')} on {first.get('data.dataset')}"
        what = "a recorded machine" if first.get("model.name") in (None, OWN) else of_run
        return [f"{what if first['recipe'] == NO_RECIPE else first['recipe']}, K = {first['slots.k']}"] * len(
            folders
        )
    paths = _telling(ones)
    told = [", ".join(f"{TELLING.get(path, path)} = {one.get(path)}" for path in paths) for one in ones]
    return [told[group].replace("recipe = ", "") for group in group_of]


def untold(folders: Sequence[RunFolder]) -> str:
    """A sentence on settings that differ from group to group though no name of a group says so; else nothing.

    What a recipe, a network or a dataset brings with it is left out where that is told.
    """
    _, ones = _groups(folders)
    paths = _telling(ones)
    brought = tuple(part for path in paths for part in BROUGHT.get(path, ()))
    several = sorted({path for one in ones for path in one if len({str(o.get(path)) for o in ones}) > 1})
    left = [path for path in several if path not in (*paths, "recipe") and not path.startswith(brought)]
    if not left or "recipe" in paths:
        return ""
    named = ", ".join(TELLING.get(path, path) for path in left)
    return f"The groups differ in {named}, too, which their names don't say."


def _groups(folders: Sequence[RunFolder]) -> tuple[list[int], list[dict[str, Any]]]:
    """For each run the number of its group, and for each group its settings."""
    settings = [_settings(folder) for folder in folders]
    tell_data_apart(folders, settings)
    _number_shapes(settings)
    _shorten_datasets(settings)
    keys = [json.dumps({k: v for k, v in s.items() if k != "recipe"}, sort_keys=True) for s in settings]
    groups = list(dict.fromkeys(keys))
    return [groups.index(key) for key in keys], [settings[keys.index(group)] for group in groups]


def _telling(ones: Sequence[dict[str, Any]]) -> list[str]:
    """The fewest settings that tell groups apart."""
    paths: list[str] = []
    for path in [*TELLING, *sorted({path for one in ones for path in one} - TELLING.keys())]:
        if _distinct(ones, [*paths, path]) > _distinct(ones, paths):
            paths.append(path)
    return paths


def reading_labels(folders: Sequence[RunFolder], readings: Sequence[str]) -> list[str]:
    """`group_labels` that say so where flips and thresholds are of the greedy reading of PS runs."""
    pairs = zip(group_labels(folders), readings, strict=True)
    return [label if reading == GREEDY else f"{label}, {reading}" for label, reading in pairs]


def of_reading(table: pd.DataFrame) -> str:
    """What a title adds where a table has PS runs, if its groups are not in the title; else nothing."""
    readings = set(table["reading"])
    if readings == {GREEDY}:
        return ""
    return ", greedy reading" + (" of PS runs" if GREEDY not in readings else " where PS")


def at_its_own(rows: pd.DataFrame, bound: str) -> pd.DataFrame:
    """The rows at each run's own first (bound "min") or last ("max") step: runs may end at different ones."""
    return rows[rows["at"] == rows.groupby("run")["at"].transform(bound)]


def largest_layer(table: pd.DataFrame) -> str:
    """The tensor of the most connections: it stands for a run where only one layer can be shown."""
    sizes = table[table["quantity"] == "connections"]
    return str(sizes["layer"].iloc[int(sizes["value"].argmax())])


def differ_by_k(table: pd.DataFrame) -> bool:
    """Whether there are several K, and one group of runs for each."""
    return bool(table["k"].nunique() > 1 and table.groupby("k")["group"].nunique().max() == 1)


def _settings(folder: RunFolder) -> dict[str, Any]:
    if not folder.has_config():
        return {"recipe": NO_RECIPE} | _of_trace(folder) | _sizes(folder)
    origins = folder.tables().get("origins", {}).values()
    recipe = next(
        (origin.removeprefix("recipe ") for origin in origins if origin.startswith("recipe ")), NO_RECIPE
    )
    free, told = free_of(folder.config()), folder.recorded()
    settings = {
        path: value
        for path, value in folder.settings().items()
        if not path.startswith(INCIDENTAL) and path not in free and not _is_own_seed(path)
    }
    return {"recipe": recipe} | settings | ({} if told is None else _of_own_loop(folder, told, settings))


def _of_own_loop(folder: RunFolder, told: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a loop of one's own from another, beside its settings: no registry has its network."""
    classes = {f"recorded.{name}": told[name] for name in ("network", "optimizer")}
    # An init that is somebody's own object is no setting.
    init = {} if "slots.init" in settings else {"recorded.init": told["init"]}
    return classes | init | _sizes(folder)


def _sizes(folder: RunFolder) -> dict[str, Any]:
    """Connections and shapes of the reels, from the trace or else a checkpoint."""
    try:
        shapes = _shapes(folder)
    except SlotkitError:
        return {}  # whatever reads the damaged file says so
    return {"connections": sum(math.prod(shape) for shape in shapes.values()), "shapes": shapes}


def _shapes(folder: RunFolder) -> dict[str, list[int]]:
    """Tensor name -> shape. Raises SlotkitError if neither a trace nor a checkpoint says so."""
    trace = Trace(folder.path / "trace")
    if (trace.folder / "about.json").is_file():
        return {name: list(tensor["shape"]) for name, tensor in trace.about()["tensors"].items()}
    path = next((p for which in ("best", "last") if (p := folder.checkpoint(which)).is_file()), None)
    state, _ = checkpoint.load(path or folder.checkpoint("last"))
    with naming(folder.checkpoint("last"), "Use another one, or train again."):
        return {name: list(shape) for name, shape in state["settings"]["reels"].items()}


def _number_shapes(settings: Sequence[dict[str, Any]]) -> None:
    """Shapes have no room in a label: among networks of as many connections they become 1, 2, ..."""
    versions: dict[Any, list[Any]] = {}
    for one in settings:
        if "shapes" in one:
            seen = versions.setdefault((one.get("recorded.network"), one["connections"]), [])
            if one["shapes"] not in seen:
                seen.append(one["shapes"])
            one["shapes"] = seen.index(one["shapes"]) + 1


def seeds_of(folder: RunFolder) -> tuple[Any, ...]:
    """Those of a run. Of a loop of one's own not all are known, and it is not taken for any other one."""
    settings = folder.settings() if folder.has_config() else {}
    known = all(path in settings for path in SEEDS)
    return tuple(settings[path] for path in SEEDS) if known else (folder.path,)


def _is_own_seed(path: str) -> bool:
    """A seed among what slotkit.record was told."""
    return path.startswith("config.") and "seed" in path.rpartition(".")[2].lower()


def tell_data_apart(folders: Sequence[RunFolder], settings: Sequence[dict[str, Any]]) -> None:
    """Where data of one name have changed from run to run, add which each run had: "data" = 1, 2, ...

    A run from before runs recorded their data is taken to have had the first.
    """
    versions: dict[Any, list[Identity]] = {}
    for folder, one in zip(folders, settings, strict=True):
        seen = versions.setdefault((one.get("data.dataset"), one.get("data.size")), [])
        data = folder.data()
        known = [at for at, other in enumerate(seen) if data is None or not differences(other, data)]
        if data is not None and not known:
            seen.append(data)
        one["data"] = known[0] + 1 if known else max(1, len(seen))


def _shorten_datasets(settings: Sequence[dict[str, Any]]) -> None:
    """Datasets of one's own by their folder's name alone, if no two are the same: labels have little room."""
    names = {one["data.dataset"] for one in settings if "data.dataset" in one}
    shorter = {name: _short_dataset(name) for name in names}
    if len(set(shorter.values())) == len(names):
        for one in settings:
            if "data.dataset" in one:
                one["data.dataset"] = shorter[one["data.dataset"]]


def _short_dataset(name: str) -> str:
    """ "imagefolder:/data/birds" -> "imagefolder:birds"."""
    kind, colon, folder = name.partition(":")
    return f"{kind}:{Path(folder).name or folder}" if colon else name


def _of_trace(folder: RunFolder) -> dict[str, Any]:
    """What a trace alone says of its run, under the names of settings."""
    return {f"slots.{name}": value for name, value in settings_of(folder).items() if name != "seed"}


def _distinct(ones: Sequence[dict[str, Any]], paths: Sequence[str]) -> int:
    """How many groups these settings tell apart."""
    return len({tuple(str(one.get(path)) for path in paths) for one in ones})
