"""How the figures look, and the parts that they share.

A name (a layer, a group of runs) has a colour and a marker of its own in every panel of a figure, so that it
can be found in grey print, too. Where a panel has two quantities, the style of a line says which one it is.
Titles say what was found, axis labels what is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour-blind people can tell these apart, and so can everyone in grey: their lightness (CIE L*) is 27, 66,
# 45, 0 and 57.
COLOURS = ("#004080", "#C9981A", "#B5445A", "#000000", "#4F8CC9")
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "<", "p", ">", "*", "h")
GREY = "0.4"

# Of lines. In a panel of two quantities the second one is dashed; what is no measurement is dotted.
SOLID, DASHED, DOTTED = "-", (0, (4.0, 2.0)), ":"

# Names that can be told apart in one figure. Of more, as many are shown.
MOST = len(MARKERS)

# About so many markers on a line: enough to know it by, few enough to see where it goes.
ALONG = 5

WIDTH, HEIGHT = 3.55, 3.0  # of a panel, in inches
TITLE, NOTE, LABEL, LEGEND = 40, 52, 36, 128  # letters in a line


@dataclass(frozen=True)
class Look:
    colour: Any
    marker: str


def looks(order: Sequence[str]) -> dict[str, Look]:
    """A look for each name: five colours of their own, more along a scale from dark to light."""
    import matplotlib as mpl

    scale = mpl.colormaps["viridis"]
    own = len(order) <= len(COLOURS)
    colours = COLOURS if own else [scale(0.8 * i / (len(order) - 1)) for i in range(len(order))]
    return {name: Look(colours[i], MARKERS[i % len(MARKERS)]) for i, name in enumerate(order)}


def shown(order: Sequence[str]) -> list[str]:
    """At most MOST names: the first, the last and evenly many between."""
    if len(order) <= MOST:
        return list(order)
    return [order[round(i * (len(order) - 1) / (MOST - 1))] for i in range(MOST)]


def panels(rows: int, columns: int, title: str) -> tuple[Figure, np.ndarray[Any, Any]]:
    """An empty figure on matplotlib's Agg canvas and its axes (rows, columns); `title` says what it is of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left")
    return figure, figure.subplots(rows, columns, squeeze=False)


def note(figure: Figure, sentence: str) -> None:
    """A sentence on the whole figure, below what it is of; nothing if it is empty."""
    if sentence:
        figure.suptitle(f"{figure.get_suptitle()}\n{filled(sentence, LEGEND)}", x=0.01, ha="left")


def filled(words: str, letters: int) -> str:
    """Words in lines of so many letters; no line begins with a per cent sign, or ends with a logarithm's."""
    return fill(words.replace(" %", "\N{NO-BREAK SPACE}%").replace("ln ", "ln\N{NO-BREAK SPACE}"), letters)


def say(axes: Axes, finding: str, x: str, y: str) -> None:
    """The title of a panel, which is its finding, and what its axes show."""
    axes.set_title(filled(finding[:1].upper() + finding[1:], TITLE))
    axes.set(xlabel=filled(x, TITLE), ylabel=filled(y, LABEL))


def curves(
    axes: Axes,
    data: pd.DataFrame,
    hue: str,
    order: Sequence[str],
    line: Any = SOLID,
) -> None:
    """Mean over runs of `value` at `at`, a line for each name of `hue`, with bootstrap intervals. A run that
    has numbers before and after a step, and none of it, has the one between them there.
    """
    import numpy as np
    from slotkit.analyses.common.statistics import mean_and_interval

    finite = data[np.isfinite(data["value"]) & np.isfinite(data["at"])]
    if not finite[hue].isin(list(order)).any():
        if not axes.lines:
            axes.text(0.5, 0.5, "no finite values", ha="center", transform=axes.transAxes)
        return
    for i, (name, look) in enumerate(looks(order).items()):
        if not (finite[hue] == name).any():
            continue
        at, values = _on_one_grid(data[(data[hue] == name) & np.isfinite(data["at"])])
        if (np.isfinite(values).sum(axis=1) > 1).any():
            ends = np.array([mean_and_interval(row)[1:] for row in values])
            axes.fill_between(at, *ends.T, color=look.colour, alpha=0.2, linewidth=0)
        axes.plot(
            at,
            np.nanmean(values, axis=1),
            linestyle=line,
            color=look.colour,
            **_marked(look, i, len(order), len(at)),
            label=name,
        )


