"""slotkit sweep FILE.toml|--grid ..., slotkit sweep status SWEEP."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.options import AsJson, ConfigFile, DataDir, Device, RecipeName, RunsDir, Set
from slotkit.cli.sweep_progress import sweep_progress
from slotkit.cli.sweep_table import show, show_preview
from typer.core import TyperGroup

from slotkit.errors import SlotkitError, typed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slotkit.config import Overrides
    from slotkit.sweeps.contract import Executor, Options
    from slotkit.sweeps.plan import Planned
    from slotkit.sweeps.spec import Spec
    from slotkit.sweeps.sweep import Sweep


class _RunByDefault(TyperGroup):
    """`slotkit sweep FILE.toml` is `slotkit sweep run FILE.toml`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = not args or args[0] in (*self.commands, "-h", "--help")
        return super().parse_args(ctx, args if named else ["run", *args])


app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Train many runs: `slotkit sweep FILE.toml`, or --grid on top of a recipe.",
)


@app.command("run")
def run(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE.toml]", help="What the sweep is: see docs/sweeps.md.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="A=V,W", help="Values of a setting, such as k=2,4,8; all combinations."),
    ] = None,
    k: Annotated[str | None, typer.Option(metavar="K,K", help="As --grid k=2,4,8.")] = None,
    recipe: RecipeName = None,
    config: ConfigFile = None,
    seeds: Annotated[
        str | None, typer.Option(help="Repetitions of every cell, such as 0,1,2 or 0-4.")
    ] = None,
    set_: Set = None,
    dataset: Annotated[str | None, typer.Option(help="As for `slotkit train`.")] = None,
    data_dir: DataDir = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of every run.")] = None,
    device: Device = None,
    executor: Annotated[
        str, typer.Option(help="local (processes), ray (a cluster) or inline (this process).")
    ] = "local",
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at the same time. local: one a core.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each run. Default: 1.")] = None,
    memory: Annotated[
        float | None,
        typer.Option(min=0, max=1e6, help="GB a run needs. Default: what others of its kind took."),
    ] = None,
    address: Annotated[str | None, typer.Option(help="ray: HOST:PORT of the cluster. Default: here.")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="ray: GPUs of each run, such as 0.5.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often a run that fails is tried again.")] = 2,
    changed: Annotated[
        bool, typer.Option("--changed", help="Leave out runs of before that are not asked for any more.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs and how far they are; train and write nothing.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Of the sweep's folder. Default: that of the file.")
    ] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Train what a sweep lacks. The same command again goes on where it was stopped, and loses nothing.

    Runs that are finished are not trained again, others go on from their last checkpoint, and one that fails
    is tried again and its error kept.
    """
    from slotkit.sweeps.contract import Options

    flags = {
        "data.dataset": ("--dataset", dataset),
        "data.dir": ("--data-dir", data_dir),
        "training.epochs": ("--epochs", epochs),
        "training.device": ("--device", device),
    }
    axes = [*(grid or []), *([] if k is None else [f"k={k}"])]
    spec = _spec(file, axes, recipe, config, seeds, _upper(flags, set_ or []), name)
    bytes_each = None if memory is None else int(memory * 1e9)
    options = Options(jobs, threads, bytes_each, address, gpus)
    if dry_run:
        _preview(spec, _place(spec, name, runs_dir), executor, options, changed, as_json)
        return
    carry_out(spec, name, runs_dir, as_json, executor, options, retries, changed)


def carry_out(
    spec: Spec,
    name: str | None,
    runs_dir: Path | None,
    as_json: bool,
    executor: str = "local",
    options: Options | None = None,
    retries: int = 2,
    changed: bool = False,
) -> None:
    """Train what a sweep lacks, and print its table.

    Args:
        name: of the sweep's folder, instead of the one that `spec` says.
        options: of the executor.
        retries, changed: as --retries and --changed of `slotkit sweep`.
    """
    from slotkit.sweeps.contract import Options
    from slotkit.sweeps.plan import plan

    place = _place(spec, name, runs_dir)
    sweep, failed = train_planned(
        plan(spec), spec.source, place, executor, options or Options(), retries, changed
    )
    show(sweep, as_json)
    if failed:
        raise typer.Exit(1)


def _place(spec: Spec, name: str | None, runs_dir: Path | None) -> Path:
    from slotkit.runs.folder import default_runs_dir

    return (runs_dir or default_runs_dir()) / (name or spec.name)


def train_planned(
    planned: list[Planned],
    source: str,
    place: Path,
    executor: str,
    options: Options,
    retries: int = 2,
    changed: bool = False,
) -> tuple[Sweep, bool]:
    """Train what the sweep of these runs lacks.

    Args:
        source: where they are asked for, for sentences.
        place: the sweep's folder.

    Returns:
        The sweep, and whether a run of it failed.
    """
    from slotkit.runs.environment import typed
    from slotkit.sweeps.sweep import start

    with _checked(planned, executor, options) as made:
        sweep, notes = start(place, planned, source, changed, typed(sys.argv))
        for note in notes:
            print(note, file=sys.stderr)
        return sweep, bool(_train(sweep, planned, made, retries, options.memory))


def _preview(spec: Spec, place: Path, executor: str, options: Options, changed: bool, as_json: bool) -> None:
    """Print what `carry_out` would train. It refuses what that refuses."""
    from slotkit.sweeps import registry
    from slotkit.sweeps.plan import plan
    from slotkit.sweeps.sweep import preview

    planned = plan(spec)
    with _checked(planned, executor, options):
        sweep, notes = preview(place, planned, spec.source, changed)
        sweep.check_masks()
    for note in notes:
        print(note, file=sys.stderr)
    show_preview(sweep, registry.at_a_time(executor, options), as_json)


@contextmanager
def _checked(planned: list[Planned], executor: str, options: Options) -> Iterator[Executor]:
    """The executor, when nothing of the runs is to be refused; stopped at the end."""
    from slotkit.sweeps import registry
    from slotkit.sweeps.plan import check

    check(planned, here=executor != "ray")
    made = registry.make(executor, options)
    try:
        yield made
    finally:
        made.stop()


def from_train(
    axes: list[str],
    recipe: str | None,
    config: Path | None,
    seeds: str | None,
    upper: list[Overrides],
    name: str | None,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    """The sweep that `slotkit train --k 2,4 --seeds 0-4` asks for, here, a process a core."""
    carry_out(_spec(None, axes, recipe, config, seeds, upper, name), name, runs_dir, as_json)


@app.command("status")
def status(
    sweep: Annotated[str, typer.Argument(help="A sweep: its folder, or its name in the runs folder.")],
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """How far a sweep is: its runs, their errors, and a table of what is finished. Nothing is written."""
    from slotkit.sweeps.sweep import Sweep, find

    found = Sweep.open(find(sweep, runs_dir))
    show(found, as_json, runs=True)


def _spec(
    file: Path | None,
    grid: list[str],
    recipe: str | None,
    config: Path | None,
    seeds: str | None,
    upper: list[Overrides],
    name: str | None,
) -> Spec:
    from slotkit.config import parse_seeds
    from slotkit.runs import settings_file
    from slotkit.sweeps.spec import RECIPE, from_options, parse_axis, read

    numbers = parse_seeds(seeds) if seeds is not None else None
    if file is None:
        if not grid and numbers is None:
            raise SlotkitError("A sweep needs a FILE.toml, or --grid (or --seeds) with what is to be varied.")
        base = [] if config is None else [settings_file.read(config)]
        # Over a recipe, also one that is varied, a setting of the file counts that is at its default.
        if recipe is None and RECIPE not in [parse_axis(text)[0] for text in grid]:
            base = [settings_file.without_known(one, []) for one in base]
        return from_options(grid, recipe, numbers, upper, name, base)
    given = {"--grid": grid, "--recipe": recipe, "--config": config}
    flag = next((flag for flag, value in given.items() if value), None)
    if flag:
        raise SlotkitError(f"{flag} can't go with {file}: write it there.")
    return read(file, numbers, upper)


def _upper(flags: dict[str, tuple[str, Any]], assignments: list[str]) -> list[Overrides]:
    from slotkit.config import Overrides, parse_assignment

    given = [Overrides(flag, {path: value}) for path, (flag, value) in flags.items() if value is not None]
    return [*given, *(parse_assignment(text) for text in assignments)]


def _train(sweep: Sweep, planned: Any, executor: Any, retries: int, memory: int | None) -> list[Any]:
    from slotkit.sweeps.run import train
    from slotkit.training.signals import StoppedError

    try:
        with sweep_progress() as report:
            return [*train(sweep, planned, executor, report, retries, memory)]
    except (KeyboardInterrupt, StoppedError) as stopped:
        print(
            "Stopped: what was in progress is saved. The same command goes on from there; "
            f"`slotkit sweep status {typed(sweep.path)}` shows how far it is.",
            file=sys.stderr,
        )
        raise typer.Exit(130 if isinstance(stopped, KeyboardInterrupt) else 143) from None
