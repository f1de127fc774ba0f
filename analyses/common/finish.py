"""What is done to every finished figure: lines that hide each other, and axes that don't begin at zero."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from slotkit.analyses.common.findings import axis_start, short
from slotkit.analyses.common.style import NOTE, SOLID, filled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

# Nearer than this share of a panel's height, about the width of a line, one line hides the other.
NEAR = 0.006

# Of coinciding lines each is seen for so long, in line widths, before the next one is.
DASH = 5.0

# By matplotlib's name of their style; points and dotted references are left as they are.
KINDS: dict[Any, str] = {"-": "lines", "--": "dashed lines"}

SHARES = re.compile(r"%|accuracy|share")


def finish(figure: Figure) -> None:
    """Show both of two lines that coincide, mark axes of shares that don't begin at zero, and say so. Names
    with dollars in them stay as they are.
    """
    for axes in figure.axes:
        notes = [filled(note, NOTE) for note in (*_zoomed(axes), *_coinciding(axes))]
        if notes:
            below = "\n".join(notes)
            axes.set_title(f"{axes.get_title(loc='left')}", pad=4 + 11 * len(below.splitlines()))
            axes.text(0, 1.015, below, transform=axes.transAxes, fontsize=8, va="bottom", color="0.3")
    _take_as_written(figure)


def _take_as_written(figure: Figure) -> None:
    """What stands between two dollars is no formula, but for the powers that matplotlib writes itself."""
    for text in _texts(figure):
        text.set_parse_math(False)


def _texts(figure: Figure) -> Iterator[Text]:
    """All words that are not matplotlib's own. Ticks that nobody has named are not looked at: they are made
    when the figure is drawn.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import FixedLocator

    yield from figure.texts
    for legend in figure.legends:
        yield from legend.get_texts()
    for axes in figure.axes:
        yield from (child for child in axes.get_children() if isinstance(child, Text))
        for axis in (axes.xaxis, axes.yaxis):
            yield axis.label
            if isinstance(axis.get_major_locator(), FixedLocator):
                yield from axis.get_ticklabels()


def _coinciding(axes: Axes) -> Iterator[str]:
    lines = [line for line in axes.lines if line.get_linestyle() in KINDS and not _unnamed(line)]
    together: list[list[Line2D]] = []
    for one, other in combinations(lines, 2):
        if _hides(axes, one, other):
            group = next((group for group in together if one in group), None)
            if group is None:
                together.append(group := [one])
            if other not in group:
                group.append(other)
    styles = {line.get_linestyle() for line in lines}
    alone: list[str] = []
    for group in together:
        kinds = {line.get_linestyle() for line in group}
        names = list(dict.fromkeys(short(str(line.get_label())) for line in group))
        _interlock(group)
        if len(names) > 1:
            of = f"{KINDS[kinds.pop()]} of " if len(styles) > 1 and len(kinds) == 1 else ""
            yield f"{of}{', '.join(names[:-1])} and {names[-1]} coincide"
        else:
            alone += names
    if alone:
        whose = f" ({', '.join(alone)})" if len({line.get_label() for line in lines}) > 1 else ""
        yield f"line and dashed line coincide{whose}"


def _unnamed(line: Line2D) -> bool:
    """Whether it is none of a layer or a group, such as a reference."""
    return str(line.get_label()).startswith("_")


def _hides(axes: Axes, one: Line2D, other: Line2D) -> bool:
    """Whether two lines are the same to the eye, over nearly all of their length."""
    (x, y), (x_other, y_other) = (_on_panel(axes, line) for line in (one, other))
    if min(len(x), len(x_other)) < 2:
        return False
    first, last = max(x[0], x_other[0]), min(x[-1], x_other[-1])
    if last - first < 0.9 * min(x[-1] - x[0], x_other[-1] - x_other[0]):
        return False
    at = np.linspace(first, last, 200)
    return bool(np.abs(np.interp(at, x, y) - np.interp(at, x_other, y_other)).max() < NEAR)


def _on_panel(axes: Axes, line: Line2D) -> tuple[np.ndarray, np.ndarray]:
    """Its points as shares of the panel's width and height, from the left."""
    data = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
    with np.errstate(all="ignore"):
        points = axes.transAxes.inverted().transform(line.get_transform().transform(data))
    points = points[np.isfinite(points).all(axis=1)]
    points = points[np.argsort(points[:, 0], kind="stable")]
    return points[:, 0], points[:, 1]


def _interlock(lines: list[Line2D]) -> None:
    """Dashes that take turns; below a dashed line a solid one is wide and pale."""
    solid = [line for line in lines if line.get_linestyle() == SOLID]
    dashed = [line for line in lines if line not in solid]
    for alike, dash in ((solid, DASH), (dashed, DASH / 2)):
        for i, line in enumerate(alike if len(alike) > 1 else []):
            line.set_linestyle((i * dash, (dash, (len(alike) - 1) * dash)))
            line.set_dash_capstyle("butt")
    for line in solid if dashed else []:
        line.set(linewidth=3 * line.get_linewidth(), alpha=0.4)


def _zoomed(axes: Axes) -> Iterator[str]:
    """Shares and accuracies on an axis that begins above zero; if that gains little, it begins at zero."""
    low, high = axes.get_ylim()
    label = axes.get_ylabel()
    if axes.get_yscale() != "linear" or not SHARES.search(label) or low <= 0 or not axes.has_data():
        return
    if low < high - low:
        axes.set_ylim(bottom=0)
        return
    _break(axes)
    unit = " %" if "%" in label else ""
    yield f"axis starts at {axis_start(low, high)}{unit}"


def _break(axes: Axes) -> None:
    """A zigzag at the foot of the axis."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    xs = np.array([0.0, 0.0, -0.014, 0.014, -0.014, 0.014, 0.0, 0.0])
    ys = np.array([-0.001, 0.015, 0.025, 0.04, 0.055, 0.07, 0.08, 0.095])
    shape: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False, "fill": False}
    gap = Path(np.array([[0.0, 0.0], [0.0, 0.095]]))
    axes.add_patch(PathPatch(gap, lw=4, ec="white", zorder=5, **shape))
    zigzag = PathPatch(Path(np.column_stack([xs, ys])), lw=1, ec="0.15", zorder=6, gid="axis break", **shape)
    axes.add_patch(zigzag)
