"""Charts as inline SVG without scripts, fonts and colours, so that a page can be light, dark or printed.

Colours and strokes are the page's: a mark of series n has the class `sn`, and page.html says how that looks.
The shape of its mark tells a series in grey print, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import combinations, pairwise

from slotkit.analyses.common.findings import axis_start

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 10, 44

# Looks that page.html has a colour for.
COLOURS = 7

# Corners of marks, around their middle; a disc has none. Ten shapes and seven colours have no common factor,
# so the first 70 series have a look of their own.
SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    (),
    ((-3.4, -3.4), (3.4, -3.4), (3.4, 3.4), (-3.4, 3.4)),
    ((0, -4.6), (4.4, 3.4), (-4.4, 3.4)),
    ((0, -5), (4, 0), (0, 5), (-4, 0)),
    ((0, 4.6), (4.4, -3.4), (-4.4, -3.4)),
    ((-4.6, 0), (3.4, -4.4), (3.4, 4.4)),
    ((4.6, 0), (-3.4, -4.4), (-3.4, 4.4)),
    ((-2, -5), (2, -5), (2, 5), (-2, 5)),
    ((-5, -2), (5, -2), (5, 2), (-5, 2)),
    ((0, -5), (1.3, -1.3), (5, 0), (1.3, 1.3), (0, 5), (-1.3, 1.3), (-5, 0), (-1.3, -1.3)),
)

# Marks along a line of many points.
ALONG = 5

# Nearer than this, in units of the picture, one line hides the other; then they take turns, so long each.
NEAR, DASH = 1.5, 7


# Values that differ by less than this share of them are drawn as one, and what is smaller than SMALLEST as
# nothing: between them an axis has no numbers.
SAME, SMALLEST = 1e-12, 1e-290

# What is larger is drawn as little as infinity: the length of an axis has to be a number.
LARGEST = 1e300

# Widths in units of the picture: of a digit, and of the room beside an axis, into which numbers are squeezed.
DIGIT, ROOM = 6.7, LEFT - 8


# The x of curves that go over training.
COURSES = ("epoch", "training step")

# A zigzag at the foot of an axis that doesn't begin at zero.
_ZIGZAG = ((0, 0), (0, 4), (-4, 6), (4, 10), (-4, 14), (4, 18), (0, 20), (0, 24))
_CORNERS = "L".join(f"{LEFT + x} {HEIGHT - BOTTOM - y}" for x, y in _ZIGZAG)
_BREAK = (
    f'<path class="gap" d="M{LEFT} {HEIGHT - BOTTOM}V{HEIGHT - BOTTOM - 24}"/>'
    f'<path class="axis break" d="M{_CORNERS}"/>'
)


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
        colour: its number, which gives its mark, too; series of the same thing from two sources share it.
        dashed: for what is not ours: the paper's numbers.
        marks: whether all points have marks; else a few have.
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
        title: what it shows, in a sentence with a number.
        x, y: in words; y with its unit.
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
        turns = {id(line): turn for group in self._coinciding() for line, turn in _turns(group)}
        inside = [
            *_grid(to_x, to_y, x_ticks, y_ticks),
            *([_BREAK] if self._begins() else []),
            *_words(self.x, self.y),
            *(part for line in self.lines for part in _line(line, to_x, to_y, turns.get(id(line), ""))),
        ]
        return head + "".join(inside) + "</svg>"

    def remarks(self) -> tuple[str, ...]:
        """Sentences on where the axis starts, and on curves in one place or of different lengths."""
        if not self.points():
            return ()
        begins = self._begins()
        told = [f"The axis starts at {axis_start(begins, self._y_range()[1])} %."] if begins else []
        told += [f"{_listed([line.name for line in group])} coincide." for group in self._coinciding()]
        courses = [line for line in self.lines if line.points and not line.level]
        ends = {line.name: max(point.x for point in line.points) for line in courses}
        if self.x in COURSES and len(set(ends.values())) > 1:
            told.append(f"Curves end at different {self.x.split()[-1]}s: {_ends(ends)}.")
        return tuple(told)

    def _begins(self) -> float:
        """Where an axis of shares starts, if that is above zero; else 0."""
        low = self._y_range()[0]
        return max(low, 0.0) if "%" in self.y else 0.0

    def _coinciding(self) -> list[list[Line]]:
        """Lines of which one hides the other."""
        (to_x, _), (to_y, _) = self._x_axis(), self._y_axis()
        groups: list[list[Line]] = []
        for one, other in combinations([line for line in self.lines if line.points], 2):
            if _hides(one, other, to_x, to_y):
                group = next((group for group in groups if one in group), None)
                if group is None:
                    groups.append(group := [one])
                if other not in group:
                    group.append(other)
        return groups

    def _x_axis(self) -> tuple[Callable[[float], float], list[float]]:
        values = sorted({p.x for line in self.lines if not line.level for p in line.points}) or [0.0, 1.0]
        if self.log2:
            positions = [math.log2(value) for value in values]
            low, high = _widened(positions[0], positions[-1], 0.04)
            # The axis is that of the points: a K of which no run is finished may lie beside it.
            ticks = [tick for tick in self.ticks or values if low <= math.log2(tick) <= high]
            return lambda x: _scale(math.log2(x), low, high, LEFT, WIDTH - RIGHT), ticks
        low, high = _widened(values[0], values[-1], 0.02)
        ticks = [tick for tick in self.ticks if low <= tick <= high] or nice_ticks(low, high)
        if all(value == round(value) for value in values):  # steps and epochs have no halves
            ticks = [tick for tick in ticks if tick == round(tick)]
        return lambda x: _scale(x, low, high, LEFT, WIDTH - RIGHT), ticks

    def _y_axis(self) -> tuple[Callable[[float], float], list[float]]:
        low, high = self._y_range()
        return lambda y: _scale(y, low, high, HEIGHT - BOTTOM, TOP), nice_ticks(low, high)

    def _y_range(self) -> tuple[float, float]:
        values = [
            end for line in self.lines for p in line.points for end in (p.y, p.low, p.high) if end is not None
        ]
        low, high = _widened(min(values), max(values), 0.06)
        if "%" in self.y:
            low = 0.0 if 0 < low < high - low else low
            high = max(min(high, 100.0), *values)
        low = low if self.floor is None else self.floor
        return low, high if self.ceiling is None else self.ceiling


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two others: steps of 1, 2 or 5 times a power of ten."""
    step = 10 ** math.floor(math.log10((high - low) / about))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= about)
    first = math.ceil(low / step - 1e-9)
    places = max(10, 2 - math.floor(math.log10(step)))
    return [round(i * step, places) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float, digits: int = 6) -> str:
    """A number on an axis: "24,000", "0.05", "3e+30"."""
    whole = value == round(value) and abs(value) < 1e9
    return f"{value:,.0f}" if whole else f"{value:,.{digits}g}"


