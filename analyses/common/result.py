"""The result of an analysis: table, figure and verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slotkit.analyses.common.finish import finish
from slotkit.analyses.common.style import house_style

from slotkit.errors import SlotkitError
from slotkit.files import write_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Result:
    """The answer of one analysis.

    Attributes:
        name: of the analysis, and of the files it is saved to.
        table: tidy, one observation a row.
        summary: the verdict in words, with its numbers.
    """

    name: str
    table: pd.DataFrame
    summary: str
    plot: Callable[[pd.DataFrame], Figure]

    @property
    def readings(self) -> dict[str, str] | None:
        """Run -> what the flips and thresholds of the table are of; None of an analysis without them."""
        if "reading" not in self.table:
            return None
        return dict(self.table[["run", "reading"]].drop_duplicates().itertuples(index=False))

    def figure(self) -> Figure:
        """Plotted from the table alone, without pyplot's global state."""
        with house_style():
            figure = self.plot(self.table)
            finish(figure)
            return figure

    def save(self, folder: Path | str) -> list[Path]:
        """Write NAME.csv, NAME.png, NAME.svg and NAME.txt there. Returns their paths."""
        import matplotlib as mpl

        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise SlotkitError(
                f"{folder} can't be made: {fault.strerror}. Choose another folder with --out."
            ) from fault
        figure = self.figure()
        # The same table gives the same file: no date, and ids from a fixed salt.
        with mpl.rc_context({"svg.hashsalt": "slotkit"}):
            writers: dict[str, Callable[[Path], Any]] = {
                "csv": lambda path: self.table.to_csv(path, index=False),
                "png": lambda path: _write_png(figure, path),
                "svg": lambda path: _write_svg(figure, path),
                "txt": lambda path: path.write_text(self.summary + "\n", encoding="utf-8"),
            }
            paths = []
            for ending, write in writers.items():
                paths.append(folder / f"{self.name}.{ending}")
                write_whole(paths[-1], write)
        return paths


def in_lines(sentences: Iterable[str]) -> str:
    """A verdict of these sentences, those that say nothing left out."""
    return "\n".join(filter(None, sentences))


def _write_png(figure: Figure, path: Path) -> None:
    # savefig renders and lays out the figure twice. Doing it once, here, halves the time of an analysis.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(150)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(path)
    figure.set_layout_engine("none")


def _write_svg(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(path, metadata={"Date": None})
