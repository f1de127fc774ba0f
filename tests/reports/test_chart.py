"""Charts: what is drawn where."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from slotkit.reports.chart import (
    HEIGHT,
    LEFT,
    SHAPES,
    WIDTH,
    Chart,
    Line,
    Point,
    mean_point,
    nice_ticks,
    swatch,
)


def drawn(chart: Chart) -> ET.Element:
    return ET.fromstring(chart.svg())


def centres(svg: ET.Element) -> list[tuple[float, float]]:
    """Of the marks, of whatever shape."""
    return [(float(x), float(y)) for x, y in (mark.attrib["data-at"].split() for mark in marks(svg))]


def marks(svg: ET.Element) -> list[ET.Element]:
    return [part for part in svg.iter() if "data-at" in part.attrib]


def test_points_are_where_their_values_are() -> None:
    line = Line("a", (Point(2, 10), Point(4, 20), Point(64, 30)), 1)
    svg = drawn(Chart("t", "K", "%", (line,), log2=True))
    (x2, y10), (x4, y20), (x64, y30) = centres(svg)
    assert x64 - x2 == pytest.approx(5 * (x4 - x2), abs=0.3)
    assert y10 - y20 == pytest.approx(y20 - y30, abs=0.2)
    assert svg.attrib["data-points"] == "3"
    assert [text.text for text in svg.iter("text")][-5:-2] == ["2", "4", "64"]
    linear = centres(drawn(Chart("t", "x", "%", (line,))))
    assert linear[1][0] - linear[0][0] < 0.1 * (linear[2][0] - linear[1][0])


def test_everything_lies_within_the_chart() -> None:
    lines = (
        Line("a", (Point(1, 5, 4, 6), Point(30, 7, 2, 9)), 0),
        Line("b", (Point(0, 3, 1, 12),), 5, level=True),
        Line("c", (Point(12, 6, 5, 8),), 0, dashed=True),
    )
    svg = drawn(Chart("t", "epoch", "%", lines))
    numbers = [
        float(number) for path in svg.iter("path") for number in re.findall(r"-?\d+\.?\d*", path.attrib["d"])
    ]
    assert min(numbers) >= 0
    assert max(numbers) <= max(WIDTH, HEIGHT)
    (band,) = (rect for rect in svg.iter("rect") if "band" in rect.attrib["class"])
    assert 0 < float(band.attrib["y"]) < float(band.attrib["y"]) + float(band.attrib["height"]) < HEIGHT
    assert [mark.attrib["class"] for mark in marks(svg) if "hollow" in mark.attrib["class"]] == [
        "hollow s0 dashed"
    ]


def test_ends_of_the_axis_can_be_given() -> None:
    svg = drawn(Chart("t", "K", "%", (Line("a", (Point(2, 90), Point(4, 95)), 0),), floor=0, ceiling=100))
    texts = [text.text for text in svg.iter("text")]
    assert {"0", "20", "100"} <= set(texts)
    assert max(y for _, y in centres(svg)) < 0.2 * HEIGHT


def test_an_empty_chart_says_so_and_one_value_is_no_fault() -> None:
    assert "no values" in Chart("t", "x", "y", ()).svg()
    assert len(centres(drawn(Chart("t", "x", "y", (Line("a", (Point(8, 0),), 0),), log2=True)))) == 1


def test_series_have_marks_of_their_own() -> None:
    """The same colour comes again after 7 series, the same shape after 10: both together after 70."""
    looks = set()
    for series in range(70):
        (mark,) = marks(drawn(Chart("t", "x", "y", (Line("a", (Point(1, 1),), series),))))
        looks.add((mark.attrib["class"], mark.tag, mark.attrib.get("d")))
    assert len(looks) == 70
    assert len({look[1:] for look in looks}) == len(SHAPES) == 10


def test_a_long_line_has_few_marks_and_two_lines_have_theirs_apart() -> None:
    points = tuple(Point(x, x) for x in range(200))
    lines = tuple(Line(name, points, at, marks=False) for at, name in enumerate("ab"))
    found = marks(drawn(Chart("t", "x", "y", lines)))
    assert len(found) == 10
    assert len({mark.attrib["data-at"] for mark in found}) == 10


def test_an_axis_that_does_not_begin_at_zero_is_marked_and_told() -> None:
    zoomed = Chart("t", "K", "accuracy (%)", (Line("a", (Point(2, 99.4), Point(4, 100)), 0),))
    assert zoomed.remarks() == ("The axis starts at 99.36 %.",)
    assert 'class="axis break"' in zoomed.svg()
    whole = Chart("t", "K", "accuracy (%)", (Line("a", (Point(2, 10), Point(4, 100)), 0),))
    times = Chart("t", "K", "times", (Line("a", (Point(2, 99.4), Point(4, 100)), 0),))
    for chart in (whole, times):
        assert chart.remarks() == ()
        assert 'class="axis break"' not in chart.svg()


def test_lines_that_coincide_take_turns_and_are_told() -> None:
    same = (Point(1, 1), Point(2, 3), Point(4, 2))
    lines = (Line("a", same, 0), Line("b", (Point(1, 0), Point(4, 3)), 1), Line("c", same, 2))
    chart = Chart("t", "x", "y", lines)
    assert chart.remarks() == ("a and c coincide.",)
    svg = drawn(chart)
    turns = [path.attrib.get("style") for path in svg.iter("path") if "line" in path.attrib["class"].split()]
    assert turns == [
        "stroke-dasharray:7 7;stroke-dashoffset:0",
        None,
        "stroke-dasharray:7 7;stroke-dashoffset:-7",
    ]
    assert Chart("t", "x", "y", lines[:2]).remarks() == ()


def test_single_points_and_levels_can_coincide_too() -> None:
    points = (Line("a", (Point(1, 1),), 0), Line("b", (Point(1, 1),), 1))
    assert Chart("t", "x", "y", points).remarks() == ("a and b coincide.",)
    levels = (Line("a", (Point(0, 1),), 0, level=True), Line("b", (Point(0, 1),), 1, level=True))
    assert Chart("t", "x", "y", levels).remarks() == ("a and b coincide.",)


def test_curves_of_different_lengths_are_told() -> None:
    lines = (Line("a", (Point(1, 1), Point(2, 3)), 0), Line("b", (Point(1, 2), Point(5, 1)), 1))
    assert Chart("t", "epoch", "y", lines).remarks() == ("Curves end at different epochs: a at 2, b at 5.",)
    assert Chart("t", "K", "y", lines).remarks() == ()
    more = (*lines, Line("c", (Point(1, 3), Point(5, 4)), 2))
    assert Chart("t", "epoch", "y", more).remarks() == (
        "Curves end at different epochs: a at 2, the other 2 at 5.",
    )


def test_names_are_escaped() -> None:
    svg = drawn(Chart('"a" <b>', "x & y", "<y>", (Line("a", (Point(1, 1),), 0),)))
    assert svg.attrib["aria-label"] == '"a" <b>: <y> against x & y'
    ET.fromstring(swatch(Line("a", (), 9, dashed=True)))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (96.9, 98.4, [97, 97.5, 98]),
        (0.098, 0.102, [0.098, 0.099, 0.1, 0.101, 0.102]),
        (-3, 1, [-3, -2, -1, 0, 1]),
        (0, 24000, [0, 5000, 10000, 15000, 20000]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == ticks


def test_ticks_have_equal_distances_whatever_the_ends() -> None:
    for high in (1e-6, 0.3, 7.7, 12345.0):
        found = nice_ticks(0, high)
        steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in pairwise(found)}
        assert steps == {1.0}
        assert 2 <= len(found) <= 6


def numbers_of(chart: Chart) -> tuple[list[str], list[str]]:
    """On the axes: (y, x)."""
    texts = [text for text in drawn(chart).iter("text") if "class" not in text.attrib]
    return tuple(  # type: ignore[return-value]
        [text.text for text in texts if text.attrib["text-anchor"] == anchor] for anchor in ("end", "middle")
    )


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ((1e-12, 3e-12), ["1e-12", "1.5e-12", "2e-12", "2.5e-12", "3e-12"]),  # it was five times 0
        ((1234.51, 1234.89), ["1,234.5", "1,234.6", "1,234.7", "1,234.8", "1,234.9"]),
        ((0.1234561, 0.1234563), ["0.1234561", "0.12345615", "0.1234562", "0.12345625", "0.1234563"]),
        ((2.0, 3e30), ["0", "1e+30", "2e+30", "3e+30"]),  # a loss before it is no number any more
        ((0.0, 2.4e6), ["0", "1,000,000", "2,000,000"]),
        ((-1e300, 1e300), ["-1e+300", "-5e+299", "0", "5e+299", "1e+300"]),
        ((1.0, 1 + 2**-52), ["0.9", "0.95", "1", "1.05", "1.1"]),
        ((5e-324, 1e-323), ["-0.1", "-0.05", "0", "0.05", "0.1"]),
    ],
)
def test_numbers_of_any_size_tell_ticks_apart_and_have_room(
    values: tuple[float, float], numbers: list[str]
) -> None:
    chart = Chart("t", "x", "y", (Line("a", (Point(1, values[0]), Point(2, values[1])), 0),))
    assert numbers_of(chart)[0] == numbers
    for text in drawn(chart).iter("text"):
        if text.attrib.get("text-anchor") == "end":
            assert len(text.text or "") <= 8 or float(text.attrib["textLength"]) < LEFT


def test_an_x_without_a_point_is_no_tick_beside_the_picture() -> None:
    """A K of which no run is finished is asked for as a tick, too."""
    line = Line("a", (Point(4, 97), Point(8, 98)), 0)
    chart = Chart("t", "K", "%", (line,), log2=True, ticks=(1, 4, 8, 64))
    assert numbers_of(chart)[1] == ["4", "8"]


def test_no_number_is_printed_over_another() -> None:
    ks = tuple(range(1, 65))
    _, at_x = numbers_of(Chart("t", "K", "%", (Line("a", tuple(Point(k, k) for k in ks), 0),), log2=True))
    assert at_x[:4] == ["1", "2", "3", "4"]
    assert len(at_x) < 25
    svg = Chart("t", "K", "%", (Line("a", tuple(Point(k, k) for k in ks), 0),), log2=True).svg()
    assert svg.count('class="tick"') == len(ks)


def test_epochs_have_no_halves() -> None:
    svg = drawn(Chart("t", "epoch", "%", (Line("a", (Point(1, 1), Point(2, 2), Point(3, 3)), 0),)))
    at_x = [text.text for text in svg.iter("text") if text.attrib.get("text-anchor") == "middle"]
    assert at_x[:3] == ["1", "2", "3"]


def test_repetitions_have_a_mean_and_a_bar() -> None:
    assert mean_point(8, [1.0, 3.0]) == Point(8, 2.0, 2 - 2**0.5, 2 + 2**0.5)
    assert mean_point(8, [1.0]) == Point(8, 1.0)
