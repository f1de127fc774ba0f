"""What every figure has to keep: it can be read in grey, says what it found, and hides nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D


def faults(figure: Figure) -> list[str]:
    """A sentence for each rule that is broken."""
    figure.draw_without_rendering()
    found = [*_legends(figure), *_lengths(figure), *_crowded(figure)]
    for at, axes in enumerate(figure.axes):
        broken = (*_looks(axes), *_title(axes), *_zoom(axes), *_hidden(axes))
        found += [f"panel {at}: {sentence}" for sentence in broken]
    return found


def _named(axes: Axes) -> list[Line2D]:
    return [
        line for line in axes.lines if not str(line.get_label()).startswith("_") and len(line.get_xdata())
    ]


def _looks(axes: Axes) -> Iterator[str]:
    looks = [(line._unscaled_dash_pattern, line.get_linestyle(), line.get_marker()) for line in _named(axes)]
    if len(set(looks)) < len(looks):
        yield "two lines have the same line style and marker"


def _legends(figure: Figure) -> Iterator[str]:
    if any(axes.get_legend() for axes in figure.axes):
        yield "a panel has a legend of its own"
    if len(figure.legends) > 1:
        yield "there is more than one legend"
    boxes = [axes.get_window_extent() for axes in figure.axes]
    if any(legend.get_window_extent().overlaps(box) for legend in figure.legends for box in boxes):
        yield "the legend lies on a panel"


def _crowded(figure: Figure) -> Iterator[str]:
    """Words above a panel stay off the words of others, and inside of the figure."""
    whole = figure.get_window_extent()
    above = [
        (at, text.get_text(), text.get_window_extent())
        for at, axes in enumerate(figure.axes)
        for text in (*axes.texts, axes._left_title, axes.title)
        if text.get_text() and text.get_window_extent().y0 >= axes.get_window_extent().y1
    ]
    for at, words, box in above:
        if box.x0 < whole.x0 or box.x1 > whole.x1:
            yield f"panel {at}: {words!r} leaves the figure"
    for (one, words, box), (other, others, other_box) in combinations(above, 2):
        if one != other and box.overlaps(other_box):
            yield f"panels {one} and {other}: {words!r} and {others!r} overlap"


def _title(axes: Axes) -> Iterator[str]:
    title = " ".join(axes.get_title(loc=side) for side in ("left", "center", "right")).strip()
    names = [str(line.get_label()).removesuffix(".weight") for line in _named(axes)]
    if not title:
        yield "it has no title"
    elif not re.search(r"\d", title) and not any(name in title for name in names):
        yield f"its title has no number and no name: {title}"


def _zoom(axes: Axes) -> Iterator[str]:
    low, high = axes.get_ylim()
    shares = re.search(r"%|accuracy|share", axes.get_ylabel())
    if not shares or axes.get_yscale() != "linear" or low <= 0 or not axes.has_data():
        return
    mark = any(patch.get_gid() == "axis break" for patch in axes.patches)
    if not (mark and "axis starts at" in _texts(axes)):
        yield f"its axis goes from {low:g} to {high:g} and has no mark"


def _hidden(axes: Axes) -> Iterator[str]:
    for one, other in combinations(_named(axes), 2):
        a, b = (np.column_stack([np.asarray(line.get_xdata()), line.get_ydata()]) for line in (one, other))
        if (
            len(a) > 1
            and a.shape == b.shape
            and np.allclose(a, b, rtol=1e-9)
            and "coincide" not in _texts(axes)
        ):
            yield f"{one.get_label()} and {other.get_label()} are the same and nothing says so"


def _lengths(figure: Figure) -> Iterator[str]:
    ends: dict[str, float] = {}
    for axes in figure.axes:
        for line in _named(axes) if axes.get_xlabel() == "training step" else []:
            name = str(line.get_label())
            ends[name] = max(ends.get(name, 0.0), float(np.max(line.get_xdata())))
    if len(set(ends.values())) > 1 and "different steps" not in figure.get_suptitle():
        yield f"lines end at different steps and nothing says so: {ends}"


def _texts(axes: Axes) -> str:
    return "\n".join(text.get_text() for text in axes.texts)
