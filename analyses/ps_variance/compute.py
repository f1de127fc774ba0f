"""The table of `ps-variance`, from checkpoints and traces; its quantities are in the package's docstring."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from slotkit.analyses.common.comparison import group_labels
from slotkit.analyses.common.findings import lengths
from slotkit.analyses.common.recorded import Run, check_slot_machine, open_runs, read_any
from slotkit.analyses.common.result import Result, in_lines
from slotkit.analyses.common.several import look_at
from slotkit.analyses.common.statistics import mean_and_interval
from slotkit.analyses.ps_variance.random_effects import components
from slotkit.analyses.ps_variance.sampled_networks import initial_spreads, read_networks, read_reels
from slotkit.analyses.ps_variance.words import ALL, OVER_RUNS, sentences
from torch import nn

from slotkit.config import Overrides, resolve
from slotkit.errors import SlotkitError
from slotkit.models import own_network
from slotkit.runs.fingerprint import load
from slotkit.runs.folder import RunFolder
from slotkit.runs.schema import naming
from slotkit.training.prepare import Prepared, own_settings, reopen

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 20

START = "start"

LOW, HIGH = 0.025, 0.975

COLUMNS = ["run", "group", "k", "seed", "checkpoint", "epoch", "at", "layer", "quantity", "level", "value"]

Row = tuple[str, str, float, float]  # layer, quantity, level, value
Layers = dict[str, tuple[int, float]]  # its reels; the score spread of the untrained layer


def analyze(
    runs: Run | Sequence[Run],
    draws: int = DRAWS,
    checkpoints: Sequence[str] = (ALL,),
    split: str = "test",
    data_dir: Path | None = None,
    device: str | None = None,
    dataset: str | None = None,
    model_factory: str | Callable[..., nn.Module] | None = None,
    runs_dir: Path | None = None,
) -> Result:
    """Sampled networks of one or many runs, at their checkpoints.

    Runs under greedy selection are sampled after the fact, and the summary says so.

    Args:
        runs: folders, paths, or names in `runs_dir`.
        draws: networks that are sampled at each checkpoint. Draw i of a run is the same in every call.
        checkpoints: "start" (the untrained machine), "best", "last", "epoch-N", or "all": start, every
            epoch that the run kept, and last.
        split: the images: "test" or "validation".
        data_dir, device: where the datasets lie and what computes, if not as in the runs.
        dataset, model_factory: of runs that slotkit.record has made: the dataset's name, and a function that
            makes the network, or its "package.module:name".

    Runs that are no slot machines, or have not these checkpoints or damaged ones, are left out.

    Raises SlotkitError if no run is left.
    """
    import pandas as pd
    from slotkit.analyses.ps_variance.figure import plot

    _check_arguments(draws, checkpoints, split)
    folders = open_runs(runs, runs_dir)
    given = {"data.dir": str(data_dir) if data_dir else None, "training.device": device}
    given["data.dataset"] = dataset
    changes = Overrides("analyze", {path: value for path, value in given.items() if value is not None})
    with own_network(model_factory):
        frames, reservations = _frames(folders, changes, checkpoints, split, draws)
    measured = pd.concat(frames, ignore_index=True)
    table = pd.concat([measured, _components(measured)], ignore_index=True)[COLUMNS]
    reservations.insert(0, lengths(measured[measured["checkpoint"].notna()]))
    return Result("ps-variance", table, in_lines([*sentences(table, split), *reservations]), plot)


def _frames(
    folders: Sequence[RunFolder], changes: Overrides, checkpoints: Sequence[str], split: str, draws: int
) -> tuple[list[pd.DataFrame], list[str]]:
    """The rows of each run, and sentences on what is missing."""
    import pandas as pd

    def of_run(folder: RunFolder, name: str) -> tuple[pd.DataFrame, list[str]]:
        check_slot_machine(folder, folder.config())
        names, missing = _checkpoints(folder, checkpoints)
        prepared = reopen(folder, resolve([own_settings(folder), changes]))
        layers = _initial(prepared)
        read = _at_checkpoints(folder, prepared, layers, names, split, draws)
        traced, untraced = _trace(folder, layers)
        frame = pd.concat([read, traced]) if len(traced) else read
        about = {"run": name, "k": prepared.config.slots.k, "seed": prepared.config.seeds.reels}
        return frame.assign(**about), [*missing, *untraced, *_greedy(prepared, name)]

    counted = look_at(folders, of_run)
    labels = group_labels(counted.folders)
    frames = [frame.assign(group=label) for (frame, _), label in zip(counted.found, labels, strict=True)]
    return frames, [*counted.notes, *(told for _, ones in counted.found for told in ones)]


def _check_arguments(draws: int, checkpoints: Sequence[str], split: str) -> None:
    if draws < 1:
        raise SlotkitError(f"draws is {draws}. Give an integer from 1 up; a spread needs 2 or more.")
    if split not in ("test", "validation"):
        raise SlotkitError(f"The split is {split!r}. Choose test or validation.")
    wrong = [name for name in checkpoints if not re.fullmatch(r"all|start|best|last|epoch-\d+", name)]
    if wrong or not checkpoints:
        raise SlotkitError(
            f"The checkpoints are {','.join(checkpoints) or 'none'!r}. Choose from all, start, best, last "
            "and epoch-N (kept with recording.keep_epochs), such as start,epoch-3,last."
        )


def _checkpoints(folder: RunFolder, asked: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the checkpoints to read, and sentences on those that the run was to keep and has not."""
    if ALL not in asked:
        return list(dict.fromkeys(asked)), []
    there = folder.checkpoint("last").parent.glob("epoch-*.safetensors")
    kept = sorted(int(path.stem.removeprefix("epoch-")) for path in there)
    has_last = folder.checkpoint("last").exists()
    if not (kept or has_last):
        raise SlotkitError(
            f"{folder.name} has no checkpoint yet. Let it train for an epoch, or name start for the "
            "untrained machine alone."
        )
    epochs = folder.config().recording.keep_epochs
    missing = [epoch for epoch in epochs if epoch not in kept]
    told = ", ".join(f"epoch-{epoch}" for epoch in missing)
    sentences = [f"{folder.name} has no checkpoint {told}, which it was to keep."] if missing else []
    if not has_last:
        sentences.append(f"{folder.name} has no checkpoint last.")
    every = [START, *(f"epoch-{epoch}" for epoch in kept), *(["last"] if has_last else [])]
    return list(dict.fromkeys([*every, *(name for name in asked if name != ALL)])), sentences


