"""slotkit data list|fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from slotkit.cli.options import DATA_DIR, AsJson
from slotkit.cli.output import print_json
from slotkit.cli.table import table

app = typer.Typer(help="Datasets: which there are, and fetching them.", no_args_is_help=True)

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
