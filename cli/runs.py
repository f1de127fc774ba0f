"""slotkit runs list|show|replay."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.options import AsJson, Run, RunsDir
from slotkit.cli.output import percent, print_json, table

from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    from slotkit.runs.folder import RunFolder

app = typer.Typer(help="Look at runs.", no_args_is_help=True)


@app.command("list")
def list_(runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """Every run: its settings in short, how far it is, its accuracies. Nothing is written."""
    from slotkit.runs.folder import default_runs_dir, list_runs

    place = runs_dir or default_runs_dir()
    rows = []
    for folder in list_runs(place):
        try:
            rows.append(_row(folder))
        except SlotkitError as fault:
            rows.append(_damaged_row(folder))
            print(fault, file=sys.stderr)
    if as_json:
        print_json(rows)
    elif rows:
        print(table(tuple(rows[0]), [tuple(row.values()) for row in rows]))
    else:
        print(f"There are no runs in {place}. `slotkit train` makes one.")


@app.command("show")
def show(
    run: Run,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """One run: settings, where they came from, summary, last epochs."""
    from slotkit.config import Resolved
    from slotkit.runs.folder import RunFolder, default_runs_dir

    folder = RunFolder.open(run, runs_dir or default_runs_dir())
    tables, summary, data = folder.tables(), folder.summary(), folder.data()
    epochs = [entry for entry in folder.metrics() if entry["kind"] == "epoch"]
    if as_json:
        told = {"folder": str(folder.path), "config": tables, "data": data and data.model_dump()}
        print_json({**told, "summary": summary, "epochs": epochs})
        return
    print(f"{folder.path}: {folder.status()}")
    settings = Resolved(folder.config(), tables["origins"]).explain()
    print(table(("setting", "value", "origin"), [row for row in settings if row[1] is not None]))
    print(table(("environment", ""), tables["environment"].items()))
    if data is not None:
        print(table(("data", ""), data.in_short()))
    rows = [
        (entry["epoch"], f"{entry['loss']:.4f}", percent(entry["validation"]), f"{entry['lr']:.4g}")
        for entry in epochs[-5:]
    ]
    print(table(("epoch", "loss (nats)", "validation", "lr"), rows))
    for which, readings in summary.get("test", {}).items():
        for kind, reading in readings.items():
            print(f"test accuracy, {which} epoch: {percent(reading)} {kind}")


@app.command("replay")
def replay(
    run: Annotated[str, typer.Argument(help="A run that was trained with --trace full.")],
    step: Annotated[int, typer.Option(help="After how many steps; 0 is before the first.")],
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the exact weights of any step from seed and flips, as a checkpoint."""
    from slotkit.recording.replay import selections, write_checkpoint
    from slotkit.runs.folder import RunFolder, default_runs_dir

    folder = RunFolder.open(run, runs_dir or default_runs_dir())
    start, then = selections(folder, 0), selections(folder, step)
    changed = {name: int((start[name] != then[name]).sum()) for name in start}
    path = write_checkpoint(folder, step)
    if as_json:
        print_json({"run": str(folder.path), "step": step, "checkpoint": str(path), "changed": changed})
        return
    rows = [
        (name, then[name].numel(), count, f"{100 * count / then[name].numel():.2f} %")
        for name, count in changed.items()
    ]
    print(table(("tensor", "connections", "not as at the start", "share"), rows))
    print(f"checkpoint: {path}")
    print(f"next: slotkit evaluate {folder.path} --checkpoint {path.stem}")


def _row(folder: RunFolder) -> dict[str, Any]:
    config, summary = folder.config(), folder.summary()
    slots = config.slots
    test = summary.get("test", {}).get("best", {})
    return {
        "run": folder.name,
        "model": config.model.name,
        "dataset": config.data.dataset,
        "method": f"K={slots.k} {slots.selection}" if config.method == "slot" else "learned",
        "status": folder.status(),
        "epochs": f"{summary.get('epochs', 0)}/{config.training.epochs}",
        "validation": percent(summary.get("validation", {}).get("best")),
        "test": percent(next(iter(test.values()), None)),
    }


def _damaged_row(folder: RunFolder) -> dict[str, Any]:
    blank = dict.fromkeys(("model", "dataset", "method", "status", "epochs", "validation", "test"), "-")
    return {"run": folder.name, **blank, "status": "damaged"}
