"""How an analysis declares itself; `slotkit analyze` makes its command of that. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Setting:
    """An option of the command and a keyword of the function: `data_dir` is --data-dir, `set_` is --set.

    Attributes:
        type: of one value as it is typed: int, str, Path, list[str], ...
        default: None where there is none.
        help: a sentence for --help.
        metavar: what stands for the value there, if not its type.
        parse: from what was typed to what the function wants.
    """

    name: str
    type: Any
    default: Any
    help: str
    metavar: str | None = None
    parse: Callable[[Any], Any] | None = None

    @property
    def flag(self) -> str:
        """What is typed: --keep-epochs for keep_epochs."""
        return "--" + self.name.rstrip("_").replace("_", "-")

    def value(self, typed: Any) -> Any:
        """What the function gets for what was typed."""
        return typed if typed is None or self.parse is None else self.parse(typed)


@dataclass(frozen=True)
class Folders:
    """What an analysis takes in the place of runs.

    Attributes:
        module: of `find(named, runs_dir) -> paths`, imported when it is needed.
        metavar, help: of the argument.
    """

    module: str
    metavar: str
    help: str


@dataclass(frozen=True)
class Analysis:
    """One analysis: a folder of slotkit/analyses/ has it as `ANALYSIS` in its __init__.py.

    Attributes:
        name: of the command.
        help: a sentence for --help; more paragraphs if need be.
        compute: the module of `analyze(runs, **settings) -> Result`, imported when it is needed.
        settings: the keywords of `analyze`; or, with `trains`, of `start`.
        trains: for an analysis of a sweep that it trains itself, the module of
            `start(runs_dir, **settings) -> sweep`, which has a `path` and trains nothing yet,
            `train(sweep, report)` and `find(name, runs_dir) -> path`; then it is `analyze(path)`.
        folders: for an analysis of other folders than runs; then it is `analyze(paths, **settings)`.
        order: the analyses are listed by this number, then by name.
    """

    name: str
    help: str
    compute: str
    settings: tuple[Setting, ...] = ()
    trains: str | None = None
    folders: Folders | None = None
    order: int = 100

    def attribute(self, name: str) -> Any:
        """`analyze`, for the `__getattr__` of the analysis' package. Raises AttributeError for all else."""
        if name != "analyze":
            raise AttributeError(f"module {self.compute.rpartition('.')[0]!r} has no attribute {name!r}")
        return import_module(self.compute).analyze


# What an analysis that calls the network needs of a run that slotkit.record has made.
OF_OWN_LOOPS = (
    Setting("dataset", str, None, "A dataset for runs of loops of one's own: digits, imagefolder:DIR, ..."),
    Setting(
        "model_factory", str, None, "What makes their network: package.module:function.", metavar="M:FUNCTION"
    ),
)


def names(text: str) -> list[str]:
    """ "start, best" -> ["start", "best"]."""
    return [name.strip() for name in text.split(",")]
