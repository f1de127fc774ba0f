"""slotkit analyze flips|thresholds|weights|ps-variance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from slotkit.cli.output import print_json

if TYPE_CHECKING:
    from slotkit.analyses.result import Result

    from slotkit.runs.folder import RunFolder

app = typer.Typer(help="Learn from the traces and checkpoints of one or many runs.", no_args_is_help=True)

Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs: their folders or names.")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for table, figures and summary. Default: RUN/analyses; for several ./analyses-out."
    ),
]
RunsDir = Annotated[Path | None, typer.Option(help="Where runs lie. Default: SLOTKIT_RUNS, else ./runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command("flips")
def flips(
    runs: Runs,
    within: Annotated[
        int, typer.Option(help="Flip-flop a -> b -> a: longest time between the flips, in steps.")
    ] = 50,
    out: Out = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """When and how often reels change their option; wants runs with --trace full."""
    from slotkit.analyses.flips import analyze
    from slotkit.analyses.recorded import open_runs

    folders = open_runs(runs, runs_dir)
    _deliver(analyze(folders, within=within), folders, out, as_json)


@app.command("thresholds")
def thresholds(runs: Runs, out: Out = None, runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """How far reels are from their thresholds, how fast they move, what flip rate follows."""
    from slotkit.analyses.recorded import open_runs
    from slotkit.analyses.thresholds import analyze

    folders = open_runs(runs, runs_dir)
    _deliver(analyze(folders), folders, out, as_json)


@app.command("weights")
def weights(
    runs: Runs,
    checkpoint: Annotated[str, typer.Option(help="Where it ends: last, best or epoch-N.")] = "last",
    moments: Annotated[int, typer.Option(help="Moments between start and end, from a full trace.")] = 16,
    sample: Annotated[
        int, typer.Option(help="Connections of each tensor whose options are looked at.")
    ] = 65536,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where datasets lie now: dead units show on images only.")
    ] = None,
    out: Out = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Which options are selected, magnitudes, norms, dead units, singular values; any slot machine."""
    from slotkit.analyses.recorded import open_runs
    from slotkit.analyses.weights import analyze

    folders = open_runs(runs, runs_dir)
    found = analyze(folders, checkpoint=checkpoint, moments=moments, sample=sample, data_dir=data_dir)
    _deliver(found, folders, out, as_json)


@app.command("ps-variance")
def ps_variance(
    runs: Runs,
    draws: Annotated[int, typer.Option(help="Networks sampled at each checkpoint.")] = 20,
    checkpoints: Annotated[
        str, typer.Option(help="Of start, epoch-N, best, last, with commas; all: start, kept epochs, last.")
    ] = "all",
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    data_dir: Annotated[Path | None, typer.Option(help="Where datasets lie now.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    out: Out = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """How far networks sampled from the scores differ, and why; what greedy, mean and ensemble give."""
    from slotkit.analyses.ps_variance import analyze
    from slotkit.analyses.recorded import open_runs

    folders = open_runs(runs, runs_dir)
    names = [name.strip() for name in checkpoints.split(",")]
    result = analyze(folders, draws, names, split, data_dir, device)
    _deliver(result, folders, out, as_json)


def _deliver(result: Result, folders: list[RunFolder], out: Path | None, as_json: bool) -> None:
    place = out or (folders[0].path / "analyses" if len(folders) == 1 else Path("analyses-out"))
    paths = result.save(place)
    if as_json:
        files = {path.suffix[1:]: str(path) for path in paths}
        print_json(
            {"runs": [str(f.path) for f in folders], "summary": result.summary.splitlines(), "files": files}
        )
        return
    print(result.summary)
    for path in paths:
        print(path)
