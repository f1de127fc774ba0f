"""A new analysis is one folder: `slotkit analyze` has its command, its options and its files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from commands import invoke
from slotkit.analyses import registry
from slotkit.cli.analyze import make_app
from typer.testing import CliRunner, Result

from slotkit import analyses

FOLDER = {
    "__init__.py": '''"""Toy: how many names a run has."""
from slotkit.analyses.common.analysis import Analysis, Setting, names

ANALYSIS = Analysis(
    "toy",
    "Count what is given.",
    compute="slotkit.analyses.toy.compute",
    settings=(
        Setting("times", int, 2, "How often."),
        Setting("called", str, None, "Names, with commas.", parse=names),
    ),
)
''',
    "compute.py": """import pandas as pd
from slotkit.analyses.common.result import Result
from slotkit.analyses.common.style import panels


def analyze(runs, times=2, called=None):
    table = pd.DataFrame({"run": [run.name for run in runs], "value": times})
    return Result("toy", table, f"{len(runs)} run, {times} times, {called}", plot)


def plot(table):
    figure, axes = panels(1, 1, "Toy")
    axes[0, 0].plot(table["value"])
    return figure
""",
}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[typer.Typer]:
    """The command line with a folder `toy` beside those of the other analyses."""
    folder = tmp_path / "more" / "toy"
    folder.mkdir(parents=True)
    for name, text in FOLDER.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(analyses, "__path__", [*analyses.__path__, str(folder.parent)])
    app = typer.Typer(rich_markup_mode=None)
    app.add_typer(make_app(registry.find()), name="analyze")
    yield app
    for name in [name for name in sys.modules if name.startswith("slotkit.analyses.toy")]:
        del sys.modules[name]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    place = tmp_path / "runs"
    done = invoke(
        "train", "--set", "training.limit_batches=1", "--epochs", "1", "--name", "a", "--runs-dir", str(place)
    )
    assert done.exit_code == 0
    return place / "a"


def call(app: typer.Typer, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["analyze", *arguments], catch_exceptions=False)


def test_table_figure_and_summary_come_out(toy: typer.Typer, run: Path) -> None:
    done = call(toy, "toy", str(run))
    assert done.exit_code == 0
    assert done.stdout.startswith("1 run, 2 times, None\n")
    for ending in ("csv", "png", "svg", "txt"):
        assert (run / "analyses" / f"toy.{ending}").stat().st_size > 0
    assert (run / "analyses" / "toy.csv").read_text() == "run,value\na,2\n"


def test_its_options_reach_the_function(toy: typer.Typer, run: Path) -> None:
    done = call(
        toy,
        "toy",
        "a",
        "--runs-dir",
        str(run.parent),
        "--times",
        "7",
        "--called",
        "x, y",
        "--out",
        "here",
        "--json",
    )
    told = json.loads(done.stdout)
    assert told["summary"] == ["1 run, 7 times, ['x', 'y']"]
    assert told["files"]["csv"] == "here/toy.csv"


def test_it_is_listed_last_and_shows_its_options(toy: typer.Typer) -> None:
    assert call(toy, "--help").stdout.rstrip().splitlines()[-1].split(maxsplit=1) == [
        "toy",
        "Count what is given.",
    ]
    told = call(toy, "toy", "--help").stdout
    for text in (
        "Count what is given.",
        "--times",
        "[default: 2]",
        "--called",
        "--out",
        "--runs-dir",
        "--json",
    ):
        assert text in told
