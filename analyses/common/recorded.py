"""A run's trace in memory: one array a column, whatever chunks it came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slotkit.config import Config
from slotkit.errors import SlotkitError
from slotkit.loop_recording import Recording, recording_of
from slotkit.machine import SlotMachine
from slotkit.recording.chunks import Columns, flips_by_step, followed, names_flips
from slotkit.recording.replay import settings_of
from slotkit.recording.trace import Trace
from slotkit.runs.folder import RunFolder, default_runs_dir

Run = RunFolder | Path | str | Recording | SlotMachine

MEASUREMENTS = ("margin", "speed", "steps_to_flip", "entropy", "top")
MEANS = ("mean_entropy", "decided", "drift")

# Whose flips and thresholds an analysis shows.
GREEDY, GREEDY_OF_PS = "greedy selection", "greedy reading of a PS run"


@dataclass(frozen=True)
class Events:
    """Every flip, in the order of steps.

    Attributes:
        step: int32 (e,), counted from 1.
        connection: (e,), counted through all tensors of the run; int32 while that is wide enough.
        option: unsigned (e,), the one that was taken.
    """

    step: NDArray[Any]
    connection: NDArray[Any]
    option: NDArray[Any]


@dataclass(frozen=True)
class Recorded:
    """What the trace of one run holds: n steps, t tensors, m measurements, q levels.

    Attributes:
        about: what about.json says of the trace.
        reels: what the reels have in common, by name.
        layers: the tensors' names.
        sizes: int64 (t,), connections of each.
        reading: GREEDY, or GREEDY_OF_PS of a probabilistic machine.
        lr: (n,), see slotkit.recording.trace.
        changed: (n, t), flips by step; of a probabilistic machine those of its greedy reading, which a trace
            "summary" estimates from a sample.
        measured: int64 (m,), steps of the measurements; empty if there are none.
        c: float64 (m, t).
        quantiles: measurement name -> float64 (m, t, q).
        means: of a probabilistic machine, measurement name -> float64 (m, t).
        events: None unless every flip was recorded and asked for.
        reservations: sentences on what is missing from the trace.
    """

    folder: RunFolder
    about: dict[str, Any]
    reels: dict[str, Any]
    layers: tuple[str, ...]
    sizes: NDArray[np.int64]
    reading: str
    lr: NDArray[np.float64]
    changed: NDArray[Any]
    measured: NDArray[np.int64]
    c: NDArray[np.float64]
    quantiles: dict[str, NDArray[np.float64]]
    means: dict[str, NDArray[np.float64]]
    events: Events | None
    reservations: tuple[str, ...]

    @property
    def steps(self) -> int:
        """How many optimizer steps the trace has."""
        return len(self.lr)


def open_runs(runs: Run | Sequence[Run], runs_dir: Path | None = None) -> list[RunFolder]:
    """Run folders, each once. Recordings, and machines that are or were recorded, stand for theirs.

    Names are looked for in `runs_dir` (default: as `slotkit runs` has it).

    Raises SlotkitError if one is not there or none is named.
    """
    named: Sequence[Run] = [runs] if isinstance(runs, Run) else runs
    found = [_open(run, runs_dir) for run in named]
    if not found:
        raise SlotkitError("No run is named. Name one or more; `slotkit runs list` shows what is there.")
    return list({folder.path.resolve(): folder for folder in found}.values())


def _open(run: Run, runs_dir: Path | None) -> RunFolder:
    if isinstance(run, SlotMachine):
        recording = recording_of(run)
        if recording is None:
            raise SlotkitError(
                "This machine was never recorded, and an analysis reads what was. Train it within "
                "`with slotkit.record(machine, optimizer, folder):`, or name its run."
            )
        run = recording
    if isinstance(run, Recording):
        run.flush()
        return run.folder
    return run if isinstance(run, RunFolder) else RunFolder.open(run, runs_dir or default_runs_dir())


def read(folder: RunFolder, events: bool) -> Recorded:
    """The trace of a run: its flips, or those of the greedy reading of a PS run.

    Args:
        events: whether to keep every flip, where the trace has them.

    Raises SlotkitError if there is no trace, no step in it, a damaged or missing chunk, or no flips at all.
    """
    reading_of(folder)
    recorded = read_any(folder, events)
    sample = recorded.about.get("sample")
    if sample is None or (recorded.sizes <= sample).all():
        return recorded
    estimated = (
        f"The flips of {folder.name} were counted on a sample of {sample:,} reels of a layer "
        "(--trace summary), so its flip rates are estimates."
    )
    return replace(recorded, reservations=(*recorded.reservations, estimated))


def read_any(folder: RunFolder, events: bool = False) -> Recorded:
    """As `read`, also of a PS run from before its greedy reading was recorded."""
    check_trace_of(folder)
    trace = Trace(folder.path / "trace")
    about = trace.about()
    sizes = np.array([int(np.prod(tensor["shape"])) for tensor in about["tensors"].values()], np.int64)
    wanted = events and names_flips(about)
    chunks, parts = [], []
    for first, columns in trace.chunks():
        _check_shape(folder, first, columns, len(sizes))
        if wanted:
            parts.append(_events(folder, first, columns, sizes))
        # The flips are decoded: their columns are not kept twice.
        kept = {name: column for name, column in columns.items() if name not in ("connection", "option")}
        chunks.append(kept | {"changed": _of_all(flips_by_step(columns), about, sizes)})
    if not chunks:
        raise SlotkitError(f"The trace of {folder.name} has no steps yet. Let the run train first.")
    lr, measured = _joined(chunks, "lr"), _joined(chunks, "measured")
    shape = (len(measured), len(sizes))
    return Recorded(
        folder=folder,
        about=about,
        reels=settings_of(folder),
        layers=tuple(about["tensors"]),
        sizes=sizes,
        reading=_reading(about),
        lr=lr,
        changed=_joined(chunks, "changed"),
        measured=measured.astype(np.int64),
        c=_joined(chunks, "c").reshape(shape),
        quantiles={
            name: _joined(chunks, name).astype(np.float64).reshape(*shape, -1)
            for name in MEASUREMENTS
            if any(name in columns for columns in chunks)
        },
        means={
            name: _joined(chunks, name).astype(np.float64).reshape(shape)
            for name in MEANS
            if any(name in columns for columns in chunks)
        },
        events=Events(*(np.concatenate(column) for column in zip(*parts, strict=True))) if wanted else None,
        reservations=_reservations(folder, len(lr)),
    )


def check_slot_machine(folder: RunFolder, config: Config) -> None:
    """Raise SlotkitError for anything but the run of one slot machine."""
    folder.check_single()
    if config.method != "slot":
        raise SlotkitError(
            f"{folder.name} trained ordinary learned weights, which have no options to choose from. "
            "Name runs of slot machines."
        )


def check_trace_of(folder: RunFolder) -> None:
    """Raise SlotkitError if the trace is of another machine than the run's config.toml says; without one
    there is nothing to compare it with.
    """
    about = Trace(folder.path / "trace").about()
    if not folder.has_config():
        return
    reels, settings = about.get("reels") or {}, folder.settings()
    told = {
        "slots.k": about["k"],
        "slots.selection": about["selection"],
        "slots.sharing": reels.get("sharing"),
        "seeds.reels": reels.get("seed"),
    }
    different = [
        f"{path} is {settings[path]!r} there and {value!r} in the trace"
        for path, value in told.items()
        if value is not None and path in settings and settings[path] != value
    ]
    if different:
        raise SlotkitError(
            f"The trace {folder.path / 'trace'} is of another run than the config.toml beside it: "
            f"{'; '.join(different)}. Put back the one that is missing, or train again."
        )


def reading_of(folder: RunFolder) -> str:
    """Whose flips the trace of a run has: GREEDY or GREEDY_OF_PS. Raises SlotkitError if it has none."""
    if folder.has_config():
        check_slot_machine(folder, folder.config())
    about = Trace(folder.path / "trace").about()
    if about["selection"] == "probabilistic" and about.get("reading") is None:
        raise SlotkitError(
            f"{folder.name} trained with probabilistic selection, which draws its options anew in every "
            "step: a change of option is no flip. Its greedy reading flips, and its trace, which an older "
            "slotkit wrote, does not have it. Train again."
        )
    return _reading(about)


def _reading(about: Mapping[str, Any]) -> str:
    return GREEDY if about["selection"] == "greedy" else GREEDY_OF_PS


def _check_shape(folder: RunFolder, first: int, columns: Columns, tensors: int) -> None:
    if columns["changed"].shape != (len(columns["lr"]), tensors):
        raise SlotkitError(
            f"The trace of {folder.name} contradicts itself: the chunk of step {first} has counts of shape "
            f"{columns['changed'].shape} where about.json has {tensors} tensors. Train again."
        )


def _of_all(counts: NDArray[np.int32], about: Mapping[str, Any], sizes: NDArray[np.int64]) -> NDArray[Any]:
    """Flips of all connections by step and tensor, estimated where only those of a sample are counted."""
    seen = np.array(followed(about), np.int64)
    return counts if (seen == sizes).all() else counts * (sizes / seen)


def _events(folder: RunFolder, first: int, columns: Columns, sizes: NDArray[np.int64]) -> tuple[Any, ...]:
    """Step, connection and option of all flips of a chunk (see slotkit.recording.trace.flips)."""
    changed = flips_by_step(columns)
    steps, tensors = np.nonzero(changed)
    counts = changed[steps, tensors].astype(np.int64)
    rises = columns.get("connection", np.zeros(0, np.uint32))
    if counts.sum() != len(rises):
        raise SlotkitError(
            f"The trace of {folder.name} contradicts itself: the chunk of step {first} counts "
            f"{counts.sum()} flips and holds {len(rises)}. Train again."
        )
    # Connections are differences within a step and tensor: take the running sum over the chunk, and subtract
    # its value where each step and tensor begins.
    total = np.cumsum(rises, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    base = (total[starts] - rises[starts]) if len(starts) else np.zeros(0, np.int64)
    offset = np.cumsum(sizes) - sizes
    connections = total + np.repeat(offset[tensors] - base, counts)
    width = np.int32 if sizes.sum() < 2**31 else np.int64
    option = columns.get("option", np.zeros(0, np.uint8))
    return np.repeat((first + steps).astype(np.int32), counts), connections.astype(width), option


def _joined(chunks: list[Columns], name: str) -> NDArray[Any]:
    # A chunk without a measurement lacks those columns.
    parts = [columns[name] for columns in chunks if name in columns]
    return np.concatenate(parts) if parts else np.zeros(0)


def _reservations(folder: RunFolder, steps: int) -> tuple[str, ...]:
    trained = max((int(entry.get("step", 0)) for entry in folder.metrics()), default=0)
    if trained > steps:
        return (
            f"The trace of {folder.name} ends at step {steps:,} and its metrics at step {trained:,}: what "
            "came between is not in this analysis.",
        )
    return ()
