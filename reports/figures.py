"""The figures of one network on one dataset, from the cells of its runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from slotkit.analyses.common.findings import span
from slotkit.reports.chart import Chart, Line, Point, mean_point
from slotkit.reports.collect import Cell, ToCome
from slotkit.reports.paper import Paper, Read

from slotkit.errors import many
from slotkit.runs.folder import RunFolder
from slotkit.runs.listing import shown

TEST = "test accuracy (%)"
K = "K, options a connection"

SELECTIONS = {"greedy": "GS", "probabilistic": "PS"}


@dataclass(frozen=True)
class Figure:
    """A chart with what is to be said of it.

    Attributes:
        name: for links to it.
        notes: sentences below it.
    """

    name: str
    chart: Chart
    notes: tuple[str, ...] = ()


def usual(cell: Cell) -> bool:
    """Whether it is a slot machine as the paper has it: unshared options, SGD on the scores."""
    slots = cell.config.slots
    plain = slots.sharing == "none" and not slots.symmetric and slots.kind is None and slots.share is None
    return cell.config.method == "slot" and plain and cell.config.training.optimizer == "sgd"


def ordinary(cell: Cell | ToCome) -> bool:
    """Whether it is learned weights of every connection, from random ones on: no mask, and none that changes,
    and no weights that a slot machine has selected.
    """
    config = cell.config
    is_tuned = isinstance(cell, Cell) and cell.rows[0].start != ""
    return config.method == "learned" and config.mask is None and not config.sparse.is_on and not is_tuned


def weights_of(cell: Cell | ToCome) -> str:
    """What learned weights are called."""
    if isinstance(cell, Cell) and cell.rows[0].start:
        return "finetuned weights"
    return "learned weights" if ordinary(cell) else "learned weights under a mask"


def distance(cell: Cell) -> tuple[bool, bool, int]:
    """How far its settings are from the paper's recipe: of several variants the nearest is told of first."""
    recipe = cell.rows[0].recipe
    return not recipe.startswith("paper-"), recipe.startswith("paper-literal-"), len(cell.rows[0].own)


def figures(
    cells: Sequence[Cell],
    paper: Paper,
    untrained: Mapping[int, Sequence[float]],
    comparisons: Sequence[RunFolder] = (),
) -> Iterator[Figure]:
    """Those that these runs have something for.

    Args:
        untrained: K -> accuracies (%) before training, a random combination of options.
    """
    cells = sorted(cells, key=distance)
    greedy = [cell for cell in cells if usual(cell) and cell.config.slots.selection == "greedy"]
    slot = [cell for cell in cells if cell.config.method == "slot" and cell.values]
    if greedy:
        yield _against_k(greedy, [cell for cell in cells if ordinary(cell)], paper)
    if untrained:
        yield _untrained(greedy, untrained)
    if {cell.config.slots.selection for cell in slot if usual(cell)} == SELECTIONS.keys():
        yield _selections([cell for cell in slot if usual(cell)], paper)
    if len({cell.config.slots.sharing for cell in slot}) > 1:
        yield _sharing([cell for cell in slot if cell.config.training.optimizer == "sgd"])
    if any(cell.config.training.optimizer == "adam" for cell in slot):
        yield _optimizers([cell for cell in slot if cell.config.slots.sharing == "none"])
    finished = [folder for folder in comparisons if folder.summary()["status"] == "finished"]
    if finished:
        yield _finetuning(finished)
    yield from _curves([cell for cell in cells if cell.values])


