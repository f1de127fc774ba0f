"""slotkit recipes list|show."""

from __future__ import annotations

from typing import Annotated

import typer
from slotkit.cli.completion import complete_recipe
from slotkit.cli.options import AsJson
from slotkit.cli.output import print_json
from slotkit.cli.table import table

app = typer.Typer(
    help="The experiments of the paper, the authors' code and the CENG501 reproduction.", no_args_is_help=True
)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Every recipe and the result to expect."""
    from slotkit.recipes import load, names

    rows = [(name, load(name).expected) for name in names()]
    if as_json:
        print_json([{"recipe": name, "expected": expected} for name, expected in rows])
    else:
        print(table(("recipe", "expected"), rows))


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A recipe's name.", autocompletion=complete_recipe)],
) -> None:
    """One recipe: its source, its differences from the others, its settings."""
    from slotkit.recipes import load

    print(load(name).text, end="")
