"""slotkit report SWEEP|RUN..."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from slotkit.cli.completion import complete_run_or_sweep
from slotkit.cli.options import AsJson, RunsDir
from slotkit.cli.output import print_json


def report(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="SWEEP|RUN...",
            help="Sweeps, runs and comparisons: folders or names.",
            autocompletion=complete_run_or_sweep,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file. Default: report.html in the folder, or here for several."),
    ] = None,
    baseline: Annotated[
        bool, typer.Option(help="Also read networks before training: a random combination of options.")
    ] = True,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """One HTML page: curves and settings of runs; of sweeps the paper's figures, beside its own numbers."""
    from slotkit.reports.page import write

    path = write(names, runs_dir, out, baseline, lambda text: print(text, file=sys.stderr))
    if as_json:
        print_json({"report": str(path)})
    else:
        print(path)
