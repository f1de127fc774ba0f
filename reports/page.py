"""The page: one HTML file with everything in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from slotkit.reports import paper, runs
from slotkit.reports.chart import swatch
from slotkit.reports.claims import Claim, behind, claims
from slotkit.reports.collect import DRAWN, Cell, Material, Row, ToCome, cells, collect
from slotkit.reports.figures import Figure, figures, ordinary, told, usual, weights_of
from slotkit.reports.untrained import untrained

from slotkit import __version__
from slotkit.config import full_path
from slotkit.errors import SlotkitError, typed
from slotkit.files import write_text
from slotkit.runs.folder import RunFolder
from slotkit.runs.listing import SEEDS, counted, shown
from slotkit.sweeps.plan import words
from slotkit.training.experiment import mean_and_spread

# What a reader has to know of where numbers were made.
CONDITIONS = ("device", "threads", "platform", "python", "torch", "slotkit", "git_commit")


@dataclass(frozen=True)
class Problem:
    """One network on one dataset: its figures, table, claims, and what is missing."""

    title: str
    figures: list[Figure]
    table: list[dict[str, str]]
    headings: list[str]
    claims: list[Claim]
    missing: list[str]


@dataclass(frozen=True)
class Single:
    """A run that was named."""

    row: Row
    figures: list[Figure]
    compared: str
    differences: list[tuple[str, str, str, str]]
    faults: list[str]


def write(
    names: Sequence[str],
    runs_dir: Path | None = None,
    out: Path | None = None,
    baseline: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write the report of runs, sweeps and comparisons, given as folders or names in `runs_dir`.

    Args:
        out: the file; by default report.html in the folder of the one that was named, else here.
        baseline: also evaluate networks before training, a random combination of options.
        tell: called with what takes time, and with what is left out.

    Damaged runs are left out and told. Raises SlotkitError for what is no run, and if nothing is left.
    """
    material = collect(names, runs_dir)
    for sentence in material.left_out():
        tell(sentence)
    path = out or _place(material) / "report.html"
    write_text(path, page(material, baseline, tell))
    return path


def page(material: Material, baseline: bool = True, tell: Callable[[str], None] = lambda text: None) -> str:
    """The HTML of it."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"swatch": swatch}
    environment.filters["coded"] = _coded
    source = (files("slotkit.reports") / "page.html.j2").read_text(encoding="utf-8")
    problems = [_problem(material, problem, baseline, tell) for problem in _compared(material)]
    return environment.from_string(source).render(
        title=f"slotkit: {', '.join(map(_named, material.named))}",
        command=_command(material, baseline),
        typed=typed,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
        sweeps=[
            (_named(sweep.path), sweep.manifest.command or sweep.manifest.source) for sweep in material.sweeps
        ],
        counts=_counts(material),
        left_out=material.left_out(),
        problems=problems,
        comparisons=[_comparison(folder) for folder in material.comparisons],
        singles=[_single(row) for row in material.rows if row.given],
        conditions=_conditions(material),
    )


def _named(name: str | Path) -> str:
    """The folder's own name, also of "."."""
    return RunFolder(Path(name)).name


def _command(material: Material, baseline: bool) -> str:
    """What makes the page again, in the same folder."""
    place = [] if material.runs_dir is None else ["--runs-dir", typed(material.runs_dir)]
    more = [*place, *([] if baseline else ["--no-baseline"])]
    return " ".join(["slotkit report", *map(typed, material.named), *more])


def _coded(text: str) -> Markup:
    """What stands in `backquotes` as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _compared(material: Material) -> list[tuple[str, str]]:
    """The problems that have more than single runs to show."""
    several = len(material.rows) > 1 or material.sweeps
    return material.problems() if several else []


def _problem(
    material: Material, problem: tuple[str, str], baseline: bool, tell: Callable[[str], None]
) -> Problem:
    model, dataset = problem
    rows = [row for row in material.rows if row.problem == problem]
    found = cells(rows)
    known = paper.of(model, dataset)
    greedy = [
        row
        for cell in found
        if usual(cell) and cell.reading == "greedy" and cell.config.slots.selection == "greedy"
        for row in cell.rows
        if row.status == "finished"
    ]
    before, faults = untrained(greedy, tell) if baseline else ({}, [])
    comparisons = [folder for folder in material.comparisons if _problem_of(folder) == problem]
    headings, table = _table(found, known, [one for one in material.to_come() if one.problem == problem])
    missing = [f"Networks before training could not be read: {fault}" for fault in faults]
    missing += [] if baseline else ["Networks before training were not read (--no-baseline)."]
    if not known.greedy:
        missing.append(f"The paper has no numbers for {model} on {dataset}.")
    else:
        missing += behind(found)
    told_claims = claims(model, found, known, before, comparisons) if known.greedy else ()
    return Problem(
        f"{model} on {Path(dataset.partition(':')[2] or dataset).name}",
        list(figures(found, known, before, comparisons)),
        table,
        headings,
        list(told_claims),
        missing,
    )


def _table(
    found: Sequence[Cell], known: paper.Paper, to_come: Sequence[ToCome]
) -> tuple[list[str], list[dict[str, str]]]:
    """(headings, rows) of every cell: mean, spread, n, and the paper's number; then what has not begun."""
    rows = []
    for cell in found:
        config, values = cell.config, cell.values
        slot = config.method == "slot"
        mean, spread = mean_and_spread(values) if values else (None, None)
        unfinished = sum(row.status not in ("finished", "diverged") for row in cell.rows)
        # Which reading of probabilistic selection the paper's plot shows is not known.
        comparable = ordinary(cell) or (usual(cell) and cell.reading in ("greedy", "sample"))
        read = known.read(config.method, config.slots.selection, config.slots.k) if comparable else None
        notes = [f"{cell.diverged} diverged"] if cell.diverged else []
        notes += [f"{unfinished} not finished"] if unfinished else []
        notes += [f"{cell.equal} more with equal seeds, not counted"] if cell.equal else []
        rows.append(
            {
                "method": _method(cell),
                "K": str(config.slots.k) if slot else "",
                "sharing": config.slots.sharing if slot else "",
                "other settings": told(cell.variant, _like(cell, found)),
                "reading": cell.reading,
                "test accuracy (%)": "" if mean is None else f"{mean:.2f}",
                "spread": "" if spread is None else f"{spread:.2f}",
                "before the first step (%)": _before(cell),
                "n": str(len(values)),
                "paper": "" if read is None else f"{read[0]:.2f}",
                "difference": "" if read is None or mean is None else f"{mean - read[0]:+.2f}",
                "notes": ", ".join(notes),
            }
        )
    rows += [_row_to_come(one) for one in to_come]
    headings = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    if len({row["sharing"] for row in rows if row["sharing"]}) < 2 and "sharing" in headings:
        headings.remove("sharing")
    return headings, rows


