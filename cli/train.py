"""slotkit train."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.completion import complete_run
from slotkit.cli.finetune import print_comparison
from slotkit.cli.hints import after_training, print_next, to_resume
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
from slotkit.cli.output import percent, print_json, progress, sparse_line
from slotkit.cli.sweep import from_train
from slotkit.cli.table import table

from slotkit.errors import SlotkitError
from slotkit.training.processes import refuse_several

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slotkit.config import Overrides, Resolved
    from slotkit.runs.folder import RunFolder
    from slotkit.training.experiment import Report
    from slotkit.training.processes import Processes

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
    k: Annotated[str | None, typer.Option(metavar="K", help="Options a connection; 2,4 is a sweep.")] = None,
    selection: Annotated[str | None, typer.Option(help="greedy (GS) or probabilistic (PS).")] = None,
    ps_eval: Annotated[
        str | None, typer.Option(help="PS: greedy, sample or last selects the best checkpoint.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of training.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp64.")] = None,
    device: Device = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Only deterministic operations.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of reels, data and training alike.")] = None,
    seeds: Annotated[str | None, typer.Option(help="A sweep: a run each, such as 0,1,2 or 0-4.")] = None,
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
    defaults, --config over the recipe, and flags and --set over both. Several K or seeds make a sweep, as
    `slotkit sweep` does.
    """
    if model is not None and model_factory is not None:
        raise SlotkitError("--model and --model-factory both say which network it is. Give one of them.")
    flags: dict[str, tuple[str, Any]] = {
        "--model": ("model.name", model),
        "--model-factory": ("model.name", model_factory and "own"),
        "--dataset": ("data.dataset", dataset),
        "--data-dir": ("data.dir", data_dir),
        "--download": ("data.download", download or None),
        "--method": ("method", method),
        "--k": ("slots.k", None if _is_list(k) else _number(k)),
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
        others["--k"] = k if _is_list(k) else None
        _check_resume(others | {"--show-config": show_config or None})
        changes = _layers(flags, set_ or [])
        begun = [resume]
        with _processes() as processes:
            again = partial(_resume, resume, changes, processes)
            folder = _run(again, runs_dir, begun, processes)
            if not processes.leads:
                return
        if folder.is_comparison():
            summary = folder.summary() | {"folder": str(folder.path)}
            if as_json:
                print_json(summary)
            else:
                print_comparison(summary, model_factory)
        else:
            _print_result(folder, as_json, model_factory)
        return
    wanted = _seeds(seed, seeds)
    if show_config and _is_list(k):
        flags["--k"] = ("slots.k", _number(k and k.partition(",")[0]))
    if not show_config and (len(wanted) > 1 or _is_list(k)):
        refuse_several("A sweep, which several --k or --seeds ask for,")
        if model_factory is not None:
            asked = f"--k {k}" if _is_list(k) else f"--seeds {seeds}"
            raise SlotkitError(
                f"{asked} asks for several runs, which a sweep trains, and a sweep can't make a network of "
                "one's own. Train one after the other."
            )
        axes = [f"k={k}"] if _is_list(k) else []
        told = None if wanted == [None] else ",".join(map(str, wanted))
        upper = _layers(flags, set_ or [])
        from_train(axes, recipe, config, told, upper, name, runs_dir, as_json)
        return
    resolved = _resolve(recipe, config, flags, set_ or [], wanted[0])
    if show_config:
        from slotkit.training.checks import check_settings

        check_settings(resolved.config)
        print(table(("setting", "value", "origin"), resolved.explain()))
        if len(wanted) > 1 or _is_list(k):
            print("These are the settings of the first of the runs that were asked for.", file=sys.stderr)
        return
    train_resolved(resolved, name, runs_dir, as_json, model_factory)


def train_resolved(
    resolved: Resolved, name: str | None, runs_dir: Path | None, as_json: bool, factory: str | None = None
) -> None:
    """Train one run, and print what came of it. `factory` is --model-factory, if it made the network."""
    begun: list[str] = []
    with _processes() as processes:
        folder = _run(partial(_start, resolved, name, begun, processes), runs_dir, begun, processes)
        if not processes.leads:
            return
    _print_result(folder, as_json, factory)


def _is_list(k: str | None) -> bool:
    return k is not None and "," in k


def _number(k: str | None) -> int | None:
    """What --k says, where it is one number."""
    try:
        return None if k is None else int(k)
    except ValueError:
        raise SlotkitError(f"--k {k} is not a number of options a connection, such as 8.") from None


def _seeds(seed: int | None, seeds: str | None) -> list[int | None]:
    """The seed of each run that is wanted; None is that of the settings."""
    if seeds is None:
        return [seed]
    if seed is not None:
        raise SlotkitError("--seed and --seeds both say which seeds there are. Give one of them.")
    from slotkit.config import parse_seeds

    return [*parse_seeds(seeds)]


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


@contextmanager
def _processes() -> Iterator[Processes]:
    """Those that train together, if torchrun has started several. Of an error only one of them tells."""
    from slotkit.training.processes import ToldElsewhereError, joined

    try:
        with joined() as processes:
            yield processes
    except ToldElsewhereError:
        raise typer.Exit(2) from None


def _run(
    train: Callable[[Path, Report], RunFolder], runs_dir: Path | None, begun: list[str], processes: Processes
) -> RunFolder:
    """Train. `begun` has the run's folder as soon as there is one."""
    from slotkit.runs.folder import default_runs_dir
    from slotkit.training.signals import StoppedError

    try:
        with progress() if processes.leads else nullcontext(lambda event: None) as report:
            return train(runs_dir or default_runs_dir(), report)
    except KeyboardInterrupt:
        way_on = f"{to_resume(begun[-1])} goes on with it." if begun else "No run had begun."
        code, words = 130, f"Interrupted. {way_on}"
    except StoppedError as stopped:
        code, words = 143, f"Stopped: {stopped}. {to_resume(begun[-1])} goes on from there."
    if processes.leads:
        print(words, file=sys.stderr)
    raise typer.Exit(code)


def _start(
    resolved: Resolved,
    name: str | None,
    begun: list[str],
    processes: Processes,
    runs_dir: Path,
    report: Report,
) -> RunFolder:
    from slotkit.training.experiment import run

    def named(folder: RunFolder) -> None:
        begun.append(str(folder.path))

    return run(resolved, runs_dir, name, report, begun=named, processes=processes)


def _resume(
    wanted: str, changes: list[Overrides], processes: Processes, runs_dir: Path, report: Report
) -> RunFolder:
    from slotkit.runs.folder import RunFolder
    from slotkit.training.experiment import resume
    from slotkit.training.finetune import go_on

    folder = RunFolder.open(wanted, runs_dir)
    if folder.is_comparison():
        refuse_several("A comparison of `slotkit finetune`")
        return go_on(folder, changes, report)
    return resume(folder, changes, report, processes)


def _print_result(folder: RunFolder, as_json: bool, factory: str | None) -> None:
    summary = folder.summary() | {"folder": str(folder.path)}
    if as_json:
        print_json([summary])
        return
    told = {"start": "before the first step", "best": f"best epoch ({summary['best_epoch']})"}
    told["last"] = f"last epoch ({summary['epochs']})"
    for which, words in told.items():
        readings = summary["test"].get(which, {}).items()
        if readings:
            accuracies = ", ".join(f"{percent(reading)} {kind}" for kind, reading in readings)
            print(f"test accuracy, {words}: {accuracies}")
    if summary.get("sparse"):
        print(sparse_line(summary["sparse"]))
    print(f"run folder: {summary['folder']}  ({summary['seconds']:.1f} s)")
    print_next(after_training(folder, factory))
