"""slotkit finetune."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.completion import complete_recipe, complete_run
from slotkit.cli.hints import to_resume
from slotkit.cli.options import (
    AsJson,
    ConfigFile,
    DataDirNow,
    DatasetOfOwn,
    Device,
    ModelFactory,
    RunsDir,
    Set,
    ShowConfig,
)
from slotkit.cli.output import percent, print_json, progress
from slotkit.cli.table import table

from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    from slotkit.config import Overrides
    from slotkit.runs.folder import RunFolder


def finetune(
    run: Annotated[
        str,
        typer.Argument(
            help="A slot run: its folder, or its name in the runs folder.", autocompletion=complete_run
        ),
    ],
    epoch: Annotated[
        str, typer.Option(metavar="N[,N...]|best|last", help="Checkpoints to start from.")
    ] = "best",
    step: Annotated[
        int | None, typer.Option(help="Start from the weights after so many steps (needs --trace full).")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs after the latest of the checkpoints; earlier ones get more.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the weights.")] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Also train learned weights for as many epochs in all.")
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe finetune-...; `slotkit recipes list` shows them.", autocompletion=complete_recipe
        ),
    ] = None,
    config: ConfigFile = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of dropout and of the start from scratch. Default: the run's.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Several times, such as 0,1,2 or 0-4: mean and spread.")
    ] = None,
    set_: Set = None,
    name: Annotated[str | None, typer.Option(help="Name of the folder.")] = None,
    runs_dir: RunsDir = None,
    data_dir: DataDirNow = None,
    device: Device = None,
    dataset: DatasetOfOwn = None,
    model_factory: ModelFactory = None,
    show_config: ShowConfig = False,
    as_json: AsJson = False,
) -> None:
    """Train the selected weights of a slot run on, as an ordinary network.

    One folder holds a run for each checkpoint and compares them with the slot machine. All of them,
    and the network from scratch, have as many epochs in all: the slot run's before the checkpoint count.
    """
    from slotkit.runs.folder import RunFolder, default_runs_dir
    from slotkit.training.finetune import parse_checkpoints, settings

    place = runs_dir or default_runs_dir()
    parent = RunFolder.open(run, place)
    if step is not None and epoch != "best":
        raise SlotkitError("--step and --epoch both name where to start. Give one of them.")
    which = parse_checkpoints(epoch) if step is None else [f"step-{step}"]
    flags: dict[str, dict[str, Any]] = {
        "--epochs": {"training.epochs": epochs},
        "--lr": {"training.lr": lr},
        "--data-dir": {"data.dir": data_dir},
        "--dataset": {"data.dataset": dataset},
        "--device": {"training.device": device},
    }
    several = several_seeds(seed, seeds, name)
    # seeds.data stays: it decides which images the scores never saw.
    seeded = [flags | {"--seed": {"seeds.training": one, "seeds.reels": one}} for one in several]
    layers = [_layers(parent, recipe, config, one, set_ or []) for one in seeded]
    if show_config:
        print(table(("setting", "value", "origin"), settings(parent, layers[0]).explain()))
        return
    folders = [_run(parent, which, one, from_scratch, place, name) for one in layers]
    summaries = [folder.summary() | {"folder": str(folder.path)} for folder in folders]
    if as_json:
        print_json(summaries[0] if seeds is None else summaries)
        return
    for summary in summaries:
        print_comparison(summary, model_factory)
    if len(summaries) > 1:
        _print_over_seeds(summaries)


def several_seeds(seed: int | None, seeds: str | None, name: str | None) -> list[int | None]:
    """The seed of each run that is wanted; None is that of the settings."""
    if seeds is None:
        return [seed]
    if seed is not None or name is not None:
        raise SlotkitError("--seeds makes several runs, so --seed and --name can't go with it.")
    from slotkit.config import parse_seeds

    return [*parse_seeds(seeds)]


def _layers(
    parent: RunFolder,
    recipe: str | None,
    config: Path | None,
    flags: dict[str, dict[str, Any]],
    assignments: list[str],
) -> list[Overrides]:
    from slotkit import recipes
    from slotkit.config import Overrides, parse_assignment
    from slotkit.runs.settings_file import read, without_known
    from slotkit.training.finetune import own_layers

    lower = [] if recipe is None else recipes.load(recipe, "finetune").overrides(parent.config().slots.k)
    if config is not None:
        lower.append(without_known(read(config), [*own_layers(parent), *lower]))
    given = [
        Overrides(flag, values)
        for flag, values in flags.items()
        if all(v is not None for v in values.values())
    ]
    return [*lower, *given, *(parse_assignment(text) for text in assignments)]


def _run(
    parent: RunFolder,
    which: list[str],
    layers: list[Overrides],
    scratch: bool,
    runs_dir: Path,
    name: str | None,
) -> RunFolder:
    from slotkit.training.finetune import finetune as finetune_run
    from slotkit.training.signals import StoppedError

    begun: list[str] = []
    try:
        with progress() as report:
            return finetune_run(
                *(parent, runs_dir, which, layers, scratch, name, report),
                lambda folder: begun.append(str(folder.path)),
            )
    except KeyboardInterrupt:
        way_on = f"{to_resume(begun[-1])} goes on with it." if begun else "No run had begun."
        print(f"Interrupted. {way_on}", file=sys.stderr)
        raise typer.Exit(130) from None
    except StoppedError as stopped:
        print(f"Stopped: {stopped}. {to_resume(begun[-1])} goes on with it.", file=sys.stderr)
        raise typer.Exit(143) from None


def print_comparison(summary: dict[str, Any], factory: str | None = None) -> None:
    """The table of a comparison, and what to do next, with --model-factory if that made the network."""
    rows = [
        (
            row["network"],
            row["slot_epochs"],
            row["epochs"],
            row["slot_epochs"] + row["epochs"],
            percent(row["validation"]),
            percent(row["test"]),
        )
        for row in summary["table"]
    ]
    settings = summary["settings"]
    print(table(("network", "slot epochs", "weight epochs", "all", "validation", "test"), rows))
    print(
        f"weights: {settings['training.optimizer']}, lr {settings['training.lr']:g}, momentum "
        f"{settings['training.momentum']:g}, weight decay {settings['training.weight_decay']:g}, "
        f"{settings['training.schedule']} schedule; biases and norms: {settings['learned_others']}; "
        "accuracies at the best epoch by validation"
    )
    print(f"run folder: {summary['folder']}  ({summary['seconds']:.1f} s)")
    own = "" if factory is None else f" --model-factory {factory}"
    branch = shlex.quote(f"{summary['folder']}/{summary['branches'][0]['branch']}")
    print(f"next: slotkit evaluate {branch}{own}")


def _print_over_seeds(summaries: list[dict[str, Any]]) -> None:
    """Mean and spread of each trained network over the comparisons. The slot machine is the same in all."""
    from slotkit.training.experiment import mean_and_spread

    rows = []
    for row in summaries[0]["table"]:
        if row["epochs"] == 0:
            continue
        alike = [one["test"]["accuracy"] for told in summaries for one in told["table"] if _same(one, row)]
        mean, spread = mean_and_spread(alike)
        reading = {"accuracy": mean, "spread": spread, "n": len(alike)}
        rows.append((row["network"], row["slot_epochs"] + row["epochs"], percent(reading)))
        if spread == 0 and row["slot_epochs"]:
            print(
                f"{row['network']}: the same result with every seed. Seeds decide dropout and the start from "
                "scratch; a finetuned network without dropout has one result.",
                file=sys.stderr,
            )
    print(table(("network, over seeds", "epochs", "test"), rows))


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("network", "slot_epochs", "epochs"))