def _row_to_come(cell: ToCome) -> dict[str, str]:
    slots, slot = cell.config.slots, cell.config.method == "slot"
    return {
        "method": _method(cell),
        "K": str(slots.k) if slot else "",
        "sharing": slots.sharing if slot else "",
        "other settings": words({n: v for n, v in cell.varied.items() if full_path(n) not in DRAWN}),
        "reading": "",
        "test accuracy (%)": "",
        "spread": "",
        "before the first step (%)": "",
        "n": "0",
        "paper": "",
        "difference": "",
        "notes": f"{cell.runs} not begun",
    }


def _method(cell: Cell | ToCome) -> str:
    if cell.config.method == "slot":
        return cell.config.slots.selection
    return weights_of(cell)


def _before(cell: Cell) -> str:
    """Mean test accuracy of the networks before training, of those runs that read it."""
    found = [value for value in (row.before() for row in cell.rows) if value is not None]
    return f"{mean_and_spread(found)[0]:.2f}" if found else ""


def _like(cell: Cell, found: Sequence[Cell]) -> list[dict[str, Any]]:
    """The variants of those cells that would look the same without them."""
    config = cell.config
    return [
        other.variant
        for other in found
        if other.config.method == config.method and other.config.slots.selection == config.slots.selection
    ]


def _single(row: Row) -> Single:
    faults: list[str] = []
    compared, different = row.recipe, list[tuple[str, str, str, str]]()
    try:
        compared, different = runs.differences(row)
    except SlotkitError as fault:
        faults.append(str(fault))
    found, more = runs.dynamics(row)
    faults = list(dict.fromkeys([*faults, *more]))  # flips and thresholds lack the same trace
    return Single(row, [*runs.curves(row), *found], compared, different, faults)


def _comparison(folder: RunFolder) -> dict[str, Any]:
    summary = folder.summary()
    rows = [
        (
            *(row["network"], row["slot_epochs"], row["epochs"]),
            f"{100 * row['validation']['accuracy']:.2f}",
            f"{100 * row['test']['accuracy']:.2f}",
        )
        for row in summary["table"]
    ]
    command = folder.tables()["environment"].get("command", "")
    return {"name": folder.name, "status": folder.status(), "rows": rows, "command": command}


def _problem_of(folder: RunFolder) -> tuple[str, str]:
    config = folder.config()
    return config.model.name, config.data.dataset


def _counts(material: Material) -> str:
    """ "18 runs: 15 finished, 1 diverged, 2 waiting"."""
    statuses = [*(row.status for row in material.rows), *(one.status for one in material.missing.values())]
    return counted(statuses) if statuses else ""


def _conditions(material: Material) -> list[tuple[str, str]]:
    """What the runs say of where they were made: every value there is."""
    places = [row.environment for row in material.rows]
    places += [folder.tables()["environment"] for folder in material.comparisons]
    found = [
        (name, ", ".join(dict.fromkeys(shown(place[name]) for place in places if name in place)))
        for name in CONDITIONS
    ]
    return [(name, words) for name, words in (*found, ("seeds", _seeds(material))) if words]


def _seeds(material: Material) -> str:
    """ "0, 1, 2", or "reels 0; data 0; training 0, 1, 2" where they are not alike."""
    folders = [*(row.folder for row in material.rows), *material.comparisons]
    settings = [folder.settings() for folder in folders]
    of_kind = {
        path.removeprefix("seeds."): ", ".join(
            map(str, sorted({one[path] for one in settings if path in one}))
        )
        for path in SEEDS
    }
    told = {kind: seeds for kind, seeds in of_kind.items() if seeds}
    if len(told) == len(SEEDS) and len(set(told.values())) == 1:
        return next(iter(told.values()))
    return "; ".join(f"{kind} {seeds}" for kind, seeds in told.items())


def _place(material: Material) -> Path:
    folders = [sweep.path for sweep in material.sweeps]
    folders += [row.folder.path for row in material.rows if row.given]
    folders += [folder.path for folder in material.comparisons]
    return folders[0] if len(folders) == 1 else Path()
