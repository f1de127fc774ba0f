"""slotkit analyze: a command for every analysis of the registry."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.analyses import registry
from slotkit.cli.completion import complete_run, complete_sweep
from slotkit.cli.options import AsJson, RunsDir
from slotkit.cli.output import print_json
from slotkit.cli.sweep_progress import sweep_progress

from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    from slotkit.analyses.common.analysis import Analysis, Folders, Setting
    from slotkit.analyses.common.result import Result


Runs = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Runs: their folders or names.", autocompletion=complete_run),
]
Sweep = Annotated[
    str | None,
    typer.Argument(
        metavar="[SWEEP]",
        help="A sweep that is there: analysed as it is, nothing is trained.",
        autocompletion=complete_sweep,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for table, figures and summary. Default: RUN/analyses; for several ./analyses-out."
    ),
]


def make_app(analyses: Iterable[Analysis]) -> typer.Typer:
    """`slotkit analyze` with a command for each of them."""
    app = typer.Typer(help="Learn from runs: tables, figures, verdicts.", no_args_is_help=True)
    for analysis in analyses:
        app.command(analysis.name, help=analysis.help)(_command(analysis))
    return app


def _command(analysis: Analysis) -> Callable[..., None]:
    """A function whose signature says what typer is to parse."""

    def command(out: Path | None, runs_dir: Path | None, as_json: bool, **typed: Any) -> None:
        work = _on_sweep if analysis.trains is not None else _on_folders if analysis.folders else _on_runs
        result, places = work(analysis, runs_dir, **typed)
        _deliver(result, places, out, as_json)

    made: Any = command
    made.__signature__ = Signature(list(_parameters(analysis)))
    return command


def _parameters(analysis: Analysis) -> Iterator[Parameter]:
    if analysis.folders is not None:
        yield _parameter("runs", _folders(analysis.folders))
    else:
        yield _parameter("runs", Runs) if analysis.trains is None else _parameter("sweep", Sweep, None)
    for setting in analysis.settings:
        yield _parameter(setting.name, _annotation(setting), setting.default)
    yield _parameter("out", Out, None)
    yield _parameter("runs_dir", RunsDir, None)
    yield _parameter("as_json", AsJson, False)


def _parameter(name: str, annotation: Any, default: Any = Parameter.empty) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _folders(folders: Folders) -> Any:
    annotated: Any = Annotated
    return annotated[list[str], typer.Argument(metavar=folders.metavar, help=folders.help)]


def _annotation(setting: Setting) -> Any:
    option = typer.Option(setting.flag, help=setting.help, metavar=setting.metavar)
    annotated: Any = Annotated
    return annotated[setting.type if setting.default is not None else setting.type | None, option]


def _on_runs(
    analysis: Analysis, runs_dir: Path | None, runs: list[str], **typed: Any
) -> tuple[Result, list[Path]]:
    from slotkit.analyses.common.recorded import open_runs

    folders = open_runs(runs, runs_dir)
    values = {setting.name: setting.value(typed[setting.name]) for setting in analysis.settings}
    return analysis.attribute("analyze")(folders, **values), [folder.path for folder in folders]


def _on_folders(
    analysis: Analysis, runs_dir: Path | None, runs: list[str], **typed: Any
) -> tuple[Result, list[Path]]:
    assert analysis.folders is not None
    places = import_module(analysis.folders.module).find(runs, runs_dir)
    values = {setting.name: setting.value(typed[setting.name]) for setting in analysis.settings}
    return analysis.attribute("analyze")(places, **values), places


def _on_sweep(
    analysis: Analysis, runs_dir: Path | None, sweep: str | None, **typed: Any
) -> tuple[Result, list[Path]]:
    given = {
        setting.name: setting.value(typed[setting.name])
        for setting in analysis.settings
        if typed[setting.name] not in (setting.default, [])
    }
    if sweep is None:
        place = _train(analysis, runs_dir, given)
    elif given:
        raise SlotkitError(
            f"{sweep} is analysed as it is, so options of training can't go with it. Leave them out, or "
            "leave out the sweep to train what is missing."
        )
    else:
        place = _engine(analysis).find(sweep, runs_dir)
    return analysis.attribute("analyze")(place), [place]


def _train(analysis: Analysis, runs_dir: Path | None, given: dict[str, Any]) -> Path:
    """Start the sweep, train what it lacks, and say where it lies."""
    from slotkit.training.signals import StoppedError

    engine = _engine(analysis)
    sweep = engine.start(runs_dir, **given)
    path: Path = sweep.path
    try:
        with sweep_progress() as report:
            engine.train(sweep, report)
    except (KeyboardInterrupt, StoppedError) as stopped:
        print(
            "Stopped. The same command goes on from there; "
            f"`slotkit analyze {analysis.name} {shlex.quote(str(path))}` analyses what is finished.",
            file=sys.stderr,
        )
        raise typer.Exit(130 if isinstance(stopped, KeyboardInterrupt) else 143) from None
    return path


def _engine(analysis: Analysis) -> Any:
    assert analysis.trains is not None
    return import_module(analysis.trains)


def _deliver(result: Result, folders: list[Path], out: Path | None, as_json: bool) -> None:
    place = out or (folders[0] / "analyses" if len(folders) == 1 else Path("analyses-out"))
    paths = result.save(place)
    if as_json:
        files = {path.suffix[1:]: str(path) for path in paths}
        told = {"runs": [str(f) for f in folders], "summary": result.summary.splitlines(), "files": files}
        print_json(told if result.readings is None else {**told, "readings": result.readings})
        return
    print(result.summary)
    for path in paths:
        print(path)


app = make_app(registry.find())
