"""The figure of every analysis of the registry keeps the rules of tests/figure_rules.py."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from figure_rules import faults  # type: ignore[import-not-found]
from made_masks import made_population  # type: ignore[import-not-found]
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from slotkit.analyses import registry
from slotkit.analyses.common.analysis import Analysis
from slotkit.analyses.common.findings import layer_words, layers, left_out, lengths, percent, span, whole
from slotkit.analyses.common.result import Result
from slotkit.analyses.common.style import (
    COLOURS,
    DASHED,
    MOST,
    curves,
    legend,
    looks,
    named,
    panels,
    say,
    shown,
)

from slotkit.config import Overrides, resolve
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import run

ANALYSES = {analysis.name: analysis for analysis in registry.find()}

# What a tiny sweep of an analysis that trains one needs to be told.
TINY: dict[str, dict[str, Any]] = {
    "gap": {"dataset": "digits", "factors": ["option bound"], "epochs": 1, "limit_batches": 1, "k": 2},
}


# What an analysis of other folders than runs is told of.
FOLDERS: dict[str, Callable[[Path], Path]] = {"masks": made_population}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Two runs that end at different steps, under greedy and under probabilistic selection."""
    place = tmp_path_factory.mktemp("runs")
    common = {"training.limit_batches": 4, "recording.trace": "full", "recording.every": 2}
    kinds: dict[str, dict[str, Any]] = {
        "greedy": {"slots.k": 2, "training.epochs": 1},
        "sampled": {"slots.k": 4, "training.epochs": 2, "slots.selection": "probabilistic"},
    }
    return {
        name: run(resolve([Overrides("test", {**common, **settings})]), place, name)
        for name, settings in kinds.items()
    }


def results(analysis: Analysis, trained: dict[str, RunFolder], place: Path) -> list[Result]:
    """Of one run and of several; or of the analysis' own sweep."""
    analyze = analysis.attribute("analyze")
    if analysis.folders is not None:
        return [analyze(FOLDERS[analysis.name](place)), analyze([place / "both", place / "random"])]
    if analysis.trains is None:
        named_runs = (["sampled"], ["greedy", "sampled"])
        return [analyze([trained[name] for name in names]) for names in named_runs]
    engine = import_module(analysis.trains)
    sweep = engine.start(place, seeds="0,1", executor="inline", **TINY.get(analysis.name, {}))
    engine.train(sweep, lambda *told: None)
    return [analyze(sweep.path)]


@pytest.mark.parametrize("name", ANALYSES)
def test_figures_of_every_analysis_keep_the_rules(
    name: str, trained: dict[str, RunFolder], tmp_path: Path, one_thread: None
) -> None:
    for found in results(ANALYSES[name], trained, tmp_path):
        assert faults(found.figure()) == []


# Toy figures: those that break a rule are found out, and what `finish` does mends them.


def table(**values: list[float]) -> pd.DataFrame:
    rows = [
        {"run": name, "group": name, "at": at, "value": value}
        for name, course in values.items()
        for at, value in enumerate(course)
    ]
    return pd.DataFrame(rows)


def toy(data: pd.DataFrame, y: str = "share (%)", title: str = "a ends at 1", line: Any = "-") -> Figure:
    order = list(data["group"].unique())
    figure, grid = panels(1, 1, "Toy")
    curves(grid[0, 0], data, "group", order, line)
    say(grid[0, 0], title, "training step", y)
    legend(figure, named(order))
    return figure


def finished(figure: Figure) -> Figure:
    return Result("toy", pd.DataFrame(), "", lambda table: figure).figure()


def test_a_mean_over_runs_of_other_steps_does_not_jump_from_one_to_the_other() -> None:
    """Pieces of a run of 6 steps and one of 4, each with a rate of its own, once infinite."""
    runs = {"a": ([2, 4, 6], [1.0, 1.0, np.inf]), "b": ([1, 2, 3, 4], [3.0, 3.0, 3.0, 3.0])}
    rows = [
        {"run": run, "layer": "x", "at": at, "value": value}
        for run, told in runs.items()
        for at, value in zip(*told, strict=True)
    ]
    _, grid = panels(1, 1, "")
    curves(grid[0, 0], pd.DataFrame(rows), "layer", ["x"])
    (line,) = grid[0, 0].lines
    assert line.get_xdata().tolist() == [1, 2, 3, 4]
    assert line.get_ydata().tolist() == [3, 2, 2, 2]


