"""slotkit train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.finetune import print_comparison
from slotkit.cli.options import AsJson, DataDir, Device, RunsDir, Set, ShowConfig
from slotkit.cli.output import percent, print_json, progress, table

from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from slotkit.config import Overrides, Resolved
    from slotkit.runs.folder import RunFolder
    from slotkit.training.experiment import Report

SEED_PATHS = ("seeds.reels", "seeds.data", "seeds.training")


def train(
    recipe: Annotated[
        str | None, typer.Option(help="An experiment by name; `slotkit recipes list` shows them.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="lenet, conv2, conv4, conv6, vgg19 or timm/NAME.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="digits, mnist, cifar10, ..., imagefolder:DIR or parquet:DIR.")
    ] = None,
    data_dir: DataDir = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the dataset if it is missing.")] = False,
    method: Annotated[str | None, typer.Option(help="slot, or learned for ordinary weights.")] = None,
    k: Annotated[int | None, typer.Option(help="Options a connection.")] = None,
    selection: Annotated[str | None, typer.Option(help="greedy (GS) or probabilistic (PS).")] = None,
    ps_eval: Annotated[
        str | None, typer.Option(help="PS: greedy, sample or last selects the best checkpoint.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of training.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    device: Device = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Only deterministic operations.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of reels, data and training alike.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Several runs, such as 0,1,2: mean and spread.")] = None,
    set_: Set = None,
    name: Annotated[str | None, typer.Option(help="Name of the run folder.")] = None,
    runs_dir: RunsDir = None,
    trace: Annotated[
        str | None, typer.Option(help="Flight recorder: summary, full (every flip of GS) or off.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a stopped or killed run, to the same bits.")
    ] = None,
    show_config: ShowConfig = False,
    as_json: AsJson = False,
) -> None:
    """Train a slot machine, or the same network with learned weights.

    Without options: LeNet with K = 8 and greedy selection on scikit-learn's digits.
    """
    flags = {
        "--model": ("model.name", model),
        "--dataset": ("data.dataset", dataset),
        "--data-dir": ("data.dir", data_dir),
        "--download": ("data.download", download or None),
        "--method": ("method", method),
        "--k": ("slots.k", k),
        "--selection": ("slots.selection", selection),
        "--ps-eval": ("evaluation.ps", ps_eval),
        "--epochs": ("training.epochs", epochs),
        "--lr": ("training.lr", lr),
        "--precision": ("training.precision", precision),
        "--device": ("training.device", device),
        "--deterministic": ("training.deterministic", deterministic or None),
        "--trace": ("recording.trace", trace),
    }
    if resume is not None:
        others = {"--recipe": recipe, "--name": name, "--seed": seed, "--seeds": seeds}
        _check_resume(others | {"--show-config": show_config or None})
        changes = _layers(flags, set_ or [])
        folder = _run(lambda place, report: _resume(resume, place, changes, report), runs_dir)
        summary = folder.summary() | {"folder": str(folder.path)}
        if folder.is_comparison():
            (print_json if as_json else print_comparison)(summary)
        else:
            (print_json if as_json else _print_result)([summary])
        return
    several = _several(seed, seeds, name)
    resolved = [_resolve(recipe, flags, set_ or [], one) for one in several]
    if show_config:
        print(table(("setting", "value", "origin"), resolved[0].explain()))
        return
    folders = [
        _run(lambda place, report, one=one: _start(one, place, name, report), runs_dir)  # type: ignore[misc]
        for one in resolved
    ]
    (print_json if as_json else _print_result)(
        [folder.summary() | {"folder": str(folder.path)} for folder in folders]
    )


def _several(seed: int | None, seeds: str | None, name: str | None) -> list[int | None]:
    if seeds is None:
        return [seed]
    if seed is not None or name is not None:
        raise SlotkitError("--seeds makes several runs, so --seed and --name can't go with it.")
    from slotkit.config import parse_seeds

    return [*parse_seeds(seeds)]


def _resolve(
    recipe: str | None, flags: dict[str, tuple[str, Any]], assignments: list[str], seed: int | None
) -> Resolved:
    from slotkit import recipes
    from slotkit.config import Overrides, resolve

    upper = _layers(flags, assignments)
    if seed is not None:
        upper.append(Overrides("--seed", dict.fromkeys(SEED_PATHS, seed)))
    lower = [] if recipe is None else recipes.below(recipe, upper)
    return resolve([*lower, *upper])


def _layers(flags: dict[str, tuple[str, Any]], assignments: list[str]) -> list[Overrides]:
    from slotkit.config import Overrides, parse_assignment

    given = [Overrides(flag, {path: value}) for flag, (path, value) in flags.items() if value is not None]
    return [*given, *(parse_assignment(text) for text in assignments)]


def _check_resume(others: dict[str, Any]) -> None:
    given = [flag for flag, value in others.items() if value is not None]
    if given:
        raise SlotkitError(
            f"{', '.join(given)} can't go with --resume: the run has its own settings. Leave it out, or "
            "train a new run."
        )


def _run(train: Callable[[Path, Report], RunFolder], runs_dir: Path | None) -> RunFolder:
    from slotkit.runs.folder import default_runs_dir
    from slotkit.training.experiment import StoppedError

    try:
        with progress() as report:
            return train(runs_dir or default_runs_dir(), report)
    except KeyboardInterrupt:
        print(
            "Interrupted. `slotkit runs list` shows the run; `slotkit train --resume RUN` goes on with it.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    except StoppedError as stopped:
        print(f"Stopped: {stopped}. `slotkit train --resume RUN` goes on from there.", file=sys.stderr)
        raise typer.Exit(143) from None


def _start(resolved: Resolved, runs_dir: Path, name: str | None, report: Report) -> RunFolder:
    from slotkit.training.experiment import run

    return run(resolved, runs_dir, name, report)


def _resume(wanted: str, runs_dir: Path, changes: list[Overrides], report: Report) -> RunFolder:
    from slotkit.runs.folder import RunFolder
    from slotkit.training.experiment import resume
    from slotkit.training.finetune import go_on

    folder = RunFolder.open(wanted, runs_dir)
    return (go_on if folder.is_comparison() else resume)(folder, changes, report)


def _print_result(summaries: list[dict[str, Any]]) -> None:
    from slotkit.training.experiment import mean_and_spread

    for summary in summaries:
        for which in ("best", "last"):
            epoch = summary["best_epoch"] if which == "best" else summary["epochs"]
            readings = ", ".join(
                f"{percent(reading)} {kind}" for kind, reading in summary["test"][which].items()
            )
            print(f"test accuracy, {which} epoch ({epoch}): {readings}")
        print(f"run folder: {summary['folder']}  ({summary['seconds']:.1f} s)")
    if len(summaries) > 1:
        for kind in summaries[0]["test"]["best"]:
            mean, spread = mean_and_spread(
                [summary["test"]["best"][kind]["accuracy"] for summary in summaries]
            )
            over = {"accuracy": mean, "spread": spread, "n": len(summaries)}
            print(f"test accuracy over seeds, best epoch: {percent(over)} {kind}")
    print(f"next: slotkit evaluate {summaries[-1]['folder']}")
    print(
        "      slotkit train --k 64   (more options a connection)   slotkit recipes list   (the "
        "paper's experiments)"
    )