def labels(ticks: Sequence[float]) -> list[str]:
    """The numbers on an axis, with as many digits as tell each from its neighbours."""
    step = min((b - a for a, b in pairwise(ticks)), default=0.0)
    told = [number(tick) for tick in ticks]
    for digits in range(7, 18):
        if all(
            abs(float(text.replace(",", "")) - tick) <= 0.01 * step
            for text, tick in zip(told, ticks, strict=True)
        ):
            break
        told = [number(tick, digits) for tick in ticks]
    return told


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    size = max(abs(low), abs(high))
    if high - low <= SAME * size or size < SMALLEST:
        reach = 0.1 * (size if size >= SMALLEST else 1)
        return low - reach, high + reach
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
    for tick, label in zip(y_ticks, labels(y_ticks), strict=True):
        y = to_y(tick)
        squeezed = (
            f' textLength="{ROOM}" lengthAdjust="spacingAndGlyphs"' if DIGIT * len(label) > ROOM else ""
        )
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end"{squeezed}>{label}</text>'
    taken = -math.inf
    for tick, label in zip(x_ticks, labels(x_ticks), strict=True):
        x, half = to_x(tick), DIGIT * (len(label) + 1) / 2
        yield f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        if x - half >= taken:  # else it would be printed over the number before it
            taken = x + half
            yield f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{label}</text>'
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'


def _words(x: str, y: str) -> Iterator[str]:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield (
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x)}</text>"
    )
    yield (
        f'<text class="label" transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y)}</text>"
    )


