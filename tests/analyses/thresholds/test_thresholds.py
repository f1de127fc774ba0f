"""Thresholds of traces whose answers are known by construction, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import (  # type: ignore[import-not-found]
    make_run,
    value,
    write_flips,
    write_measurements,
)
from slotkit.analyses import thresholds
from slotkit.analyses.thresholds import compute, envelope, words

from slotkit.errors import SlotkitError
from slotkit.recording.replay import reels_of
from slotkit.recording.trace import LEVELS, Trace
from slotkit.reel import Reel
from slotkit.runs.folder import RunFolder
from slotkit.selection import greedy

SHAPES = {"a": (20, 50), "b": (10, 20)}


def steady(tmp_path: Path, name: str = "steady", rate: float = 0.01, **settings: Any) -> RunFolder:
    """100 steps; a share `rate` of the reels flips in each, and waits are uniform up to 1 / rate."""
    folder = make_run(tmp_path, name, SHAPES, level="summary", **settings)
    changed = np.tile([1000 * rate, 200 * rate], (100, 1))
    write_measurements(folder, np.full(100, 0.1), changed, np.array(LEVELS) / rate, 1.0)
    return folder


def test_uniform_waits_predict_the_flip_rate(tmp_path: Path) -> None:
    found = thresholds.analyze(steady(tmp_path))
    for level in compute.PREDICTING:
        for layer in ("a", "b"):
            assert value(found.table, "flip rate", 50, layer) == pytest.approx(1e4)
            assert value(found.table, "predicted rate", 50, layer, level=level) == pytest.approx(1e4)
            assert value(found.table, "predicted / observed", None, layer, level=level) == pytest.approx(1)
    assert value(found.table, "margin", 100, "a", level=0.5) == 1
    assert value(found.table, "connections", None, "b") == 200
    # All wait 100 steps at most, as many as were trained.
    assert "Not slow: 0 % of the reels" in found.summary
    assert "c stays 1" in found.summary


def test_slow_reels_are_called_slow(tmp_path: Path) -> None:
    found = thresholds.analyze(steady(tmp_path, rate=0.001))
    assert "Slow: 9" in found.summary  # a tenth waits less than 100 of up to 1000 steps


def test_c_is_forgotten_as_the_recurrence_has_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "decay", SHAPES, level="summary")
    c = np.exp(-np.arange(10, 101, 10) / 40)[:, None]
    write_measurements(folder, np.full(100, 0.1), np.zeros((100, 2)), np.inf, c)
    found = thresholds.analyze(folder)
    assert value(found.table, "c forgotten", None, "a") == pytest.approx(40)
    assert "fade by 1/e in 40 steps" in found.summary
    assert "12.2 times as far" in found.summary


def test_c_that_underflows(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "gone", SHAPES, level="summary")
    write_measurements(folder, np.full(20, 0.1), np.zeros((20, 2)), np.inf, 0.0)
    found = thresholds.analyze(folder)
    assert "c forgotten" not in set(found.table["quantity"])
    assert "c has underflowed to 0: the initial scores are gone" in found.summary
    found.figure()


def test_thresholds_that_c_has_taken_along_are_not_those_of_the_end(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "gone", SHAPES, level="summary")
    write_measurements(folder, np.full(40, 0.1), np.ones((40, 2)), 30.0, np.array([[0.1], [1e-9], [0], [0]]))
    trace = Trace(folder.path / "trace")
    columns = trace.read_chunk(1)
    for name in ("margin", "steps_to_flip"):
        columns[name][2:] = np.nan
    trace.write_chunk(1, columns)
    found = thresholds.analyze(folder)
    assert "  a: no thresholds at the end (c has underflowed to 0).\n" in found.summary
    figure = found.figure()
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes]
    assert titles[0] == "At the end there are 0 thresholds"
    assert [line.get_linestyle() for line in figure.axes[2].lines] == ["--", "--"]  # those of the start


def test_restarts_are_found(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "restart", SHAPES, level="summary")
    lr = np.concatenate([np.linspace(0.1, 0.001, 50), np.linspace(0.1, 0.001, 50)])
    changed = np.zeros((100, 2))
    changed[:50], changed[50:] = (1, 1), (100, 10)
    write_measurements(folder, lr, changed, 30.0, 1.0)
    found = thresholds.analyze(folder)
    assert value(found.table, "rate before restart", 51, "a") == pytest.approx(1000)
    assert value(found.table, "rate after restart", 51, "a") == pytest.approx(100_000)
    assert "Restart of the learning rate at step 51, a: 1,000 flips" in found.summary
    assert "learning rate ends at 1.2 % of the highest measured" in found.summary


RATES = {
    "constant": np.full(100, 0.1),
    "warm-up": np.linspace(0.001, 0.1, 100),
    "warm-up from 0": np.linspace(0, 0.1, 100),
    "held at 0": np.concatenate([np.linspace(0.1, 0, 50), np.zeros(50)]),
    "0 throughout": np.zeros(100),
}


@pytest.mark.parametrize("name", RATES)
def test_a_rate_that_does_not_come_back_has_no_restart(tmp_path: Path, name: str) -> None:
    folder = make_run(tmp_path, "run", SHAPES, level="summary")
    write_measurements(folder, RATES[name], np.ones((100, 2)), 30.0, 1.0)
    found = thresholds.analyze(folder)
    assert not found.table["quantity"].str.contains("restart").any()
    assert "Restart" not in found.summary


def test_what_was_not_measured_is_told_in_words(tmp_path: Path) -> None:
    """No flips, and a restart before the first measurement."""
    folder = make_run(tmp_path, "run", SHAPES, level="summary")
    lr = [*np.linspace(1, 0.1, 5), *np.linspace(1, 0.1, 35)]
    write_measurements(folder, lr, np.zeros((40, 2)), 50.0, 1.0)
    told = thresholds.analyze(folder).summary
    assert "    No flip was seen where steps_to_flip predicts some: there is no ratio of the two.\n" in told
    assert "median speed not measured before, 0.01 after.\n" in told
    assert "nan" not in told


def test_a_median_reel_that_does_not_move_has_no_ratio(tmp_path: Path) -> None:
    """As in a batch of one image without momentum, where most gradients are 0."""
    folder = make_run(tmp_path, "still", SHAPES, level="summary")
    write_measurements(folder, np.full(20, 0.1), np.zeros((20, 2)), np.inf, 1.0, speed=0.0)
    found = thresholds.analyze(folder)
    assert "moves 0 a step (0)" in found.summary
    assert "100 % of the reels would need longer than the whole training to get there.\n" in found.summary
    found.figure()


def test_one_option_has_no_thresholds(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "one", SHAPES, k=1, level="summary")
    write_measurements(folder, np.full(20, 0.1), np.zeros((20, 2)), np.inf, 1.0, margin=np.inf)
    found = thresholds.analyze(folder)
    assert "no thresholds" in found.summary
    assert value(found.table, "reachable options", 1, "any") == 1
    found.figure()


def test_the_law_of_uniform_options_is_told_of_no_others(tmp_path: Path) -> None:
    uniform = steady(tmp_path, k=8)
    mask = steady(tmp_path, "mask", k=8, slots__kind="mask")
    assert "; the law of large K, (4/3) ln K + 0.845, has 3.62." in thresholds.analyze(uniform).summary
    found = thresholds.analyze(mask)
    assert found.summary.endswith(" are reachable on average.")
    assert "the law" not in found.summary
    found.figure()


@pytest.mark.long
def test_twenty_runs_and_their_figure(tmp_path: Path) -> None:
    folders = [steady(tmp_path, f"k{k}-{seed}", k=k, seeds__reels=seed) for k in (4, 8) for seed in range(10)]
    found = thresholds.analyze(folders)
    assert list(found.table["group"].unique()) == ["K = 4", "K = 8"]
    assert "By K, median reel of a at the end: 4:" in found.summary
    paths = found.save(tmp_path / "out")
    assert all(path.stat().st_size > 0 for path in paths)


def test_no_mean_over_different_experiments_of_one_k(tmp_path: Path) -> None:
    runs = [
        steady(tmp_path, "a", k=4),
        steady(tmp_path, "b", k=8),
        steady(tmp_path, "c", k=8, training__lr=0.5),
    ]
    assert "By K" not in thresholds.analyze(runs).summary


def test_runs_of_different_lengths_each_end_at_their_own_end(tmp_path: Path) -> None:
    long, short = steady(tmp_path), make_run(tmp_path, "short", SHAPES, level="summary", seeds__reels=1)
    write_measurements(short, np.full(50, 0.1), np.zeros((50, 2)), 50.0, 1.0, margin=3.0)
    told = thresholds.analyze([long, short]).summary
    assert "the median reel is 2 from its next threshold at the end" in told
    assert "Runs end at different steps: lenet on digits, K = 4 at steps 50 to 100 (a mean over" in told


def test_one_run_without_an_end_of_its_wait_is_not_all_of_them(tmp_path: Path) -> None:
    """A mean over runs would be infinite, and the share of late reels that of no run."""
    runs = []
    for seed, wait in enumerate((10.0, 12.0, np.inf)):
        folder = make_run(tmp_path, f"r{seed}", SHAPES, level="summary", seeds__reels=seed)
        margin = 1.0 if np.isfinite(wait) else np.inf
        write_measurements(folder, np.full(20, 0.1), np.ones((20, 2)), wait, 1.0, margin=margin)
        runs.append(folder)
    found = thresholds.analyze(runs)
    assert "the median reel is 1 from its next threshold at the end" in found.summary
    assert "has the threshold ahead of it 12 steps away (12)." in found.summary
    assert "Not slow: 33 % of the reels would need longer" in found.summary
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in found.figure().axes]
    assert "At the end the median reel waits 12 steps" in titles


def test_groups_without_the_layer_of_the_figure_are_named(tmp_path: Path) -> None:
    runs = []
    for k, shapes in ((4, {"conv": (20, 50)}), (8, {"fc": (10, 20)})):
        folder = make_run(tmp_path, f"k{k}", shapes, k=k, level="summary")
        write_measurements(folder, np.full(20, 0.1), np.ones((20, 1)), 30.0, 1.0)
        runs.append(folder)
    found = thresholds.analyze(runs)
    assert "By K" not in found.summary
    told = found.figure().get_suptitle().split("\n")
    assert told == [
        "Thresholds of conv",
        "This figure lacks K = 8, where there is no conv; the table has all layers.",
    ]
    assert "lacks" not in thresholds.analyze(runs[:1]).figure().get_suptitle()


def test_shared_options_are_those_of_each_seed(tmp_path: Path) -> None:
    runs = [steady(tmp_path, f"r{s}", seeds__reels=s, k=8, slots__sharing="layer") for s in range(2)]
    table = thresholds.analyze(runs).table
    numbers = [value(table, "reachable options", 8, "any", run=run.name) for run in runs]
    expected = [envelope.expected_reachable(reels_of(run)["a"], sorted({*compute.KS, 8}))[8] for run in runs]
    assert numbers == expected
    assert numbers[0] != numbers[1]


def test_a_trace_without_measurements_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "short", SHAPES, every=100)
    write_flips(folder, 40, [])
    with pytest.raises(SlotkitError, match="no measurement of thresholds in its 40 steps"):
        thresholds.analyze(folder)


def test_the_greedy_reading_of_a_ps_run(tmp_path: Path) -> None:
    """The same numbers as of a greedy run with this trace; table, words and title say whose they are."""
    found = []
    for selection in ("greedy", "probabilistic"):
        folder = make_run(tmp_path, selection, SHAPES, level="summary", slots__selection=selection)
        means = dict.fromkeys(("mean_entropy", "decided", "drift"), 0.5) if found else None
        write_measurements(folder, np.full(100, 0.1), np.ones((100, 2)), 50.0, 1.0, means=means)
        found.append(thresholds.analyze(folder))
    told = ["run", "group", "reading"]
    assert found[0].table.drop(columns=told).equals(found[1].table.drop(columns=told))
    assert found[0].readings == {"greedy": "greedy selection"}
    assert found[1].readings == {"probabilistic": "greedy reading of a PS run"}
    group = "lenet on digits, K = 4, greedy reading of a PS run"
    assert found[1].summary.startswith(f"{group} (1 run, 100 steps):")
    assert found[1].figure().get_suptitle() == f"Thresholds: {group}"


def test_a_ps_trace_of_before_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "ps", SHAPES, level="summary", slots__selection="probabilistic")
    path = folder.path / "trace" / "about.json"
    about = json.loads(path.read_text())
    del about["reading"], about["sample"]
    path.write_text(json.dumps(about | {"format": 1}))
    with pytest.raises(SlotkitError, match=r"a change of option is no flip\. Its greedy"):
        thresholds.analyze(folder)


@pytest.mark.parametrize(("wanted", "share"), [(1.0, 0.0), (10.0, 0.5), (np.sqrt(1000), 0.75), (200.0, 1.0)])
def test_shares_between_levels(wanted: float, share: float) -> None:
    assert words.quantile_at([0, 0.5, 1], np.array([1.0, 10, 100]), wanted) == pytest.approx(share)


def test_infinite_waits_are_never_over() -> None:
    assert words.quantile_at([0, 0.5, 1], np.array([1.0, 10, np.inf]), 1e9) == 0.5
    assert words.quantile_at([0, 0.5, 1], np.full(3, np.inf), 1e9) == 0


def test_reachable_options_are_those_that_win_somewhere() -> None:
    options, scores = Reel("a", (20, 5), k=12).rows(torch.arange(100))
    # Dense in the angle, so that intervals far from 0 are not missed.
    u = torch.tan(torch.linspace(-np.pi / 2, np.pi / 2, 100_001, dtype=torch.float64)[1:-1])
    counts = envelope.reachable_options(options.numpy(), scores.numpy())
    for row in range(30):
        winners = greedy(scores[row].double() + u[:, None] * options[row].double()).unique()
        assert len(winners) == counts[row]


@pytest.mark.parametrize(
    ("options", "scores", "count"),
    [
        ([[1.0]], [[1.0]], 1),
        ([[1.0, 1.0, 1.0]], [[3.0, 1.0, 2.0]], 1),  # equal options: the best score
        ([[0.0, 1.0, 2.0]], [[0.0, 1.0, 0.0]], 3),
        ([[0.0, 1.0, 2.0]], [[0.0, -1.0, 0.0]], 2),
        ([[0.0, 1.0, 2.0]], [[0.0, 0.0, 0.0]], 2),  # on the line between: wins nowhere alone
    ],
)
def test_reachable_options_of_small_reels(options: Any, scores: Any, count: int) -> None:
    assert envelope.reachable_options(np.array(options), np.array(scores)).tolist() == [count]


def test_the_law_of_the_rectangle_holds() -> None:
    found = envelope.expected_reachable(
        Reel("a", (100, 100), k=8, init="glorot-deviation"), [2, 3, 64, 1024], reels=4000
    )
    assert found[2] == 2
    assert found[3] == pytest.approx(2.5, abs=4 * 0.5 / 4000**0.5)  # the middle one is above in half
    # Standard deviations below 1.6; four standard errors, and what the law leaves out at K = 64.
    assert found[64] == pytest.approx(envelope.reachable_law(64), abs=0.1 + 0.05)
    assert found[1024] == pytest.approx(envelope.reachable_law(1024), abs=0.1 + 0.02)


@pytest.mark.parametrize("settings", [{"sharing": "layer"}, {"symmetric": True}, {"sharing": "channel"}])
def test_reels_that_share_or_mirror_are_counted(settings: dict[str, Any]) -> None:
    found = envelope.expected_reachable(Reel("a", (10, 4), k=6, **settings), [1, 2, 7], reels=50)
    assert found[1] == 1
    assert 2 <= found[7] <= 7
