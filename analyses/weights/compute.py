"""The table of `weights`, from checkpoints and traces; its quantities are in the package's docstring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from slotkit.analyses.common.comparison import group_labels
from slotkit.analyses.common.findings import lengths
from slotkit.analyses.common.recorded import Run, open_runs
from slotkit.analyses.common.result import Result, in_lines
from slotkit.analyses.common.several import look_at
from slotkit.analyses.weights.activity import dead_units
from slotkit.analyses.weights.choice import EDGES, Choice, compare, rank_shares, sample_of
from slotkit.analyses.weights.snapshots import Course, Weights, open_course
from slotkit.analyses.weights.spectra import as_matrix, edge, effective_rank, singular_values
from torch import Tensor, nn

from slotkit.config import Config
from slotkit.errors import SlotkitError
from slotkit.inits import NAMED_INITS, init_name
from slotkit.models import own_network
from slotkit.reel import Reel
from slotkit.runs.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

# Snapshots between start and checkpoint.
SNAPSHOTS = 16

# The standard error of a preference is then 0.577 / sqrt(SAMPLE) = 0.2 %.
SAMPLE = 1 << 16

UNIT_LEVELS = np.linspace(0.0, 1.0, 21)
SPECTRUM_POINTS = 100

COLUMNS = ["run", "group", "k", "seed", "layer", "quantity", "step", "at", "value"]

Row = tuple[str, str, float, float, float]  # layer, quantity, step, at, value


def analyze(
    runs: Run | Sequence[Run],
    checkpoint: str = "last",
    moments: int = SNAPSHOTS,
    sample: int = SAMPLE,
    data_dir: Path | None = None,
    dataset: str | None = None,
    model_factory: str | Callable[..., nn.Module] | None = None,
    runs_dir: Path | None = None,
) -> Result:
    """Weights of one or many slot machines, in either form and under either selection.

    A greedy run with a trace "full" is shown over training, and so is one that kept epochs; of others there
    are the start and the checkpoint. Of probabilistic runs the greedy reading is analyzed.

    Args:
        runs: folders, paths, or names in `runs_dir`.
        checkpoint: where it ends: "last", "best" or "epoch-N".
        moments: how many snapshots between are rebuilt from a full trace.
        sample: connections of each tensor whose options are looked at.
        data_dir: where datasets lie now, for dead units; by default where the run had them.
        dataset, model_factory: of runs that slotkit.record has made, for dead units: the dataset's name, and
            a function that makes the network, or its "package.module:name".

    Runs without slots, with missing or damaged checkpoints or damaged traces are left out.

    Raises SlotkitError if no run is left.
    """
    import pandas as pd
    from slotkit.analyses.weights.figure import plot
    from slotkit.analyses.weights.words import sentences

    for name, value, least in (("moments", moments, 0), ("sample", sample, 1)):
        if value < least:
            raise SlotkitError(f"{name} is {value}. Give an integer from {least} up.")

    def of_run(folder: RunFolder, name: str) -> tuple[pd.DataFrame, Config, list[str]]:
        """The rows of a run, all but their group, its settings and its reservations."""
        course = open_course(folder, checkpoint, moments)
        with own_network(model_factory):
            rows, sentence = _rows(course, sample, {"data.dir": data_dir, "data.dataset": dataset})
        frame = pd.DataFrame(rows, columns=["layer", "quantity", "step", "at", "value"])
        about = {"run": name, "k": course.config.slots.k, "seed": course.config.seeds.reels}
        return frame.assign(**about), course.config, [*course.reservations, *([sentence] if sentence else [])]

    counted = look_at(open_runs(runs, runs_dir), of_run)
    labels = group_labels(counted.folders)
    frames = [frame.assign(group=label) for (frame, *_), label in zip(counted.found, labels, strict=True)]
    table = pd.concat(frames, ignore_index=True)[COLUMNS]
    reservations = [lengths(table.assign(at=table["step"])), *counted.notes]
    reservations += (told for *_, ones in counted.found for told in ones)
    pairs = zip(counted.names, counted.found, strict=True)
    sampled = [name for name, (_, config, _) in pairs if config.probabilistic]
    if sampled:
        reservations.append(
            f"{', '.join(sampled)} sampled the weights anew in every step: this is the greedy reading, the "
            "option of the highest score of each connection."
        )
    return Result("weights", table, in_lines([*sentences(table), *reservations]), plot)


def _rows(course: Course, sample: int, data: Mapping[str, Path | str | None]) -> tuple[list[Row], str]:
    """The rows of one run, and a sentence on what is missing ("" if nothing is)."""
    rows: list[Row] = []
    chosen = {name: sample_of(int(np.prod(reel.shape)), sample) for name, reel in course.reels.items()}
    seen: dict[str, list[Tensor]] = {name: [] for name in course.reels}
    steps: list[int] = []
    ends: list[Weights] = []
    ranks: dict[str, float] = {}  # effective ranks of the start
    for step, weights in course.snapshots():
        steps.append(step)
        ends = [*ends[:1], weights]
        for name, weight in weights.items():
            seen[name].append(weight.reshape(-1)[chosen[name]].float())
            spectrum = list(_spectrum(course.reels[name], weight, step, step in (0, course.step)))
            rank = next(value for _, quantity, _, _, value in spectrum if quantity == "effective rank")
            start = ranks.setdefault(name, rank)
            rows += [*spectrum, (name, "effective rank / start", step, np.nan, rank / start)]
    # A single step is both start and end.
    ranked = sorted({0, len(steps) - 1})
    for name, reel in course.reels.items():
        bound = _bound(reel)
        choice = compare(reel, chosen[name], torch.stack(seen[name]), ranked, bound)
        rows += _choices(reel, choice, steps, ranked, bound)
        for i, weights in zip(ranked, ends, strict=False):
            rows += _unit_norms(reel, weights[name], float(choice.square.mean()), steps[i])
        mirrored = course.mirrored(name, chosen[name])
        if mirrored is not None:
            ratio = float(mirrored.abs().double().mean()) / choice.magnitude.mean()
            rows.append((name, "preference, mirrored", course.step, np.nan, float(ratio)))
        rows += _norms(rows, reel, float(choice.square.mean()))
    return _with_dead_units(rows, course, steps, ends, data)


def _bound(reel: Reel) -> float:
    if reel.bound is None:
        uniform = [name for name, init in NAMED_INITS.items() if getattr(init, "is_uniform", False)]
        raise SlotkitError(
            f"{reel.name} has options of the init {init_name(reel.init)} and the kind {reel.rule.name}. "
            "Densities are told in units of the bound of uniform options, and these have none. Analyze runs "
            f"with one of the inits {', '.join(uniform)}."
        )
    return reel.bound


def _spectrum(reel: Reel, weight: Tensor, step: int, whole: bool) -> Iterator[Row]:
    matrix = as_matrix(weight, reel.channel_dim)
    values = singular_values(matrix)
    limit = edge(values, (matrix.shape[0], matrix.shape[1]))
    numbers = {
        "frobenius": float(np.sqrt(np.square(values).sum())),
        "top singular value": float(values[0]),
        "top / edge": float(values[0] / limit) if limit else np.nan,
        "above the edge": float((values > limit).sum()),
        "effective rank": effective_rank(values),
    }
    for quantity, value in numbers.items():
        yield reel.name, quantity, step, np.nan, value
    if whole and limit:
        count = len(values)
        for i in np.unique(np.linspace(0, count - 1, SPECTRUM_POINTS).astype(int)):
            yield reel.name, "singular value / edge", step, (i + 0.5) / count, float(values[i] / limit)


def _choices(reel: Reel, choice: Choice, steps: list[int], ranked: list[int], bound: float) -> Iterator[Row]:
    connections, sampled = float(np.prod(reel.shape)), float(choice.values.shape[1])
    yield reel.name, "connections", np.nan, np.nan, connections
    yield reel.name, "sampled", np.nan, np.nan, sampled
    width = EDGES[1] - EDGES[0]
    centres = (EDGES[:-1] + EDGES[1:]) / 2
    for at, share in zip(centres, choice.offered, strict=True):
        yield reel.name, "density, offered", np.nan, float(at), float(share / width)
    mean = choice.magnitude.mean()
    yield reel.name, "preference, largest", np.nan, np.nan, float(choice.largest.mean() / mean)
    yield reel.name, "preference, extreme", np.nan, np.nan, float(choice.extreme.mean() / mean)
    for step, values in zip(steps, choice.values, strict=True):
        moved = values != choice.values[0]
        yield reel.name, "moved", step, np.nan, float(moved.mean())
        yield reel.name, "preference", step, np.nan, float(np.abs(values).mean(dtype=np.float64) / mean)
        if moved.any():
            ratio = np.abs(values[moved]).mean(dtype=np.float64) / choice.magnitude[moved].mean()
            yield reel.name, "preference, moved", step, np.nan, float(ratio)
    for i, by_value, by_magnitude in zip(ranked, choice.by_value, choice.by_magnitude, strict=True):
        counts = np.histogram(choice.values[i] / bound, EDGES)[0]
        for at, count in zip(centres, counts, strict=True):
            yield reel.name, "density, selected", steps[i], float(at), float(count / sampled / width)
        moved = choice.values[i] != choice.values[0]
        kinds = {"rank of value": by_value, "rank of magnitude": by_magnitude}
        if moved.any():
            kinds["rank of magnitude, moved"] = by_magnitude[moved]
        for quantity, ranks in kinds.items():
            yield from _ranks(reel, quantity, steps[i], ranks)


def _ranks(reel: Reel, quantity: str, step: int, ranks: NDArray[np.int64]) -> Iterator[Row]:
    for rank, share, ratio in rank_shares(ranks, reel.k):
        yield reel.name, quantity, step, rank, share
        yield reel.name, f"{quantity} / random", step, (rank - 0.5) / reel.k, ratio


def _norms(rows: list[Row], reel: Reel, square: float) -> list[Row]:
    """Frobenius norms over sqrt(n E W^2), that of a random choice; `square` is the mean of W^2."""
    random = np.sqrt(np.prod(reel.shape) * square)
    return [
        (layer, "frobenius / random", step, at, value / random)
        for layer, quantity, step, at, value in rows
        if layer == reel.name and quantity == "frobenius"
    ]


def _unit_norms(reel: Reel, weight: Tensor, square: float, step: int) -> Iterator[Row]:
    matrix = as_matrix(weight, reel.channel_dim)
    random = np.sqrt(matrix.shape[1] * square)
    quantiles = np.quantile(matrix.norm(dim=1).numpy(), UNIT_LEVELS)
    for level, norm in zip(UNIT_LEVELS, quantiles, strict=True):
        yield reel.name, "unit norm", step, float(level), float(norm)
        yield reel.name, "unit norm / random", step, float(level), float(norm / random)


def _with_dead_units(
    rows: list[Row],
    course: Course,
    steps: list[int],
    ends: list[Weights],
    data: Mapping[str, Path | str | None],
) -> tuple[list[Row], str]:
    """Add the rows of dead units, and a sentence if there are none.

    The start is left out if non-slot parameters were trained or batch norm has statistics: only those of the
    end are known.
    """
    tracked = any(name.endswith("num_batches_tracked") for name in course.others)
    networks = ends[-1:] if tracked or course.config.slots.others == "trained" else ends
    found = dead_units(course, networks, data)
    if isinstance(found, str):
        return rows, found
    for step, dead in zip([steps[0], steps[-1]][-len(networks) :], found, strict=True):
        for name, units in dead.items():
            rows.append((name, "units", step, np.nan, float(len(units))))
            rows.append((name, "dead units", step, np.nan, float(units.float().mean())))
    return rows, ""
