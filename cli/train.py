"""slotkit train."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.completion import complete_run
from slotkit.cli.finetune import print_comparison, several_seeds
from slotkit.cli.hints import after_training, print_next
from slotkit.cli.options import (
    AsJson,
    ConfigFile,
    DataDir,
    Device,
    Loggers,
    ModelFactory,
    RecipeName,
    RunsDir,
    Set,
    ShowConfig,
)
from slotkit.cli.output import percent, print_json, progress
from slotkit.cli.table import table

from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from slotkit.config import Overrides, Resolved
    from slotkit.runs.folder import RunFolder
    from slotkit.training.experiment import Report

# Flags that `slotkit sweep` has, too.
SWEEP_FLAGS = ("--dataset", "--data-dir", "--epochs", "--device")

SEED_PATHS = ("seeds.reels", "seeds.data", "seeds.training")


def train(
    recipe: RecipeName = None,
    config: ConfigFile = None,
    model: Annotated[
        str | None, typer.Option(help="lenet, conv2, conv4, conv6, vgg19, vgg-c, ... or timm/NAME.")
    ] = None,
    model_factory: ModelFactory = None,
    dataset: Annotated[
        str | None, typer.Option(help="digits, mnist, cifar10, ..., imagefolder:DIR or parquet:DIR.")
    ] = None,
    data_dir: DataDir = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the dataset if it is missing.")] = False,
    method: Annotated[str | None, typer.Option(help="slot, or learned for ordinary weights.")] = None,
    k: Annotated[str | None, typer.Option(metavar="K", help="Options a connection.")] = None,
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
    seeds: Annotated[str | None, typer.Option(help="Several runs, such as 0,1,2 or 0-4.")] = None,
    set_: Set = None,
    name: Annotated[str | None, typer.Option(help="Name of the run folder.")] = None,
    runs_dir: RunsDir = None,
    trace: Annotated[
        str | None, typer.Option(help="Flight recorder: summary, full (every flip of GS) or off.")
    ] = None,
    logger: Loggers = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a stopped or killed run, to the same bits.",
            autocompletion=complete_run,
        ),
    ] = None,
    show_config: ShowConfig = False,
    as_json: AsJson = False,
) -> None:
    """Train a slot machine, or the same network with learned weights.

    Without options: LeNet with K = 8 and greedy selection on scikit-learn's digits. A recipe is laid over the
    defaults, --config over the recipe, and flags and --set over both.
    """
    flags: dict[str, tuple[str, Any]] = {
        "--model": ("model.name", model),
        "--model-factory": ("model.name", model_factory and "own"),
        "--dataset": ("data.dataset", dataset),
        "--data-dir": ("data.dir", data_dir),
        "--download": ("data.download", download or None),
        "--method": ("method", method),
        "--k": ("slots.k", _number(k)),
        "--selection": ("slots.selection", selection),
        "--ps-eval": ("evaluation.ps", ps_eval),
        "--epochs": ("training.epochs", epochs),
        "--lr": ("training.lr", lr),
        "--precision": ("training.precision", precision),
        "--device": ("training.device", device),
        "--deterministic": ("training.deterministic", deterministic or None),
        "--trace": ("recording.trace", trace),
        "--logger": ("recording.loggers", logger or None),
    }
    if resume is not None:
        others = {"--recipe": recipe, "--config": config, "--name": name, "--seed": seed, "--seeds": seeds}
        _check_resume(others | {"--show-config": show_config or None})
        changes = _layers(flags, set_ or [])
        begun = [resume]
        folder = _run(lambda place, report: _resume(resume, place, changes, report), runs_dir, begun)
        if folder.is_comparison():
            summary = folder.summary() | {"folder": str(folder.path)}
            (print_json if as_json else print_comparison)(summary)
        else:
            _print_result([folder], as_json, model_factory)
        return
    if isinstance(flags["--k"][1], list):
        if model_factory is not None:
            raise SlotkitError(
                f"--k {k} asks for several runs, which a sweep trains, and a sweep can't make a network of "
                "one's own. Train one K after the other."
            )
        places = {"--recipe": recipe, "--config": config, "--name": name, "--runs-dir": runs_dir}
        raise SlotkitError(
            f"--k {k} asks for several runs, and `slotkit train` makes one. A sweep trains them: "
            f"`{_sweep(places, flags, seeds if seed is None else str(seed), set_ or [])}`"
        )
    several = several_seeds(seed, seeds, name)
    resolved = [_resolve(recipe, config, flags, set_ or [], one) for one in several]
    if show_config:
        from slotkit.training.checks import check_settings

        check_settings(resolved[0].config)
        print(table(("setting", "value", "origin"), resolved[0].explain()))
        return
    folders = []
    for one in resolved:
        begun = []
        folders.append(_run(partial(_start, one, name, begun), runs_dir, begun))
    _print_result(folders, as_json, model_factory)


def _number(k: str | None) -> int | list[int] | None:
    """What --k says: one number, or several, which are for a sweep."""
    if k is None:
        return None
    try:
        numbers = [int(one) for one in k.split(",")]
    except ValueError:
        raise SlotkitError(f"--k {k} is not a number of options a connection, such as 8.") from None
    return numbers if len(numbers) > 1 else numbers[0]


def _sweep(
    places: dict[str, Any], flags: dict[str, tuple[str, Any]], seeds: str | None, assignments: list[str]
) -> str:
    """The command that trains a run for each K of the flags, with all else that was typed."""
    from slotkit.config import as_assignment

    told = [*places.items(), ("--seeds", seeds)]
    for flag, (path, value) in flags.items():
        if flag == "--k":
            told.append((flag, ",".join(map(str, value))))
        elif flag in SWEEP_FLAGS:
            told.append((flag, value))
        elif value is not None:
            told.append(("--set", as_assignment(path, value)))
    told += [("--set", text) for text in assignments]
    return shlex.join(
        ["slotkit", "sweep", *(str(one) for pair in told if pair[1] is not None for one in pair)]
    )


def _resolve(
    recipe: str | None,
    config: Path | None,
    flags: dict[str, tuple[str, Any]],
    assignments: list[str],
    seed: int | None,
) -> Resolved:
    from slotkit.config import Overrides, resolve
    from slotkit.runs.settings_file import below

    upper = _layers(flags, assignments)
    if seed is not None:
        upper.append(Overrides("--seed", dict.fromkeys(SEED_PATHS, seed)))
    return resolve([*below(recipe, config, upper), *upper])


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


def _run(train: Callable[[Path, Report], RunFolder], runs_dir: Path | None, begun: list[str]) -> RunFolder:
    """Train. `begun` has the run's folder as soon as there is one."""
    from slotkit.runs.folder import default_runs_dir
    from slotkit.training.experiment import StoppedError

    try:
        with progress() as report:
            return train(runs_dir or default_runs_dir(), report)
    except KeyboardInterrupt:
        way_on = f"`slotkit train --resume {begun[-1]}` goes on with it." if begun else "No run had begun."
        print(f"Interrupted. {way_on}", file=sys.stderr)
        raise typer.Exit(130) from None
    except StoppedError as stopped:
        print(
            f"Stopped: {stopped}. `slotkit train --resume {begun[-1]}` goes on from there.", file=sys.stderr
        )
        raise typer.Exit(143) from None