def _at_checkpoints(
    folder: RunFolder, prepared: Prepared, layers: Layers, names: Sequence[str], split: str, draws: int
) -> pd.DataFrame:
    """Rows of every checkpoint. Two of the same step are measured once."""
    import pandas as pd

    trainee = prepared.trainee
    machine, images = trainee.machine, prepared.images(split)
    assert machine is not None
    measured: dict[int, list[Row]] = {}
    frames = []
    for name in sorted(names, key=lambda name: name != START):  # a loaded checkpoint overwrites START
        about = {"step": 0, "epoch": 0}
        if name != START or folder.checkpoint(START).exists():
            state, about = load(folder, name)
            with naming(folder.checkpoint(name), "Use another one, or train again."):
                trainee.load(state)
        if about["step"] not in measured:
            networks, reels = read_networks(prepared, images, draws), read_reels(machine)
            by_layer = _by_layer(reels, networks.same_option, layers)
            measured[about["step"]] = [*_accuracies(networks), *by_layer]
        frame = pd.DataFrame(measured[about["step"]], columns=["layer", "quantity", "level", "value"])
        frames.append(frame.assign(checkpoint=name, epoch=about["epoch"], at=about["step"]))
    return pd.concat(frames)


def _accuracies(networks: Any) -> Iterator[Row]:
    samples = np.array(networks.samples)
    for number, value in enumerate(networks.samples):
        yield ALL, "sample accuracy", number, value
    for level, value in zip((np.nan, LOW, HIGH), mean_and_interval(samples), strict=True):
        yield ALL, "sampled accuracy", level, value
    yield ALL, "sampled spread", np.nan, samples.std(ddof=1) if len(samples) > 1 else np.nan
    for name in ("greedy", "expected", "ensemble"):
        yield ALL, f"{name} accuracy", np.nan, getattr(networks, name)
    yield ALL, "same prediction", np.nan, networks.same_prediction