def test_a_good_toy_has_no_faults() -> None:
    assert faults(finished(toy(table(a=[0, 1], b=[1, 3])))) == []


def test_lines_that_look_alike_are_a_fault() -> None:
    figure = toy(table(a=[0, 1], b=[1, 3]))
    for line in figure.axes[0].lines:
        line.set_marker("")
    assert faults(figure) == ["panel 0: two lines have the same line style and marker"]


def test_legends_in_or_on_panels_are_a_fault() -> None:
    figure = toy(table(a=[0, 1], b=[1, 3]))
    figure.axes[0].legend()
    figure.legend(["x"], loc="center")
    assert faults(figure) == [
        "a panel has a legend of its own",
        "there is more than one legend",
        "the legend lies on a panel",
    ]


@pytest.mark.parametrize(
    ("title", "fault"),
    [("", "it has no title"), ("Flip rate", "its title has no number and no name: Flip rate")],
)
def test_titles_without_a_finding_are_a_fault(title: str, fault: str) -> None:
    assert faults(toy(table(fc1=[0, 1], fc2=[1, 3]), title=title)) == [f"panel 0: {fault}"]
    assert faults(toy(table(fc1=[0, 1], fc2=[1, 3]), title="fc1 wins")) == []


def test_a_zoomed_axis_is_a_fault_until_it_is_marked() -> None:
    figure = toy(table(a=[99.5, 99.6], b=[99.7, 100]), "accuracy (%)")
    assert faults(figure) == ["panel 0: its axis goes from 99.475 to 100.025 and has no mark"]
    assert faults(finished(figure)) == []
    assert [text.get_text() for text in figure.axes[0].texts] == ["axis starts at 99.47\N{NO-BREAK SPACE}%"]


def test_an_axis_that_starts_near_zero_is_made_to_start_there() -> None:
    figure = finished(toy(table(a=[10, 80]), "accuracy (%)"))
    assert figure.axes[0].get_ylim()[0] == 0
    assert not figure.axes[0].texts


def test_ratios_and_logarithms_have_no_mark() -> None:
    assert not finished(toy(table(a=[99.5, 99.6]), "times the start")).axes[0].texts


def test_equal_curves_are_a_fault_until_both_are_seen() -> None:
    figure = toy(table(**{"fc1.weight": [0, 1, 4], "fc2.weight": [0, 1, 4], "b": [1, 1, 1]}))
    assert faults(figure) == ["panel 0: fc1.weight and fc2.weight are the same and nothing says so"]
    assert faults(finished(figure)) == []
    (text,) = figure.axes[0].texts
    assert text.get_text() == "fc1 and fc2 coincide"
    one, other, alone = figure.axes[0].lines
    # Each has its dashes where the other one has its gaps.
    assert one._unscaled_dash_pattern == (0.0, (5.0, 5.0))
    assert other._unscaled_dash_pattern == (5.0, (5.0, 5.0))
    assert alone.get_linestyle() == "-"


def side_by_side() -> Figure:
    """Two panels whose groups have long names and coincide."""
    names = {f"selection = probabilistic, option bound = {value}": [0.0, 1.0, 4.0] for value in (1, 2)}
    figure, grid = panels(1, 2, "Toy")
    for axes in grid[0]:
        curves(axes, table(**names), "group", list(names))
        say(axes, "both end at 4", "training step", "share (%)")
    return figure


def test_words_of_two_panels_that_overlap_are_a_fault() -> None:
    figure = side_by_side()
    for axes in figure.axes:
        axes.text(0, 1.1, "far too long a line " * 4, transform=axes.transAxes).set_in_layout(False)
    told = faults(figure)
    assert any("overlap" in fault for fault in told)
    assert any("leaves the figure" in fault for fault in told)


def test_long_remarks_stay_above_their_panel() -> None:
    figure = finished(side_by_side())
    assert faults(figure) == []
    for axes in figure.axes:
        (text,) = axes.texts
        assert len(text.get_text().splitlines()) == 2


