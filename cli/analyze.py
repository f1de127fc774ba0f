"""slotkit analyze flips|thresholds|weights|ps-variance|gap."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.output import parse_seeds, print_json, progress

from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    from slotkit.analyses.common.result import Result


app = typer.Typer(help="Learn from runs: tables, figures, verdicts.", no_args_is_help=True)

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
    from slotkit.analyses.common.recorded import open_runs
    from slotkit.analyses.flips.compute import analyze

    folders = open_runs(runs, runs_dir)
    _deliver(analyze(folders, within=within), [folder.path for folder in folders], out, as_json)


@app.command("thresholds")
def thresholds(runs: Runs, out: Out = None, runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """How far reels are from their thresholds, how fast they move, what flip rate follows."""
    from slotkit.analyses.common.recorded import open_runs
    from slotkit.analyses.thresholds.compute import analyze

    folders = open_runs(runs, runs_dir)
    _deliver(analyze(folders), [folder.path for folder in folders], out, as_json)


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
    from slotkit.analyses.common.recorded import open_runs
    from slotkit.analyses.weights.compute import analyze

    folders = open_runs(runs, runs_dir)
    found = analyze(folders, checkpoint=checkpoint, moments=moments, sample=sample, data_dir=data_dir)
    _deliver(found, [folder.path for folder in folders], out, as_json)


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
    from slotkit.analyses.common.recorded import open_runs
    from slotkit.analyses.ps_variance.compute import analyze

    folders = open_runs(runs, runs_dir)
    names = [name.strip() for name in checkpoints.split(",")]
    result = analyze(folders, draws, names, split, data_dir, device)
    _deliver(result, [folder.path for folder in folders], out, as_json)


@app.command("gap")
def gap(
    sweep: Annotated[
        str | None,
        typer.Argument(
            metavar="[SWEEP]", help="A sweep that is there: analysed as it is, nothing is trained."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="mnist, cifar10, ..., parquet:DIR. Default: the reference's.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="lenet (default), conv2, conv4, conv6 or vgg19.")] = None,
    selection: Annotated[str | None, typer.Option(help="greedy (default) or probabilistic.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Recipe of the upper end. Default: authors-MODEL-SELECTION.")
    ] = None,
    reproduction: Annotated[
        str | None, typer.Option(help="Recipe of the lower end. Default: ceng501-MODEL-SELECTION.")
    ] = None,
    factors: Annotated[
        str | None, typer.Option(help='Those to vary, as "update rule,option bound". Default: all.')
    ] = None,
    k: Annotated[int | None, typer.Option(help="Options a connection. Default: 8.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of every run. Default: the reference's.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Repetitions of every cell. Default: 0,1.")] = None,
    limit_batches: Annotated[int | None, typer.Option(help="End every epoch after so many batches.")] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Where datasets lie. Default: SLOTKIT_DATA, else ./data.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=V", help="A setting of every run.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the sweep's folder. Default: by model, dataset, K, selection.")
    ] = None,
    out: Out = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Which differing setting of two sources explains their gap: a factorial sweep, trained and ranked.

    The same command again goes on with a sweep that was interrupted, and trains nothing if it is finished.
    """
    from slotkit.analyses.gap.compute import analyze
    from slotkit.analyses.gap.sweep import find

    options = {
        "dataset": dataset,
        "model": model,
        "selection": selection,
        "reference": reference,
        "reproduction": reproduction,
        "factors": None if factors is None else [one.strip() for one in factors.split(",")],
        "k": k,
        "epochs": epochs,
        "seeds": None if seeds is None else parse_seeds(seeds),
    }
    given = {option: value for option, value in options.items() if value is not None}
    settings = {"training.limit_batches": limit_batches, "data.dir": data_dir}
    settings = {path: value for path, value in settings.items() if value is not None}
    if sweep is None:
        place = _train_gap(given, settings, set_ or [], name, runs_dir)
    elif given or settings or set_ or name:
        raise SlotkitError(
            f"{sweep} is analysed as it is, so options of training can't go with it. Leave them out, or "
            "leave out the sweep to train what is missing."
        )
    else:
        place = find(sweep, runs_dir)
    _deliver(analyze(place), [place], out, as_json)


def _train_gap(
    options: dict[str, Any],
    settings: dict[str, Any],
    assignments: list[str],
    name: str | None,
    runs_dir: Path | None,
) -> Path:
    """Plan the sweep, train what it lacks, and say where it lies."""
    from slotkit.analyses.gap.plan import plan
    from slotkit.analyses.gap.sweep import start, train

    from slotkit.config import Overrides, parse_assignment
    from slotkit.runs.folder import default_runs_dir
    from slotkit.training.experiment import StoppedError

    layers = [*([Overrides("flags", settings)] if settings else []), *map(parse_assignment, assignments)]
    planned = plan(**({"seeds": (0, 1)} | options), layers=layers)
    sweep = start(planned, (runs_dir or default_runs_dir()) / (name or planned.name))
    try:
        with progress() as report:
            train(sweep, report)
    except (KeyboardInterrupt, StoppedError) as stopped:
        print(
            f"Stopped. The same command goes on from there; `slotkit analyze gap {sweep.path}` analyses "
            "what is finished.",
            file=sys.stderr,
        )
        raise typer.Exit(130 if isinstance(stopped, KeyboardInterrupt) else 143) from None
    return sweep.path


def _deliver(result: Result, folders: list[Path], out: Path | None, as_json: bool) -> None:
    place = out or (folders[0] / "analyses" if len(folders) == 1 else Path("analyses-out"))
    paths = result.save(place)
    if as_json:
        files = {path.suffix[1:]: str(path) for path in paths}
        print_json(
            {"runs": [str(f) for f in folders], "summary": result.summary.splitlines(), "files": files}
        )
        return
    print(result.summary)
    for path in paths:
        print(path)
