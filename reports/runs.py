"""What a report says of a single run: its curves, what differs from the recipe, flips and thresholds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from slotkit.analyses import registry
from slotkit.analyses.common.findings import layers, plain, short, span, whole
from slotkit.analyses.common.style import shown as shown_of
from slotkit.reports.chart import LARGEST, Chart, Line, Point
from slotkit.reports.collect import Row
from slotkit.reports.figures import Figure, ends_of

from slotkit import recipes
from slotkit.config import Config, Overrides, flatten, resolve
from slotkit.errors import SlotkitError, typed
from slotkit.runs.fingerprint import FREE
from slotkit.runs.listing import shown

if TYPE_CHECKING:
    import pandas as pd

# Points of a curve; a page with all steps of a long run would be megabytes.
POINTS = 200


def curves(row: Row) -> Iterator[Figure]:
    """Loss, validation accuracy and learning rate by epoch; of a loop of one's own what it has logged."""
    yield from _logged(row)
    yield from _explored(row)
    epochs = [entry for entry in row.folder.metrics() if entry["kind"] == "epoch"]
    if not epochs:
        return
    at = {name: [(entry["epoch"], entry[name]) for entry in epochs] for name in ("loss", "lr")}
    accuracy = [(entry["epoch"], 100 * entry["validation"]["accuracy"]) for entry in epochs]
    name = row.folder.name
    epoch, best = max(accuracy, key=lambda pair: pair[1])
    loss, lr = ([value for _, value in at[kind]] for kind in ("loss", "lr"))
    falls = f"The training loss goes from {loss[0]:.3g} to {loss[-1]:.3g}"
    yield _curve(f"loss-{name}", falls, "training loss (nats)", at["loss"])
    told = f"Validation accuracy is best at epoch {epoch}: {best:.2f} %"
    yield _curve(f"validation-{name}", told, "validation accuracy (%)", accuracy)
    stays = lr[0] == lr[-1]
    told = f"The learning rate {'is' if stays else f'goes from {lr[0]:.3g} to'} {lr[-1]:.3g} at the end"
    yield _curve(f"lr-{name}", told, "learning rate", at["lr"])


def _explored(row: Row) -> Iterator[Figure]:
    """R_s after each update of a mask that changes."""
    found = [entry for entry in row.folder.metrics() if entry["kind"] == "mask"]
    if not found:
        return
    values = [(entry["step"], 100 * entry["explored"]) for entry in found]
    line = Line("explored", _thinned(values), 0, marks=False)
    title = f"{values[-1][1]:.3g} % of the connections have been in the mask at the end"
    chart = Chart(title, "training step", "explored connections, R_s (%)", (line,))
    yield Figure(f"explored-{row.folder.name}", chart)


def _logged(row: Row) -> Iterator[Figure]:
    found: dict[str, list[tuple[Any, float]]] = {}
    for entry in row.folder.metrics():
        for name, value in entry["values"].items() if entry["kind"] == "log" else ():
            found.setdefault(name, []).append((entry["step"], value))
    for name, values in found.items():
        line = Line(name, _thinned(values), 0, marks=False)
        title = f"{name} goes from {values[0][1]:.3g} to {values[-1][1]:.3g}"
        yield Figure(f"{name}-{row.folder.name}", Chart(title, "training step", name, (line,)))


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
    lines = _by_layer(table, found)
    finding = f"{span(ends_of(lines), whole)} flips a step and million reels at the end"
    chart = Chart(finding, "training step", "flips / step / million reels", lines)
    yield Figure(
        f"flips-{row.folder.name}", chart, (f"`slotkit analyze flips {typed(row.folder.path)}` has more.",)
    )


def _thresholds(row: Row, table: pd.DataFrame) -> Iterator[Figure]:
    found = table[(table["quantity"] == "margin") & (table["level"].astype(float) == 0.5)]
    lines = _by_layer(table, found)
    finding = f"The next threshold is {span(ends_of(lines), plain)} away at the end"
    dense = not (table["quantity"] == "c").any()
    y = "median gap of scores to the next flip" if dense else "median distance of u to its next threshold"
    chart = Chart(finding, "training step", y, lines)
    note = f"`slotkit analyze thresholds {typed(row.folder.path)}` has more."
    yield Figure(f"thresholds-{row.folder.name}", chart, (note,))


def _by_layer(table: pd.DataFrame, found: pd.DataFrame) -> tuple[Line, ...]:
    """A line for each layer of `found` that a figure of the table would show."""
    lines: list[Line] = []
    for layer in [name for name in shown_of(layers(table)) if name in set(found["layer"])]:
        rows = found[found["layer"] == layer]
        points = [(float(at), float(value)) for at, value in zip(rows["at"], rows["value"], strict=True)]
        lines.append(Line(short(layer), _thinned(points), len(lines), marks=False))
    return tuple(line for line in lines if line.points)


def _curve(name: str, title: str, y: str, values: list[tuple[Any, float]]) -> Figure:
    line = Line(y, _thinned(values), 0, marks=False)
    return Figure(name, Chart(title, "epoch", y, (line,)))


def _thinned(values: list[tuple[Any, float]]) -> tuple[Point, ...]:
    stride = max(1, -(-len(values) // POINTS))
    kept = [*values[::stride], *([values[-1]] if (len(values) - 1) % stride else [])]
    return tuple(Point(float(x), float(y)) for x, y in kept if abs(y) <= LARGEST)