def _by_layer(
    reels: Mapping[str, Mapping[str, float]], same: Mapping[str, float], layers: Layers
) -> Iterator[Row]:
    found = {layer: dict(values) for layer, values in reels.items()}
    for layer, values in found.items():
        values["same option"] = same.get(layer, np.nan)
        if "c" in values:
            values["initial spread"] = abs(values["c"]) * layers[layer][1]
    for layer, values in found.items():
        for quantity, value in values.items():
            yield layer, quantity, np.nan, value
    for quantity in next(iter(found.values())):
        if quantity != "c":  # a layer's own
            values_of = {layer: values[quantity] for layer, values in found.items()}
            yield ALL, quantity, np.nan, _over_layers(values_of, layers)


def _trace(folder: RunFolder, layers: Layers) -> tuple[pd.DataFrame, list[str]]:
    """Rows of the trace. Without a trace, or with a damaged one: no rows and a sentence that says why."""
    import pandas as pd

    try:
        recorded = read_any(folder)
        if recorded.layers != tuple(layers):
            raise SlotkitError(
                f"it is of the tensors {', '.join(recorded.layers)}, and the network has {', '.join(layers)}."
            )
    except SlotkitError as fault:
        return pd.DataFrame(), [f"From the checkpoints alone, without a trace of {folder.name}: {fault}"]
    rows: list[tuple[str, str, float, float, int]] = []
    dense = recorded.about.get("form") == "dense"  # without a c that is known
    for i, at in enumerate(recorded.measured):
        left = {layer: abs(c) * layers[layer][1] for layer, c in zip(layers, recorded.c[i], strict=True)}
        if not dense:
            rows.append((ALL, "initial spread", np.nan, _over_layers(left, layers), at))
        for j, layer in enumerate(layers):
            if not dense:
                rows.append((layer, "c", np.nan, recorded.c[i, j], at))
                rows.append((layer, "initial spread", np.nan, left[layer], at))
            for name in ("entropy", "top"):
                if name in recorded.quantiles:
                    pairs = zip(recorded.about["levels"], recorded.quantiles[name][i, j], strict=True)
                    rows += [(layer, f"{name} quantile", level, value, at) for level, value in pairs]
    columns = ["layer", "quantity", "level", "value", "at"]
    return pd.DataFrame(rows, columns=columns), list(recorded.reservations)


def _initial(prepared: Prepared) -> Layers:
    machine = prepared.trainee.machine
    assert machine is not None
    spreads = initial_spreads(machine)
    return {name: (int(np.prod(reel.shape)), spreads[name]) for name, reel in machine.reels.items()}


def _over_layers(values: Mapping[str, float], layers: Layers) -> float:
    """Mean over the reels of all layers, from the mean of each layer."""
    weighted = sum(layers[layer][0] * value for layer, value in values.items())
    return weighted / sum(size for size, _ in layers.values())


def _components(measured: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    rows = []
    samples = measured[measured["quantity"] == "sample accuracy"]
    for (group, name), some in samples.groupby(["group", "checkpoint"], sort=False):
        found = components(some.pivot(index="run", columns="level", values="value").to_numpy())
        for quantity, level, value in (
            ("sampling sd", np.nan, found.within),
            ("seed sd", np.nan, found.between),
            ("seed share", np.nan, found.share),
            ("seed share", LOW, found.low),
            ("seed share", HIGH, found.high),
            ("seed p", np.nan, found.p),
        ):
            when = (name, some["epoch"].mean(), some["at"].mean())
            rows.append((OVER_RUNS, group, some["k"].iloc[0], np.nan, *when, ALL, quantity, level, value))
    return pd.DataFrame(rows, columns=COLUMNS)


def _greedy(prepared: Prepared, name: str) -> list[str]:
    if prepared.config.probabilistic:
        return []
    return [
        f"{name} was trained with greedy selection and is sampled after the fact: its scores were never "
        "meant as logits, only their order counted."
    ]
