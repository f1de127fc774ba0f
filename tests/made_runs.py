"""Runs with traces made by hand, so that the answers are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slotkit.config import Overrides, resolve
from slotkit.recording.replay import first_selection, reels_of
from slotkit.recording.trace import LEVELS, SAMPLE, Trace, option_type
from slotkit.runs.folder import RunFolder

Flip = tuple[int, int, int, int]  # step, tensor, connection, option


def make_run(
    runs_dir: Path,
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    k: int = 4,
    level: str = "full",
    every: int = 10,
    **settings: Any,
) -> RunFolder:
    """A run folder with an about.json; settings as slots__k=4."""
    values = {"slots.k": k, **{path.replace("__", "."): value for path, value in settings.items()}}
    folder = RunFolder.create(runs_dir, name, resolve([Overrides("test", values)]), {})
    tensors = {name: {"shape": shape, "channel_dim": 0} for name, shape in shapes.items()}
    reading: dict[str, Any] = {}
    if folder.config().probabilistic:
        reading = {"reading": "greedy", "sample": SAMPLE if level == "summary" else None}
    Trace(folder.path / "trace").write_about(
        {
            **reading,
            "level": level,
            "selection": folder.config().slots.selection,
            "every": every,
            "k": k,
            "tensors": tensors,
        }
    )
    return folder


def write_flips(folder: RunFolder, steps: int, flips: Sequence[Flip], chunk: int = 1000) -> None:
    """Those flips, as the recorder writes them; with a summary trace their numbers only."""
    trace = Trace(folder.path / "trace")
    about = trace.about()
    ordered = sorted(flips)
    for first in range(1, steps + 1, chunk):
        last = min(first + chunk - 1, steps)
        changed = np.zeros((last - first + 1, len(about["tensors"])), np.int32)
        rises, options = [], []
        before: tuple[int, int, int] = (0, 0, 0)
        for step, tensor, connection, option in ordered:
            if first <= step <= last:
                changed[step - first, tensor] += 1
                rises.append(connection - (before[2] if before[:2] == (step, tensor) else 0))
                options.append(option)
                before = (step, tensor, connection)
        columns: dict[str, Any] = {"lr": np.full(len(changed), 0.1), **_counts(about, changed)}
        if about["level"] == "full":
            columns["connection"] = np.array(rises, np.uint32)
            columns["option"] = np.array(options, option_type(about["k"]))
        trace.write_chunk(first, columns)


def _counts(about: Mapping[str, Any], changed: Any) -> dict[str, Any]:
    """The columns that count flips (n, t). Under PS the draws change three reels more."""
    changed = np.asarray(changed, np.int32)
    if "reading" not in about:
        return {"changed": changed}
    return {"changed": np.minimum(changed + 3, 4), "greedy_changed": changed}


def write_measurements(
    folder: RunFolder,
    lr: Any,
    changed: Any,
    waits: Any,
    c: Any,
    margin: float = 1.0,
    speed: float = 0.01,
    means: Mapping[str, Any] | None = None,
) -> None:
    """lr (n,), changed (n, t); at each measurement c (m, t) and the quantiles of steps_to_flip (m, t, q).

    Of a PS run also `means`: mean_entropy, decided and drift, (m, t) each.
    """
    about = Trace(folder.path / "trace").about()
    every = about["every"]
    measured = np.arange(every, len(lr) + 1, every)
    shape = (len(measured), np.shape(changed)[1], len(LEVELS))
    Trace(folder.path / "trace").write_chunk(
        1,
        {
            "lr": np.asarray(lr, np.float64),
            **_counts(about, changed),
            "measured": measured,
            "c": np.broadcast_to(c, shape[:2]).astype(np.float64),
            "margin": np.full(shape, margin, np.float32),
            "speed": np.full(shape, speed, np.float32),
            "steps_to_flip": np.broadcast_to(waits, shape).astype(np.float32),
            **({name: np.full(shape, 0.5, np.float32) for name in ("entropy", "top") if means}),
            **{name: np.broadcast_to(v, shape[:2]).astype(np.float32) for name, v in (means or {}).items()},
        },
    )


def others_than_first(folder: RunFolder) -> list[list[list[int]]]:
    """For each tensor and connection the options in order, beginning with the one in use at the start."""
    k = folder.config().slots.k
    starts = [first_selection(reel).tolist() for reel in reels_of(folder).values()]
    return [[[start, *(i for i in range(k) if i != start)] for start in tensor] for tensor in starts]


def value(table: Any, quantity: str, at: float | None = None, layer: str = "all", **where: Any) -> float:
    """The one number of the table that fits."""
    rows = table[(table["quantity"] == quantity) & (table["layer"] == layer)]
    for column, wanted in {"at": at, **where}.items():
        if wanted is not None:
            rows = rows[rows[column] == wanted]
    assert len(rows) == 1, rows
    return float(rows["value"].iloc[0])