def _line(
    line: Line, to_x: Callable[[float], float], to_y: Callable[[float], float], turn: str
) -> Iterator[str]:
    looks = _looks(line)
    if line.level:
        yield from _level(line, looks, to_y, turn)
        return
    points = sorted(line.points, key=lambda point: point.x)
    if len(points) > 1:
        path = "L".join(f"{to_x(p.x):.1f} {to_y(p.y):.1f}" for p in points)
        yield f'<path class="line {looks}" d="M{path}"{turn}/>'
    every = 1 if line.marks or len(points) <= 2 * ALONG else -(-len(points) // ALONG)
    for point in points[line.colour % COLOURS * every // COLOURS :: every]:
        x, y = to_x(point.x), to_y(point.y)
        if point.low is not None and point.high is not None:
            yield f'<path class="bar {looks}" d="M{x:.1f} {to_y(point.low):.1f}V{to_y(point.high):.1f}"/>'
        yield mark(x, y, line)


def _level(line: Line, looks: str, to_y: Callable[[float], float], turn: str) -> Iterator[str]:
    right, point = WIDTH - RIGHT, line.points[0]
    if point.low is not None and point.high is not None:
        top, height = to_y(point.high), to_y(point.low) - to_y(point.high)
        yield (
            f'<rect class="band {looks}" x="{LEFT}" y="{top:.1f}" width="{right - LEFT}" '
            f'height="{max(height, 0.5):.1f}"/>'
        )
    yield f'<path class="line {looks}" d="M{LEFT} {to_y(point.y):.1f}H{right}"{turn}/>'
    yield mark(right, to_y(point.y), line)


def _looks(line: Line) -> str:
    kinds = " level" if line.level else ""
    return f"s{line.colour % COLOURS}{kinds}" + (" dashed" if line.dashed else "")


def mark(x: float, y: float, line: Line) -> str:
    """A point: a shape of its series, hollow for what is not ours."""
    about = f'class="{"hollow" if line.dashed else "mark"} {_looks(line)}" data-at="{x:.1f} {y:.1f}"'
    corners = SHAPES[line.colour % len(SHAPES)]
    if not corners:
        return f'<circle {about} cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'
    return f'<path {about} d="M{"L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners)}Z"/>'


def _hides(one: Line, other: Line, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> bool:
    """Whether two lines are the same to the eye, over all of the shorter one."""
    if one.level or other.level:
        return one.level and other.level and abs(to_y(one.points[0].y) - to_y(other.points[0].y)) < NEAR
    courses = [sorted((to_x(p.x), to_y(p.y)) for p in line.points) for line in (one, other)]
    start, end = max(course[0][0] for course in courses), min(course[-1][0] for course in courses)
    if len(courses[0]) == len(courses[1]) == 1:
        return math.dist(courses[0][0], courses[1][0]) < NEAR
    at = sorted({x for course in courses for x, _ in course if start <= x <= end})
    shorter = min(course[-1][0] - course[0][0] for course in courses)
    if len(at) < 2 or end - start < 0.9 * shorter:
        return False
    return all(abs(_between(courses[0], x) - _between(courses[1], x)) < NEAR for x in at)


def _between(course: Sequence[tuple[float, float]], x: float) -> float:
    """The y of a course at x, straight between its points."""
    for (x0, y0), (x1, y1) in pairwise(course):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else _scale(x, x0, x1, y0, y1)
    return course[-1][1]


def _turns(group: Sequence[Line]) -> Iterator[tuple[Line, str]]:
    """For each line of a group the dashes that leave gaps for the others."""
    for at, line in enumerate(group):
        dashes = f"stroke-dasharray:{DASH} {DASH * (len(group) - 1)};stroke-dashoffset:{-DASH * at}"
        yield line, f' style="{dashes}"'


def _ends(ends: Mapping[str, float]) -> str:
    """Where curves end; of those that end together, if they are most, only how many they are."""
    [(usual, count)] = Counter(ends.values()).most_common(1)
    if count <= len(ends) / 2:
        return ", ".join(f"{name} at {number(end)}" for name, end in ends.items())
    others = [f"{name} at {number(end)}" for name, end in ends.items() if end != usual]
    return f"{', '.join(others)}, the other {count} at {number(usual)}"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def swatch(line: Line) -> str:
    """The sign of a line in a legend."""
    stroke = f'<path class="line {_looks(line)}" d="M1 7H27"/>'
    return f'<svg class="swatch" viewBox="0 0 28 14" aria-hidden="true">{stroke}{mark(14, 7, line)}</svg>'


def mean_point(x: float, values: Iterable[float]) -> Point:
    """Mean and standard deviation (n - 1 in the denominator) of repetitions."""
    from slotkit.training.experiment import mean_and_spread

    mean, spread = mean_and_spread(list(values))
    return Point(x, mean) if spread is None else Point(x, mean, mean - spread, mean + spread)