def test_a_dashed_line_on_the_same_line_is_told() -> None:
    data = table(a=[0, 1, 4], b=[1, 2, 2])
    figure = toy(data)
    curves(figure.axes[0], data[data["run"] == "a"], "group", ["a", "b"], DASHED)
    assert faults(finished(figure)) == []
    assert figure.axes[0].texts[0].get_text() == "line and dashed line coincide (a)"
    assert figure.axes[0].lines[0].get_alpha() == 0.4


def test_curves_of_other_lengths_are_a_fault_until_it_is_said() -> None:
    data = table(a=[0, 1, 4], b=[1, 3])
    figure = toy(data)
    assert faults(figure) == [
        "lines end at different steps and nothing says so: {'a': 2.0, 'b': 1.0}",
    ]
    assert lengths(data) == "Runs end at different steps: a at step 2; b at step 1."
    assert lengths(table(a=[1, 2], b=[3, 4])) == ""
    both = data.assign(group="K = 2")
    assert lengths(both) == (
        "Runs end at different steps: K = 2 at steps 1 to 2 (a mean over fewer runs after 1)."
    )


def lightness(colour: Any) -> float:
    """CIE L*."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    light = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return 116 * light ** (1 / 3) - 16 if light > 0.008856 else 903.3 * light


@pytest.mark.parametrize("names", [2, 3, 5, 8, MOST])
def test_looks_can_be_told_apart_without_colours(names: int) -> None:
    found = looks([str(i) for i in range(names)]).values()
    assert len({look.marker for look in found}) == names
    apart = [abs(lightness(a.colour) - lightness(b.colour)) for a, b in combinations(found, 2)]
    assert min(apart) > (8 if names <= len(COLOURS) else 4)
    assert max(lightness(look.colour) for look in found) < 80  # paper has 100


def test_of_many_names_some_are_shown_and_it_is_said() -> None:
    order = [f"layer{i}" for i in range(54)]
    assert len(shown(order)) == MOST
    assert [shown(order)[i] for i in (0, -1)] == ["layer0", "layer53"]
    assert left_out(order, "layers") == "12 of 54 layers are shown; the table has all."
    assert (shown(order[:3]), left_out(order[:3], "layers")) == (order[:3], "")


def connections(**sizes: float) -> pd.DataFrame:
    rows = [{"layer": layer, "quantity": "connections", "value": value} for layer, value in sizes.items()]
    return pd.DataFrame([*rows, {"layer": "all", "quantity": "connections", "value": sum(sizes.values())}])


def test_all_is_left_out_where_it_repeats_a_layer() -> None:
    assert layers(connections(fc1=100)) == ["fc1"]
    assert layers(connections(fc1=88, fc2=12)) == ["fc1", "fc2"]
    assert layers(connections(fc1=60, fc2=40)) == ["fc1", "fc2", "all"]
    found = connections(fc1=60, fc2=40)
    assert layer_words(found, layers(found)) == {
        "fc1": "fc1 (60 % of the connections)",
        "fc2": "fc2",
        "all": "all layers",
    }


def test_numbers_in_findings_can_be_read() -> None:
    numbers = (0.5, 9.26, 1234.4, 2_015_004, 1.5e9, np.inf)
    assert [whole(number) for number in numbers] == [
        *("0.5", "9.26", "1,234", "2.02 million", "1,500 million", "no end of"),
    ]
    assert [percent(share) for share in (0, 0.004, 0.57, 0.9853, 0.99853, 1)] == [
        *("0", "0.4", "57", "99", "99.85", "100"),
    ]


def test_findings_have_the_ends_and_their_names() -> None:
    values = {"fc1.weight": 57.2, "fc2.weight": 60.0, "fc3.weight": 73.4}
    told = span(values, "{:.0f}".format, "%").replace("\N{NO-BREAK SPACE}", " ")
    assert told == "57 (fc1) to 73 % (fc3)"
    assert span({"a": 1.01, "b": 1.02}, "{:.1f}".format) == "1.0"
    assert span({}, "{:.1f}".format) == "an unknown number"
    assert span({"a": 1, "K = 8, and a name that is too long": 2}, str).endswith("to 2")
