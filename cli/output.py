"""How progress, tables and results are shown: results on stdout, all else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slotkit.training.experiment import Report
    from slotkit.training.loop import Event


@contextmanager
def progress() -> Iterator[Report]:
    """A reporter of training events: a bar on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield _plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("steps", total=None)

        def show(event: Event) -> None:
            from slotkit.training.journal import line
            from slotkit.training.loop import Step

            if isinstance(event, Step):
                bar.update(task, completed=event.step, total=event.total)
            else:
                bar.console.print(line(event), highlight=False, markup=False)

        yield show


def _plain(event: Event) -> None:
    from slotkit.training.journal import line
    from slotkit.training.loop import Step

    if not isinstance(event, Step):
        print(line(event), file=sys.stderr, flush=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Left-aligned columns of text."""
    lines = [list(headings)] + [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def print_json(value: Any) -> None:
    """A result for a script."""
    print(json.dumps(value, indent=2))


def percent(reading: dict[str, Any] | None) -> str:
    """A reading of a summary as "97.65 %" or "96.90 ± 0.12 % (n = 5)"."""
    if not reading:
        return "-"
    if reading.get("spread") is None:
        return f"{100 * reading['accuracy']:.2f} %"
    return f"{100 * reading['accuracy']:.2f} ± {100 * reading['spread']:.2f} % (n = {reading.get('n', '?')})"
