"""The arguments and options that several commands have, with their words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from slotkit.cli.completion import complete_recipe, complete_run

Run = Annotated[
    str,
    typer.Argument(help="A run: its folder, or its name in the runs folder.", autocompletion=complete_run),
]
RunsDir = Annotated[Path | None, typer.Option(help="Where runs lie. Default: SLOTKIT_RUNS, else ./runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]

# A text and no Path: it goes into the settings of a run as it was typed.
DATA_DIR = typer.Option(help="Where datasets lie. Default: SLOTKIT_DATA, else ./data.")
DataDir = Annotated[str | None, DATA_DIR]
# For an existing run, whose settings say where its data lay.
DataDirNow = Annotated[str | None, typer.Option(help="Where datasets, or DIR of its dataset, lie now.")]


def _use_factory(context: typer.Context, factory: str | None) -> str | None:
    """Networks of one's own are made by `factory` until the command ends."""
    if factory is not None:
        from slotkit.models import own_network

        context.with_resource(own_network(factory))
    return factory


ModelFactory = Annotated[
    str | None,
    typer.Option(
        metavar="M:FUNCTION",
        help="What makes a network of one's own: package.module:function.",
        callback=_use_factory,
    ),
]
# For a run that slotkit.record has made, whose data slotkit does not have.
DatasetOfOwn = Annotated[
    str | None, typer.Option(help="A dataset for a run of a loop of one's own: digits, imagefolder:DIR, ...")
]

RecipeName = Annotated[
    str | None,
    typer.Option(
        help="An experiment by name; `slotkit recipes list` shows them.", autocompletion=complete_recipe
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.toml", help="Settings from a file, such as a run's config.toml."),
]
Loggers = Annotated[
    list[str] | None,
    typer.Option("--logger", metavar="NAME", help="Also log to tensorboard, wandb or mlflow. Repeatable."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=V", help="Any setting; see --show-config.")
]
ShowConfig = Annotated[
    bool, typer.Option("--show-config", help="Print every setting and its origin, don't train.")
]
