"""The `slotkit` command."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from slotkit.cli import (
    analyze,
    bench,
    data,
    evaluate,
    export,
    finetune,
    masks,
    plan,
    recipes,
    report,
    runs,
    sweep,
    train,
)
from slotkit.cli.output import check_utf8, print_anything, show_log

from slotkit.errors import SlotkitError
from slotkit.memory_policy import keep_freed_memory
from slotkit.training.processes import refuse_several
from slotkit.wait_policy import bound_waiting

app = typer.Typer(
    name="slotkit",
    help="Slot machines: networks of fixed random weights, trained by choosing among them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("train")(train.train)
app.command("finetune")(finetune.finetune)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("plan")(plan.plan)
app.command("bench")(bench.bench)
app.add_typer(sweep.app, name="sweep")
app.command("report")(report.report)
app.add_typer(runs.app, name="runs")
app.add_typer(analyze.app, name="analyze")
app.add_typer(masks.app, name="masks")
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")


def _print_version(asked: bool) -> None:
    if asked:
        from slotkit import __version__

        print(f"slotkit {__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Slot machines: networks of fixed random weights, trained by choosing among them."""
    show_log()
    if context.invoked_subcommand != "train":
        refuse_several(f"`slotkit {context.invoked_subcommand}`")


def main() -> None:
    """Run a command; what a user can put right is one sentence on stderr and exit code 2."""
    # A command opens no window, and a backend that a notebook left in the environment may not be here.
    os.environ["MPLBACKEND"] = "agg"
    bound_waiting(os.environ)  # before a command imports torch
    keep_freed_memory(os.environ)
    print_anything()
    try:
        check_utf8()
        app()
    except SlotkitError as fault:
        print(f"Error: {fault}", file=sys.stderr)
        sys.exit(2)
