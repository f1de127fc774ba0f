"""slotkit evaluate."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from slotkit.cli.options import AsJson, DataDirNow, DatasetOfOwn, Device, ModelFactory, Run, RunsDir
from slotkit.cli.output import percent, print_json
from slotkit.cli.table import table


def evaluate(
    run: Run,
    checkpoint: Annotated[str, typer.Option(help="best, last, start, epoch-N or step-N.")] = "best",
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    draws: Annotated[int | None, typer.Option(help="PS: networks drawn for the sampled reading.")] = None,
    data_dir: DataDirNow = None,
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Read test images that are not those of the run, too.")
    ] = False,
    device: Device = None,
    dataset: DatasetOfOwn = None,
    model_factory: ModelFactory = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a checkpoint of a run; under PS in every reading.

    The checkpoint start is the network before the first step, made anew from the seeds: for a slot machine a
    random combination of its options.
    """
    from slotkit.config import Overrides
    from slotkit.errors import SlotkitError
    from slotkit.runs.folder import RunFolder, default_runs_dir
    from slotkit.training.experiment import evaluate as evaluate_run

    if re.fullmatch(r"best|last|start|(epoch|step)-\d+", checkpoint) is None:
        raise SlotkitError(
            f"--checkpoint is {checkpoint!r}. Choose best, last, start (before the first step), epoch-N "
            "(kept with recording.keep_epochs) or step-N (written by `slotkit runs replay`)."
        )
    if split not in ("test", "validation"):
        raise SlotkitError(f"--split is {split!r}. Choose test or validation.")
    changes: dict[str, tuple[str, Any]] = {
        "--draws": ("evaluation.draws", draws),
        "--data-dir": ("data.dir", data_dir),
        "--device": ("training.device", device),
        "--dataset": ("data.dataset", dataset),
    }
    layers = [Overrides(flag, {path: value}) for flag, (path, value) in changes.items() if value is not None]
    folder = RunFolder.open(run, runs_dir or default_runs_dir())
    if draws is not None and not folder.config().probabilistic:
        raise SlotkitError(
            f"--draws is {draws}, for networks drawn from the scores of probabilistic selection, and "
            f"{folder.name} has one network. Leave it out."
        )
    differences: list[str] = []
    read = evaluate_run(folder, checkpoint, split, layers, other_data, differences.append)
    readings = {kind: reading.as_dict() for kind, reading in read.items()}
    if as_json:
        told: dict[str, Any] = {"run": str(folder.path), "checkpoint": checkpoint, "split": split}
        told |= {"other_data": differences} if other_data else {}
        print_json(told | {"readings": readings})
        return
    rows = [(kind, percent(reading), f"{reading['loss']:.4f}") for kind, reading in readings.items()]
    print(f"{folder.name}, {checkpoint} checkpoint, {split} images")
    if differences:
        print(f"on other data than the run's: {'; '.join(differences)}")
    print(table(("reading", "accuracy", "loss (nats)"), rows))
