"""What a report says of a single run: its curves, what differs from the recipe, flips and thresholds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from slotkit.analyses import registry
from slotkit.reports.chart import Chart, Line, Point
from slotkit.reports.collect import Row
from slotkit.reports.figures import Figure

from slotkit import recipes
from slotkit.config import Config, Overrides, flatten, resolve
from slotkit.errors import SlotkitError
from slotkit.runs.fingerprint import FREE
from slotkit.runs.listing import shown

if TYPE_CHECKING:
    import pandas as pd

# Points of a curve; a page with all steps of a long run would be megabytes.
POINTS = 200


def curves(row: Row) -> Iterator[Figure]:
    """Loss, validation accuracy and learning rate by epoch; of a loop of one's own what it has logged."""
    yield from _logged(row)
    epochs = [entry for entry in row.folder.metrics() if entry["kind"] == "epoch"]
    if not epochs:
        return
    at = {name: [(entry["epoch"], entry[name]) for entry in epochs] for name in ("loss", "lr")}
    accuracy = [(entry["epoch"], 100 * entry["validation"]["accuracy"]) for entry in epochs]
    name = row.folder.name
    yield _curve(f"loss-{name}", "Training loss", "loss (nats)", at["loss"])
    yield _curve(f"validation-{name}", "Validation accuracy", "validation accuracy (%)", accuracy)
    yield _curve(f"lr-{name}", "Learning rate", "learning rate", at["lr"])


def _logged(row: Row) -> Iterator[Figure]:
    found: dict[str, list[tuple[Any, float]]] = {}
    for entry in row.folder.metrics():
        for name, value in entry["values"].items() if entry["kind"] == "log" else ():
            found.setdefault(name, []).append((entry["step"], value))
    for name, values in found.items():
        line = Line(name, _thinned(values), 0, marks=len(values) == 1)
        yield Figure(f"{name}-{row.folder.name}", Chart(name, "training step", name, (line,)))


def differences(row: Row) -> tuple[str, list[tuple[str, str, str, str]]]:
    """What it is compared with, and (setting, there, here, origin) of what is otherwise.

    Raises SlotkitError if its recipe is not there any more.
    """
    usual = Config()
    if row.folder.recorded() is not None:
        told = [(path, "", shown(value), "slotkit.record") for path, value in row.folder.settings().items()]
        return "what slotkit.record knows of it", told
    if row.recipe:
        slots = Overrides("run", {"slots.k": row.config.slots.k})
        usual = resolve([*recipes.below(row.recipe, [slots]), slots]).config
    before = dict(flatten(usual.model_dump(mode="json")))
    origins = row.folder.tables()["origins"]
    told = []
    for path, value in flatten(row.config.model_dump(mode="json")):
        own = not origins.get(path, "").startswith("dataset ")
        if value != before.get(path) and path not in FREE and own:
            told.append((path, shown(before.get(path)), shown(value), origins.get(path, "default")))
    return row.recipe or "slotkit's defaults", told


def dynamics(row: Row) -> tuple[list[Figure], list[str]]:
    """Flips and thresholds from its trace, and why there are none, a sentence each."""
    if row.config.method != "slot":
        return [], []
    figures: list[Figure] = []
    faults: list[str] = []
    analyses = {analysis.name: analysis for analysis in registry.find()}
    for name, plot in (("flips", _flips), ("thresholds", _thresholds)):
        try:
            result = analyses[name].attribute("analyze")([row.folder])
        except SlotkitError as fault:
            faults.append(str(fault))
        else:
            figures += plot(row, result.table)
    return figures, faults


def _flips(row: Row, table: pd.DataFrame) -> Iterator[Figure]:
    found = table[table["quantity"] == "flip rate"]
    lines = _by_layer(found)
    chart = Chart("Flips", "training step", "flips / step / million reels", lines)
    yield Figure(f"flips-{row.folder.name}", chart, (f"`slotkit analyze flips {row.folder.path}` has more.",))


def _thresholds(row: Row, table: pd.DataFrame) -> Iterator[Figure]:
    found = table[(table["quantity"] == "margin") & (table["level"].astype(float) == 0.5)]
    chart = Chart("Distance to the next threshold", "training step", "median distance of u", _by_layer(found))
    note = f"`slotkit analyze thresholds {row.folder.path}` has more."
    yield Figure(f"thresholds-{row.folder.name}", chart, (note,))


def _by_layer(table: pd.DataFrame) -> tuple[Line, ...]:
    lines: list[Line] = []
    for layer in table["layer"].unique():
        rows = table[table["layer"] == layer]
        points = [(float(at), float(value)) for at, value in zip(rows["at"], rows["value"], strict=True)]
        lines.append(Line(str(layer), _thinned(points), len(lines), marks=False))
    return tuple(lines) if len(lines) != 2 else tuple(lines[:1])  # one layer, which is all


def _curve(name: str, title: str, y: str, values: list[tuple[Any, float]]) -> Figure:
    line = Line(title.lower(), _thinned(values), 0, marks=len(values) == 1)
    return Figure(name, Chart(title, "epoch", y, (line,)))


def _thinned(values: list[tuple[Any, float]]) -> tuple[Point, ...]:
    stride = max(1, -(-len(values) // POINTS))
    kept = [*values[::stride], *([values[-1]] if (len(values) - 1) % stride else [])]
    return tuple(Point(float(x), float(y)) for x, y in kept if abs(y) < float("inf"))
