"""slotkit data list|fetch|show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from slotkit.cli.options import DATA_DIR, AsJson, ConfigFile, RecipeName, RunsDir, Set
from slotkit.cli.options import DataDir as DataDirText
from slotkit.cli.output import print_json
from slotkit.cli.table import table

from slotkit.errors import SlotkitError

app = typer.Typer(
    help="Datasets: which there are, fetching them, and looking at what a network sees.", no_args_is_help=True
)

DataDir = Annotated[Path | None, DATA_DIR]


@app.command("list")
def list_(
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Every dataset, and whether it is there."""
    from slotkit.data.sources import SOURCES, is_present, resolve_data_dir

    place = resolve_data_dir(data_dir)
    rows = [
        (
            source.name,
            "yes" if is_present(name, place) else source.download_size or "-",
            source.image_shape,
            source.description,
        )
        for name, source in SOURCES.items()
    ]
    if as_json:
        print_json(
            [dict(zip(("dataset", "there", "image", "description"), row, strict=True)) for row in rows]
        )
        return
    print(f"in {place}:")
    print(table(("dataset", "there, or download", "image", "description"), rows))


@app.command("fetch")
def fetch(
    dataset: Annotated[str, typer.Argument(help="A dataset's name.")], data_dir: DataDir = None
) -> None:
    """Download a dataset."""
    from slotkit.data.sources import fetch as fetch_dataset
    from slotkit.data.sources import resolve_data_dir

    place = resolve_data_dir(data_dir)
    fetch_dataset(dataset, place)
    print(f"{dataset} is in {place}.")


@app.command("show")
def show(
    recipe: RecipeName = None,
    config: ConfigFile = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="A run, whose settings are taken.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="digits, mnist, cifar10, ..., imagefolder:DIR or parquet:DIR.")
    ] = None,
    data_dir: DataDirText = None,
    augment: Annotated[
        str | None, typer.Option(help="Augmentations with + between them, such as resized-crop+flip.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels of an image's edge.")] = None,
    set_: Set = None,
    split: Annotated[str, typer.Option(help="train, validation or test images.")] = "train",
    epoch: Annotated[int, typer.Option(min=1, help="Which epoch's training images.")] = 1,
    images: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 40,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Default: the dataset's name and the split.")
    ] = None,
    runs_dir: RunsDir = None,
) -> None:
    """A contact sheet (PNG) of what a network will see, after augmentation, with labels.

    Takes the settings of `slotkit train`: a recipe, a file, a run, and flags over them.
    """
    from slotkit.config import Overrides, parse_assignment, resolve
    from slotkit.runs.folder import RunFolder, default_runs_dir
    from slotkit.runs.settings_file import below
    from slotkit.training.prepare import own_settings
    from slotkit.training.showing import shown

    if run is not None and (recipe, config) != (None, None):
        raise SlotkitError("--run can't go with --recipe or --config: the run has its own settings.")
    flags = {
        "--dataset": ("data.dataset", dataset),
        "--data-dir": ("data.dir", data_dir),
        "--augment": ("data.augment", augment),
        "--size": ("data.size", size),
    }
    upper = [Overrides(flag, {path: value}) for flag, (path, value) in flags.items() if value is not None]
    upper += [parse_assignment(text) for text in set_ or []]
    if run is None:
        lower = below(recipe, config, upper)
    else:
        lower = [own_settings(RunFolder.open(run, runs_dir or default_runs_dir()))]
    found = shown(resolve([*lower, *upper]), images, split, epoch, run is not None)
    path = out or Path(f"{found.name}-{split}.png")
    found.save(path)
    print(f"{found.title}")
    print(f"contact sheet: {path}")