def _start(
    resolved: Resolved,
    name: str | None,
    begun: list[str],
    runs_dir: Path,
    report: Report,
) -> RunFolder:
    from slotkit.training.experiment import run

    return run(resolved, runs_dir, name, report, begun=lambda folder: begun.append(str(folder.path)))


def _resume(wanted: str, runs_dir: Path, changes: list[Overrides], report: Report) -> RunFolder:
    from slotkit.runs.folder import RunFolder
    from slotkit.training.experiment import resume
    from slotkit.training.finetune import go_on

    folder = RunFolder.open(wanted, runs_dir)
    return (go_on if folder.is_comparison() else resume)(folder, changes, report)


def _print_result(folders: list[RunFolder], as_json: bool, factory: str | None) -> None:
    from slotkit.training.experiment import mean_and_spread

    summaries = [folder.summary() | {"folder": str(folder.path)} for folder in folders]
    if as_json:
        print_json(summaries)
        return
    for summary in summaries:
        told = {"start": "before the first step", "best": f"best epoch ({summary['best_epoch']})"}
        told["last"] = f"last epoch ({summary['epochs']})"
        for which, words in told.items():
            readings = summary["test"].get(which, {}).items()
            if readings:
                accuracies = ", ".join(f"{percent(reading)} {kind}" for kind, reading in readings)
                print(f"test accuracy, {words}: {accuracies}")
        print(f"run folder: {summary['folder']}  ({summary['seconds']:.1f} s)")
    if len(summaries) > 1:
        for kind in summaries[0]["test"]["best"]:
            mean, spread = mean_and_spread(
                [summary["test"]["best"][kind]["accuracy"] for summary in summaries]
            )
            over = {"accuracy": mean, "spread": spread, "n": len(summaries)}
            print(f"test accuracy over seeds, best epoch: {percent(over)} {kind}")
    print_next(after_training(folders, factory))