def series(cells: Sequence[Cell], name: Callable[[Cell], str], first: int = 0) -> list[Line]:
    """A line by K for each name and variant; the variant is said as far as it tells lines of a name apart."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        alike = [other.variant for other in cells if name(other) == name(cell)]
        words = ", ".join(filter(None, [name(cell), told(cell.variant, alike)]))
        groups.setdefault(words, []).append(cell)
    return [
        Line(
            f"{words} (n = {_n(group)})",
            tuple(mean_point(cell.k, cell.values) for cell in group if cell.values),
            first + at,
        )
        for at, (words, group) in enumerate(groups.items())
        if any(cell.values for cell in group)
    ]


def told(variant: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """What of a variant not all of the others share, in words."""
    paths = [path for path in variant if any(other.get(path) != variant[path] for other in others)]
    return ", ".join(
        shown(variant[path]) if path == "recipe" else f"{path} {shown(variant[path])}"
        for path in paths
        if variant[path] not in (None, "")
    )


def best(line: Line) -> str:
    """ "best at K = 8: 98.15 %", for a title."""
    top = max(line.points, key=lambda point: point.y)
    return f"best at K = {top.x:.0f}: {top.y:.2f} %"


def at_most(lines: Sequence[Line], what: str) -> str:
    """The best and the worst of lines at the largest x that all have, for a title; `what` names the x."""
    there = [line for line in lines if line.points]
    shared = set.intersection(*({point.x for point in line.points} for line in there)) if there else set()
    if not shared:
        return f"{len(there)} kinds of runs, and nothing that all of them have"
    x = max(shared)
    at = sorted((next(p.y for p in line.points if p.x == x), bare(line.name)) for line in there)
    (low, last), (high, first) = at[0], at[-1]
    return f"At {what}{x:.0f}, {first}: {high:.2f} %" + (f"; {last}: {low:.2f} %" if len(at) > 1 else "")


def bare(name: str) -> str:
    """The name of a line without its number of runs."""
    return name.partition(" (n = ")[0]


def ends_of(lines: Sequence[Line]) -> dict[str, float]:
    """Name -> its last value."""
    return {bare(line.name): max(line.points, key=lambda point: point.x).y for line in lines}


def ks(cells: Sequence[Cell], *papers: Mapping[int, Read]) -> tuple[float, ...]:
    return tuple(sorted({cell.k for cell in cells} | {k for read in papers for k in read}))


def _against_k(greedy: Sequence[Cell], learned: Sequence[Cell], paper: Paper) -> Figure:
    lines = series(greedy, lambda cell: "greedy")
    title = f"Greedy selection is {best(lines[0])}" if lines else "0 runs are finished"
    lines += _of_paper("greedy, the paper", paper.greedy, 0)
    for at, cell in enumerate(cell for cell in learned if cell.values):
        words = ", ".join(filter(None, ["learned weights", told(cell.variant, [c.variant for c in learned])]))
        lines.append(
            Line(f"{words} (n = {len(cell.values)})", (mean_point(0, cell.values),), 5 + at, level=True)
        )
    if paper.learned is not None:
        mean, low, high = paper.learned
        point = (Point(0, mean, low, high),)
        lines.append(Line("learned weights, the paper", point, 5, dashed=True, level=True))
    chart = Chart(title, K, TEST, tuple(lines), log2=True, ticks=ks(greedy, paper.greedy))
    return Figure("accuracy-k", chart, (_bars(paper),))


def _untrained(greedy: Sequence[Cell], untrained: Mapping[int, Sequence[float]]) -> Figure:
    lines = series([cell for cell in greedy if cell.values], lambda cell: "greedy, trained")
    points = tuple(mean_point(k, values) for k, values in sorted(untrained.items()))
    counts = {len(values) for values in untrained.values()}
    n = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    lines.append(Line(f"before training: a random combination of options (n = {n})", points, 6))
    highest, before = max(untrained), points[-1].y
    trained = next((p.y for line in lines[:-1] for p in line.points if p.x == highest), None)
    lifts = f"A random combination has {before:.1f} % at K = {highest}"
    chart = Chart(
        lifts if trained is None else f"{lifts}, after selection {trained:.1f} %",
        *(K, TEST, tuple(lines), True),
        floor=0.0,
        ceiling=100.0,
        ticks=tuple(sorted(untrained)),
    )
    return Figure("random", chart, ("The same options in both: training only chooses among them.",))


def _selections(cells: Sequence[Cell], paper: Paper) -> Figure:
    def name(cell: Cell) -> str:
        selection = cell.config.slots.selection
        return "GS" if selection == "greedy" else f"PS, {cell.reading} reading"

    lines = series(cells, name)
    title = _compared(cells)
    colour = {line.name[:2]: line.colour for line in reversed(lines)}
    lines += _of_paper("GS, the paper", paper.greedy, colour.get("GS", 0))
    lines += _of_paper("PS, the paper", paper.probabilistic, colour.get("PS", 1))
    ticks = ks(cells, paper.greedy, paper.probabilistic)
    chart = Chart(title, K, TEST, tuple(lines), log2=True, ticks=ticks)
    return Figure("selection", chart, (_bars(paper),))


def _compared(cells: Sequence[Cell]) -> str:
    """At how many K greedy selection is ahead of the greedy reading of probabilistic selection; of several
    variants the first, which is the nearest to the paper's recipe.
    """
    means: dict[str, dict[int, float]] = {}
    for cell in cells:
        if cell.reading == "greedy":
            means.setdefault(cell.config.slots.selection, {}).setdefault(cell.k, fmean(cell.values))
    greedy, sampled = (means.get(selection, {}) for selection in SELECTIONS)
    ahead = {k: greedy[k] - sampled[k] for k in greedy.keys() & sampled.keys()}
    if not ahead:
        return "GS and PS have 0 values of K in common"
    most = max(ahead, key=lambda k: abs(ahead[k]))
    won = sum(value > 0 for value in ahead.values())
    told = f"{won} of {len(ahead)} K ({ahead[most]:+.2f} points at K = {most})"
    return f"GS is ahead of the greedy reading of PS at {told}"


def _sharing(cells: Sequence[Cell]) -> Figure:
    def name(cell: Cell) -> str:
        selection = SELECTIONS[cell.config.slots.selection]
        reading = "" if selection == "GS" else f", {cell.reading} reading"
        return f"sharing {cell.config.slots.sharing}, {selection}{reading}"

    # Unshared options of the same selection stand beside them, so that the title compares sharing alone.
    shared = {cell.config.slots.selection for cell in cells if cell.config.slots.sharing != "none"}
    cells = [cell for cell in cells if cell.config.slots.selection in shared]
    lines = series(cells, name)
    chart = Chart(at_most(lines, "K = "), K, TEST, tuple(lines), log2=True, ticks=ks(cells))
    return Figure("sharing", chart, ("The paper's numbers for sharing were not found.",))


def _optimizers(cells: Sequence[Cell]) -> Figure:
    def name(cell: Cell) -> str:
        adam = cell.config.training.optimizer == "adam"
        words = "Adam on the latents" if adam else "SGD on the scores"
        return f"{words}, {SELECTIONS[cell.config.slots.selection]}"

    greedy = [cell for cell in cells if cell.reading == "greedy"]
    lines = series(greedy, name)
    chart = Chart(at_most(lines, "K = "), K, TEST, tuple(lines), log2=True, ticks=ks(greedy))
    return Figure("optimizers", chart, ("Adam on the latents is slotkit's own; the paper has SGD only.",))


def _finetuning(comparisons: Sequence[RunFolder]) -> Figure:
    """Accuracy of the slot machine, of its finetuned weights and from scratch, by epochs of selection."""
    found: dict[str, dict[int, list[float]]] = {}
    scratch: dict[str, list[float]] = {}
    several = len({folder.config().slots.k for folder in comparisons}) > 1
    for folder in sorted(comparisons, key=lambda folder: folder.config().slots.k):
        which = f", K = {folder.config().slots.k}" if several else ""
        tuned = [found.setdefault(f"{kind}{which}", {}) for kind in ("slot machine", "finetuned")]
        for row in folder.summary()["table"]:
            accuracy = 100 * row["test"]["accuracy"]
            if row["network"] == "from scratch":
                scratch.setdefault(f"learned from scratch, equal epochs in total{which}", []).append(accuracy)
                continue
            tuned[row["epochs"] > 0].setdefault(row["slot_epochs"], []).append(accuracy)
    lines = [
        Line(name, tuple(mean_point(epoch, values) for epoch, values in sorted(by_epoch.items())), at)
        for at, (name, by_epoch) in enumerate(found.items())
    ]
    title = at_most(lines, "epoch ")
    lines += [
        Line(name, (mean_point(0, values),), max(5, len(found)) + at, level=True)
        for at, (name, values) in enumerate(scratch.items())
    ]
    n = f"{many(len(comparisons), 'comparison')} of `slotkit finetune`."
    chart = Chart(title, "epochs of selection before", TEST, tuple(lines))
    return Figure("finetuning", chart, (n, "The paper's numbers for finetuning were not found."))


def _curves(cells: Sequence[Cell]) -> Iterator[Figure]:
    """Validation accuracy by epoch, a figure for each selection: means over the seeds."""
    alike = list({cell.rows[0].folder.path: cell for cell in reversed(cells)}.values())[::-1]
    learned = [cell for cell in alike if cell.config.method == "learned"]
    for selection, short in SELECTIONS.items():
        chosen = [cell for cell in alike if cell.config.slots.selection == selection and cell not in learned]
        lines = [_curve(cell, kind) for kind in (chosen, learned) for cell in kind]
        lines = [line for line in lines if line.points]
        if chosen and lines:
            yield _zoomed(short, lines)


def _name(cell: Cell, alike: Sequence[Cell]) -> str:
    slots, variants = cell.config.slots, [other.variant for other in alike]
    name = f"K = {cell.k}" if cell.config.method == "slot" else weights_of(cell)
    words = [
        name,
        f"sharing {slots.sharing}" if slots.sharing != "none" else "",
        told(cell.variant, variants),
    ]
    return ", ".join(filter(None, words))


def _curve(cell: Cell, alike: Sequence[Cell]) -> Line:
    points = tuple(Point(epoch, value) for epoch, value in validation(cell))
    return Line(_name(cell, alike), points, 0, marks=False)


def _zoomed(short: str, lines: Sequence[Line]) -> Figure:
    """The part of the axis in which curves end, twice as high below: most of it would be the first epochs."""
    best = max(line.points[-1].y for line in lines)
    ends = [line.points[-1].y for line in lines if line.points[-1].y > best - 20]
    floor = max(0.0, min(ends) - 2 * (best - min(ends)) - 1)
    cut = [replace(line, points=tuple(p for p in line.points if p.y >= floor)) for line in lines]
    kept = [replace(line, colour=at) for at, line in enumerate(cut) if line.points]
    title = f"{short}: curves end at {span(ends_of(kept), '{:.1f}'.format, '%')}"
    chart = Chart(title, "epoch", "validation accuracy (%)", tuple(kept), floor=floor)
    note = f"Means over the seeds that are finished. What lies below {floor:.0f} % is cut off."
    return Figure(f"curves-{short.lower()}", chart, (note,))


def validation(cell: Cell) -> list[tuple[int, float]]:
    """(epoch, mean accuracy in % over the finished runs), as far as all of these have come."""
    finished = [row for row in cell.rows if row.status == "finished"]
    by_epoch: dict[int, list[float]] = {}
    for row in finished:
        for entry in row.folder.metrics():
            if entry["kind"] == "epoch":
                by_epoch.setdefault(entry["epoch"], []).append(100 * entry["validation"]["accuracy"])
    of_all = {epoch: values for epoch, values in by_epoch.items() if len(values) == len(finished)}
    return [(epoch, fmean(values)) for epoch, values in sorted(of_all.items())]


def _of_paper(name: str, reads: Mapping[int, Read], colour: int) -> list[Line]:
    points = tuple(Point(k, mean, low, high) for k, (mean, low, high) in reads.items())
    return [Line(name, points, colour, dashed=True)] if points else []


def _n(cells: Sequence[Cell]) -> str:
    counts = sorted({len(cell.values) for cell in cells if cell.values})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _bars(paper: Paper) -> str:
    ours = "Ours: mean and standard deviation over the seeds."
    return f"{ours} The paper's: read off its plots, with the ends of its bars." if paper.greedy else ours
