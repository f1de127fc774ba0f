"""slotkit export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from slotkit.cli.options import AsJson, Run, RunsDir
from slotkit.cli.output import print_json, share
from slotkit.cli.table import table


def export(
    run: Run,
    checkpoint: Annotated[str, typer.Option(help="best or last.")] = "best",
    out: Annotated[Path | None, typer.Option(help="Folder to write into. Default: RUN/export.")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also model.onnx (needs slotkit[onnx]).")] = False,
    data_dir: Annotated[
        str | None, typer.Option(help="Where the data of a run without data.json lie now.")
    ] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's network for others: ordinary weights, and the seed with the selected indices."""
    from slotkit.data.identity import listed
    from slotkit.errors import SlotkitError
    from slotkit.runs.folder import RunFolder, default_runs_dir

    if checkpoint not in ("best", "last"):
        raise SlotkitError(f"--checkpoint is {checkpoint!r}. Choose best or last.")
    folder = RunFolder.open(run, runs_dir or default_runs_dir())
    from slotkit.export import SLOT_FILE
    from slotkit.export import export as export_run

    with share("coding the slot file") as report:
        done = export_run(folder, checkpoint, out, onnx, data_dir, report)
    if as_json:
        print_json(done.as_dict())
        return
    print(f"{folder.name}, {checkpoint} checkpoint, {done.reading} weights, in {done.folder}")
    rows = [
        (name, size, f"{done.bits(name):.3f}", f"{done.ratio(name):.1f}") for name, size in done.files.items()
    ]
    print(table(("file", "bytes", "bits/connection", "fp32 / file"), rows))
    if done.network is not None:
        names = done.network["class_names"]
        print(f"inputs: {done.inputs}; classes: {listed(names) if names else 'without names'}")
    if done.earlier:
        print(
            f"{' and '.join(done.earlier)} in {done.folder}: of an earlier export, maybe of another "
            "checkpoint or run. Delete what you don't need.",
            file=sys.stderr,
        )
    if done.index_bytes is None:
        print(f"No {SLOT_FILE}: {done.without}", file=sys.stderr)
    else:
        bits = 8 * done.index_bytes / done.connections
        print(f"selected indices alone: {done.index_bytes} bytes, {bits:.3f} bits a connection instead of 32")
        into = ", into=model" if done.into else ""
        print(f'next: slotkit.load("{done.folder / SLOT_FILE}"{into})   in Python')
