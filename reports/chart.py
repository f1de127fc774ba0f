"""Charts as inline SVG without scripts, fonts and colours, so that a page can be light, dark or printed.

Colours and strokes are the page's: a mark of series n has the class `sn`, and page.html says how that looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 44

# Looks that page.html has a colour for.
COLOURS = 7


@dataclass(frozen=True)
class Point:
    """A value with the ends of its bar, if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """A series.

    Attributes:
        colour: its number; series of the same thing from two sources share it.
        dashed: for what is not ours: the paper's numbers.
        marks: whether points have marks.
        level: a horizontal line across the chart instead: the first point's y, with its bar as a band.
    """

    name: str
    points: tuple[Point, ...]
    colour: int
    dashed: bool = False
    marks: bool = True
    level: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart of lines.

    Attributes:
        title, x, y: in words; y with its unit.
        log2: whether x goes by powers of two, as K does.
        floor, ceiling: ends of the y axis, if they are not those of the data.
    """

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    log2: bool = False
    floor: float | None = None
    ceiling: float | None = None
    ticks: tuple[float, ...] = field(default=())

    def points(self) -> int:
        return sum(len(line.points) for line in self.lines)

    def svg(self) -> str:
        """The chart. An empty one says so."""
        label = escape(f"{self.title}: {self.y} against {self.x}", quote=True)
        about = f'role="img" aria-label="{label}" data-points="{self.points()}"'
        head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" {about}>'
        if not self.points():
            middle = f'x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle"'
            return f"{head}<text {middle}>no values</text></svg>"
        to_x, x_ticks = self._x_axis()
        to_y, y_ticks = self._y_axis()
        inside = [
            *_grid(to_x, to_y, x_ticks, y_ticks),
            *_words(self.x, self.y),
            *(part for line in self.lines for part in _line(line, to_x, to_y)),
        ]
        return head + "".join(inside) + "</svg>"

    def _x_axis(self) -> tuple[Callable[[float], float], list[float]]:
        values = sorted({p.x for line in self.lines if not line.level for p in line.points}) or [0.0, 1.0]
        if self.log2:
            positions = [math.log2(value) for value in values]
            low, high = _widened(positions[0], positions[-1], 0.04)
            return lambda x: _scale(math.log2(x), low, high, LEFT, WIDTH - RIGHT), list(self.ticks or values)
        low, high = _widened(values[0], values[-1], 0.02)
        ticks = list(self.ticks) or nice_ticks(low, high)
        if all(value == round(value) for value in values):  # steps and epochs have no halves
            ticks = [tick for tick in ticks if tick == round(tick)]
        return lambda x: _scale(x, low, high, LEFT, WIDTH - RIGHT), ticks

    def _y_axis(self) -> tuple[Callable[[float], float], list[float]]:
        values = [
            end for line in self.lines for p in line.points for end in (p.y, p.low, p.high) if end is not None
        ]
        low, high = _widened(min(values), max(values), 0.06)
        low = low if self.floor is None else self.floor
        high = high if self.ceiling is None else self.ceiling
        return lambda y: _scale(y, low, high, HEIGHT - BOTTOM, TOP), nice_ticks(low, high)


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two others: steps of 1, 2 or 5 times a power of ten."""
    step = 10 ** math.floor(math.log10((high - low) / about))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= about)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A number on an axis."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    if low == high:
        return low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    return low - share * (high - low), high + share * (high - low)


def _scale(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (value - low) / (high - low) * (end - start)


def _grid(
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick in y_ticks:
        y = to_y(tick)
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
    for tick in x_ticks:
        x = to_x(tick)
        yield f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{number(tick)}</text>'
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'


def _words(x: str, y: str) -> Iterator[str]:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield (
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x)}</text>"
    )
    yield (
        f'<text class="label" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y)}</text>"
    )


def _line(line: Line, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> Iterator[str]:
    looks = f"s{line.colour % COLOURS}" + (" dashed" if line.dashed else "")
    if line.level:
        yield from _level(line.points[0], looks, to_y)
        return
    points = sorted(line.points, key=lambda point: point.x)
    if len(points) > 1:
        path = "L".join(f"{to_x(p.x):.1f} {to_y(p.y):.1f}" for p in points)
        yield f'<path class="line {looks}" d="M{path}"/>'
    for point in points if line.marks or len(points) == 1 else []:
        x, y = to_x(point.x), to_y(point.y)
        if point.low is not None and point.high is not None:
            yield f'<path class="bar {looks}" d="M{x:.1f} {to_y(point.low):.1f}V{to_y(point.high):.1f}"/>'
        yield mark(x, y, looks, line.dashed)


def _level(point: Point, looks: str, to_y: Callable[[float], float]) -> Iterator[str]:
    right = WIDTH - RIGHT
    if point.low is not None and point.high is not None:
        top, height = to_y(point.high), to_y(point.low) - to_y(point.high)
        yield (
            f'<rect class="band {looks}" x="{LEFT}" y="{top:.1f}" width="{right - LEFT}" '
            f'height="{max(height, 0.5):.1f}"/>'
        )
    yield f'<path class="line {looks}" d="M{LEFT} {to_y(point.y):.1f}H{right}"/>'


def mark(x: float, y: float, looks: str, hollow: bool) -> str:
    """A point: a disc, or a hollow square for what is not ours."""
    if hollow:
        return f'<rect class="hollow {looks}" x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>'
    return f'<circle class="mark {looks}" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'


def swatch(line: Line) -> str:
    """The sign of a line in a legend."""
    looks = f"s{line.colour % COLOURS}" + (" dashed" if line.dashed else "")
    sign = "" if line.level or not line.marks else mark(14, 7, looks, line.dashed)
    stroke = f'<path class="line {looks}" d="M1 7H27"/>'
    return f'<svg class="swatch" viewBox="0 0 28 14" aria-hidden="true">{stroke}{sign}</svg>'


def mean_point(x: float, values: Iterable[float]) -> Point:
    """Mean and standard deviation (n - 1 in the denominator) of repetitions."""
    from slotkit.training.experiment import mean_and_spread

    mean, spread = mean_and_spread(list(values))
    return Point(x, mean) if spread is None else Point(x, mean, mean - spread, mean + spread)