def _on_one_grid(rows: pd.DataFrame) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Every step of any run (n,), and the value of each run there (n, runs); NaN outside of a run, and where
    it is not finite.

    Runs of other lengths are cut into other pieces. A mean of those that happen to have a step would jump
    from one run to the other.
    """
    import numpy as np

    at = np.unique(rows["at"].to_numpy(np.float64))
    columns = []
    for _, own in rows.groupby("run", sort=False):
        means = own.groupby("at")["value"].mean()
        with np.errstate(invalid="ignore"):
            columns.append(np.interp(at, means.index, means, left=np.nan, right=np.nan))
    values = np.column_stack(columns)
    values[~np.isfinite(values)] = np.nan
    some = np.isfinite(values).any(axis=1)
    return at[some], values[some]


def _marked(look: Look, i: int, names: int, points: int) -> dict[str, Any]:
    """A marker at every point of a short line; along a long one a few, not where other names have theirs."""
    every = 1 if points <= 2 * ALONG else -(-points // ALONG)
    return {"marker": look.marker, "markevery": (i * every // names, every)}


def dots(axes: Axes, data: pd.DataFrame, hue: str, order: Sequence[str]) -> None:
    """Means over runs at a few whole numbers, side by side, a marker for each name, with intervals."""
    import numpy as np
    from slotkit.analyses.common.statistics import mean_and_interval

    for i, (name, look) in enumerate(looks(order).items()):
        by_at = data[data[hue] == name].groupby("at")["value"]
        if not by_at.ngroups:
            continue
        told = np.array([mean_and_interval(values.to_numpy()) for _, values in by_at])  # (n, 3)
        reach = np.nan_to_num(np.abs(told[:, 1:] - told[:, :1]).T)
        x = np.array(list(by_at.groups)) + (i - (len(order) - 1) / 2) * 0.7 / len(order)
        axes.vlines(x, 0, told[:, 0], color=look.colour, linewidth=1)
        axes.errorbar(x, told[:, 0], reach, fmt=look.marker, color=look.colour, elinewidth=1, label=name)


def reference(axes: Axes, value: float) -> None:
    """A dotted line across a panel that is no measurement, such as 1 of a ratio."""
    axes.axhline(value, color=GREY, linestyle=DOTTED, linewidth=1.2, zorder=1)


def logarithmic(axes: Axes, which: str) -> None:
    """Set axis "x" or "y" of finished axes to a logarithmic scale, with numbers that can be read."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    if low > 0 and high < 300 * low:
        # Powers of ten alone would be one or two ticks, and the default's labels overlap.
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if which == "y" or high < 40 * low else (1, 3)))
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())


# Handles of a legend, which may be containers, and their words.
Entries = list[tuple[Any, str]]


def named(order: Sequence[str], words: Mapping[str, str] | None = None) -> Entries:
    """What a legend has of the looks of names; none of a single one."""
    from matplotlib.lines import Line2D

    return [
        (Line2D([], [], color=look.colour, marker=look.marker), (words or {}).get(name, name))
        for name, look in looks(order).items()
        if len(order) > 1
    ]


def legend(figure: Figure, *rows: Entries) -> None:
    """The legend of a figure, below its panels. Each row begins a line; a long one is broken."""
    from matplotlib.lines import Line2D

    told = [row for row in rows if row]
    if not told:
        return
    longest = max(len(words) for row in told for _, words in row)
    columns = min(max(map(len, told)), max(1, LEGEND // (longest + 7)))
    empty = (Line2D([], [], linestyle=""), "")
    lines = [row[at : at + columns] for row in told for at in range(0, len(row), columns)]
    filled = [line + [empty] * (columns - len(line)) for line in lines]
    by_column = [line[column] for column in range(columns) for line in filled]
    figure.legend(
        [handle for handle, _ in by_column],
        [words for _, words in by_column],
        loc="outside lower center",
        ncols=columns,
    )


@contextmanager
def house_style() -> Iterator[None]:
    import matplotlib as mpl
    import seaborn as sns

    with mpl.rc_context(), sns.axes_style("ticks"), sns.plotting_context("paper"):
        mpl.rcParams.update(
            {
                "axes.spines.top": False,
                "axes.spines.right": False,
                "legend.edgecolor": "none",
                "legend.frameon": False,
                "axes.grid": True,
                "grid.color": "0.92",
                "font.size": 9.0,
                "axes.titlesize": 8.5,
                "axes.titleweight": "bold",
                "axes.titlelocation": "left",
                "axes.labelsize": 8.0,
                "xtick.labelsize": 8.0,
                "ytick.labelsize": 8.0,
                "legend.fontsize": 9.0,
                "figure.titlesize": 10.0,
                "lines.linewidth": 1.5,
                "lines.markersize": 4.5,
                "lines.markeredgewidth": 0.0,
            }
        )
        yield
