"""slotkit runs list|show|replay."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.completion import complete_run, complete_sweep
from slotkit.cli.options import AsJson, Run, RunsDir
from slotkit.cli.output import percent, print_json, sparse_line
from slotkit.cli.table import table

from slotkit.errors import are, many, typed

if TYPE_CHECKING:
    from slotkit.runs.listing import Listed

# The networks of which a summary has test accuracies, in words.
WHICH = {"start": "before the first step", "best": "best epoch", "last": "last epoch"}

app = typer.Typer(help="Look at runs.", no_args_is_help=True)


@app.command("list")
def list_(
    sweep: Annotated[
        str | None,
        typer.Argument(
            metavar="[SWEEP]",
            help="The runs of this sweep, not those in runs/.",
            autocompletion=complete_sweep,
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="A=V", help="Only runs with k=8, lr=0.1, seed=0, status=finished, ..."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="A", help="By test, validation, seconds, k, lr, ...; -test: the best first."),
    ] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Every run: its settings in short, how far it is, accuracies, what tells it apart. Writes nothing."""
    from slotkit.runs.folder import default_runs_dir
    from slotkit.runs.listing import listed
    from slotkit.sweeps.sweep import Sweep, find, sweeps_in

    place, left_out = runs_dir or default_runs_dir(), set[str]()
    if sweep is not None:
        place = find(sweep, runs_dir)
        left_out = {one.name for one in Sweep.open(place).manifest.runs.values() if not one.wanted}
    rows = listed(place, where or [], sort, left_out)
    for row in rows:
        if row.fault:
            print(row.fault, file=sys.stderr)
    if as_json:
        print_json([_row(row, as_text=False) for row in rows])
        return
    texts = [_row(row) for row in rows]
    if texts:
        print(table(tuple(texts[0]), [tuple(row.values()) for row in texts]))
    else:
        which = f" with {' and '.join(where)}" if where else ""
        print(f"There are no runs{which} in {place}. `slotkit train` makes one.")
    if left_out:
        n = len(left_out)
        print(f"{many(n, 'run')} of before {are(n)} not listed: the sweep does not ask for them any more.")
    for one in sweeps_in(place) if sweep is None else []:
        path = typed(one.name if runs_dir is None else one)
        print(f"sweep {one.name}: `slotkit sweep status {path}`, `slotkit runs list {path}`")


@app.command("show")
def show(
    run: Run,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """One run: settings, where they came from, summary, last epochs."""
    from slotkit.runs.folder import RunFolder, default_runs_dir

    folder = RunFolder.open(run, runs_dir or default_runs_dir())
    tables, summary, data = folder.tables(), folder.summary(), folder.data()
    epochs = [entry for entry in folder.metrics() if entry["kind"] == "epoch"]
    if as_json:
        told = {"folder": str(folder.path), "config": tables, "data": data and data.model_dump()}
        print_json({**told, "summary": summary, "epochs": epochs})
        return
    print(f"{folder.path}: {folder.status()}")
    origins = tables["origins"]
    rows = [(path, value, origins.get(path, "default")) for path, value in folder.settings().items()]
    print(table(("setting", "value", "origin"), [row for row in rows if row[1] is not None]))
    print(table(("environment", ""), tables["environment"].items()))
    if data is not None:
        print(table(("data", ""), data.in_short()))
    if summary.get("kind") == "recorded":
        print(f"{summary['steps']:,} steps of a loop of one's own")
        print(table(("logged last", ""), [(name, f"{v:.6g}") for name, v in summary["logged"].items()]))
        return
    told_epochs = [
        (entry["epoch"], f"{entry['loss']:.4f}", percent(entry["validation"]), f"{entry['lr']:.4g}")
        for entry in epochs[-5:]
    ]
    print(table(("epoch", "loss (nats)", "validation", "lr"), told_epochs))
    if summary.get("sparse"):
        print(sparse_line(summary["sparse"]))
    for which, readings in summary.get("test", {}).items():
        for kind, reading in readings.items():
            print(f"test accuracy, {WHICH.get(which, which)}: {percent(reading)} {kind}")


@app.command("replay")
def replay(
    run: Annotated[
        str, typer.Argument(help="A run that was trained with --trace full.", autocompletion=complete_run)
    ],
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
    print(f"next: slotkit evaluate {typed(folder.path)} --checkpoint {path.stem}")


def _learned(row: Listed) -> str:
    """ "learned", or "rigl 0.05, R_s 0.312" of a run with a mask that changes."""
    sparse = row.summary.get("sparse")
    if sparse is None:
        return "learned"
    method = row.settings.get("sparse.method")
    return f"{method} {sparse['density']:.3g}, R_s {sparse['explored']:.3f}"


def _row(row: Listed, as_text: bool = True) -> dict[str, Any]:
    """A run for the table or, with what differs as it is, for --json."""
    from slotkit.runs.listing import SHOWN, shown

    settings, summary = row.settings, row.summary
    differs = dict(row.differs or {})
    told = {"run": row.name, "model": "-", "dataset": "-", "method": "-"}
    told |= {"status": row.status, "epochs": "-", "validation": "-", "test": "-"}
    if settings:
        method, model, dataset, k, selection = (settings.get(path, "-") for path in SHOWN[:5])
        epochs = f"{summary.get('epochs', 0)}/{settings[SHOWN[5]]}" if SHOWN[5] in settings else "-"
        told |= {
            "model": model,
            "dataset": dataset,
            "method": f"K={k} {selection}" if method == "slot" else _learned(row),
            "epochs": epochs,
            "validation": percent(row.validation),
            "test": percent(row.test),
        }
    words = ", ".join(f"{name} {shown(value)}" for name, value in differs.items())
    return told | {"differs": words if as_text else differs}
