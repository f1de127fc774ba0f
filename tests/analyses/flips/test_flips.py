"""Flips of traces whose answers are known by construction, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from made_runs import (  # type: ignore[import-not-found]
    Flip,
    make_run,
    others_than_first,
    value,
    write_flips,
    write_measurements,
)
from slotkit.analyses import flips
from slotkit.analyses.flips import spells

from slotkit.errors import SlotkitError
from slotkit.recording.trace import Trace
from slotkit.runs.folder import RunFolder

SHAPES = {"a": (2, 3), "b": (1, 4)}


def mixture(tmp_path: Path, name: str = "mixture", **settings: Any) -> RunFolder:
    """10 reels, 200 steps: a[1] moves at 20, a[3] to and fro at 10, 15, .., 195, b[2] on at 100 and 180.

    a[0], a[2], a[4], a[5] and b[0], b[1], b[3] never move.
    """
    folder = make_run(tmp_path, name, SHAPES, **settings)
    a, b = others_than_first(folder)
    moves: list[Flip] = [(20, 0, 1, a[1][1]), (100, 1, 2, b[2][1]), (180, 1, 2, b[2][2])]
    moves += [(step, 0, 3, a[3][(i + 1) % 2]) for i, step in enumerate(range(10, 200, 5))]
    write_flips(folder, 200, moves, chunk=64)
    return folder


def test_a_known_mixture(tmp_path: Path) -> None:
    found = flips.analyze(mixture(tmp_path), windows=4)
    table = found.table
    assert [value(table, "reels by flips", at) for at in (0, 1, 2)] == pytest.approx([0.7, 0.1, 0.2])
    assert value(table, "flips") == pytest.approx(41 / 10)
    assert value(table, "flips", layer="b") == pytest.approx(2 / 4)
    assert value(table, "still flipping") == pytest.approx(0.1)  # a[3]; step 180 is not past 180
    # 1 + 9 of a[3] (10, .., 50) in the first 50 steps.
    assert value(table, "flip rate", 50) == pytest.approx(10 / 50 / 10 * 1e6)
    assert value(table, "flip rate", 50, "b") == 0
    assert [value(table, "settled", at) for at in (0, 50, 150, 200)] == pytest.approx([0.7, 0.8, 0.8, 1])
    # a[1] and b[2] are not yet right at the start; a[3] flips 38 times, so it ends where it began.
    assert [value(table, "agreement", at) for at in (0, 50, 200)] == pytest.approx([0.8, 0.8, 1])
    # From 175 on one reel at most is wrong: b[2] up to 179, then a[3] in turns.
    assert value(table, "agreed", 0.9) == 175
    assert [value(table, "options visited", at) for at in (1, 2, 3, 4)] == pytest.approx([0.7, 0.2, 0.1, 0])
    assert value(table, "flip-flop share") == pytest.approx(37 / 41)
    assert value(table, "flip-flop share", layer="b") == 0
    assert "70.0 % of the reels never flipped" in found.summary


def test_within_bounds_the_flip_flops(tmp_path: Path) -> None:
    folder = mixture(tmp_path)
    assert value(flips.analyze(folder, within=5).table, "flip-flop share") == pytest.approx(37 / 41)
    assert value(flips.analyze(folder, within=4).table, "flip-flop share") == 0


def test_a_reel_that_alternates_and_one_that_never_moves(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "two", {"a": (1, 2)}, k=2)
    ((moving, _),) = others_than_first(folder)
    write_flips(folder, 100, [(step, 0, 0, moving[step % 2]) for step in range(1, 101)])
    table = flips.analyze(folder).table
    assert value(table, "half-life, taken") == 1
    assert value(table, "half-life, initial") == 1  # half of them, at age 1
    assert value(table, "survival, initial", 100) == 0.5
    assert value(table, "reels by flips", 0) == 0.5


def test_nothing_ever_flips(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "still", SHAPES)
    write_flips(folder, 30, [])
    found = flips.analyze(folder)
    assert value(found.table, "reels by flips", 0) == 1
    assert value(found.table, "agreed", 0.99) == 0
    assert np.isinf(value(found.table, "half-life, initial"))
    assert np.isnan(value(found.table, "half-life, taken"))
    assert "no number" in found.summary
    found.figure()


def test_one_option(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "one", SHAPES, k=1)
    write_flips(folder, 3, [])
    table = flips.analyze(folder).table
    assert value(table, "options visited", 1) == 1


def test_a_half_life_that_one_run_does_not_reach_is_not_that_of_all(tmp_path: Path) -> None:
    folders = []
    for seed in range(3):
        folder = make_run(tmp_path, f"r{seed}", {"a": (2, 2)}, seeds__reels=seed)
        one, other = others_than_first(folder)[0][0][1:3]
        again = [(15, 0, 0, other)] if seed else []
        write_flips(folder, 40, [(5, 0, 0, one), *again])
        folders.append(folder)
    found = flips.analyze(folders)
    assert (
        "  Half-life of a selection, in steps: more than there were, of an initial one; 10 in 2 of 3 runs "
        "and more than there were in the others, of one that a flip brought (Kaplan-Meier)."
    ) in found.summary.splitlines()
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in found.figure().axes]
    assert "Half of what a flip brings is gone after 10 steps" in titles


def test_survival_is_that_of_kaplan_and_meier() -> None:
    # Their textbook example in small: over at 2, 4, 4; cut off at 3, 5.
    ended, cut = np.array([0, 0, 1, 0, 2, 0]), np.array([0, 0, 0, 1, 0, 1])
    survival = spells.kaplan_meier(ended, cut)
    assert survival == pytest.approx([1, 1, 0.8, 0.8, 0.8 / 3, 0.8 / 3])
    assert spells.half_life(survival) == 4


def brute_force(steps: int, initial: list[int], moves: list[Flip], within: int) -> dict[str, Any]:
    """The counts by a loop over steps and reels."""
    history = np.tile(np.array(initial), (steps + 1, 1))
    for step, _, connection, option in sorted(moves):
        history[step:, connection] = option
    returns = 0
    for connection in range(len(initial)):
        mine = [(step, option) for step, _, c, option in sorted(moves) if c == connection]
        for i in range(1, len(mine)):
            left = mine[i - 2][1] if i > 1 else initial[connection]
            returns += mine[i][1] == left and mine[i][0] - mine[i - 1][0] <= within
    return {
        "agreement": (history == history[-1]).mean(axis=1),
        "visited": np.bincount([len(set(column)) for column in history.T], minlength=5)[:5],
        "returns": returns,
    }


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_a_plain_loop(seed: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    folder = make_run(tmp_path, "random", {"a": (3, 4)})
    initial = [row[0] for row in others_than_first(folder)[0]]
    now, moves = list(initial), []
    for step in range(1, 61):
        for connection in np.flatnonzero(generator.random(12) < 0.2 * (np.arange(12) > 2)):
            now[connection] = int(generator.choice([i for i in range(4) if i != now[connection]]))
            moves.append((step, 0, int(connection), now[connection]))
    write_flips(folder, 60, moves, chunk=25)
    table = flips.analyze(folder, within=6, windows=60).table
    truth = brute_force(60, initial, moves, 6)
    rows = table[(table["quantity"] == "agreement") & (table["layer"] == "all")]
    assert rows["value"].to_numpy() == pytest.approx(truth["agreement"])
    visited = [value(table, "options visited", n) * 12 for n in range(1, 5)]
    assert visited == pytest.approx(truth["visited"][1:])
    assert value(table, "flip-flop share") * len(moves) == pytest.approx(truth["returns"])


def test_counts_alone_give_a_partial_answer(tmp_path: Path) -> None:
    found = flips.analyze(mixture(tmp_path, level="summary"), windows=4)
    assert set(found.table["quantity"]) == {"flip rate", "flips", "connections"}
    assert value(found.table, "flips") == pytest.approx(41 / 10)
    assert "partial answer" in found.summary
    found.figure()


def test_runs_without_the_flips_take_no_part_in_what_needs_them(tmp_path: Path) -> None:
    """A mean over two runs, one of which has counts only, is that of the other."""
    full = mixture(tmp_path, "full")
    alone = flips.analyze(full).summary.splitlines()
    both = flips.analyze([full, mixture(tmp_path, "counts", level="summary", seeds__reels=1)]).summary
    told = next(line for line in alone if "A reel used" in line)
    assert told in both.splitlines()


def test_runs_of_different_lengths_each_end_at_their_own_end(tmp_path: Path) -> None:
    folders = []
    for seed, (steps, last) in enumerate([(100, 2), (50, 6)]):
        folders.append(make_run(tmp_path, f"run-{seed}", {"a": (2, 5)}, seeds__reels=seed))
        row = others_than_first(folders[-1])[0]
        write_flips(folders[-1], steps, [(steps, 0, i, row[i][1]) for i in range(last)])
    # 2 and 6 of 10 reels in the last of 50 windows, which are 2 steps and 1: 0.1 and 0.6 a step and reel.
    assert "350,000 at the end" in flips.analyze(folders).summary


def test_twenty_runs_in_two_groups(tmp_path: Path) -> None:
    folders = [
        mixture(tmp_path, f"k{k}-{seed}", k=k, seeds__reels=seed) for k in (4, 8) for seed in range(10)
    ]
    found = flips.analyze(folders, windows=4)
    assert list(found.table["group"].unique()) == ["K = 4", "K = 8"]
    assert found.table["run"].nunique() == 20
    assert "K = 4 (10 runs, 200 steps): 4.10 flips a reel" in found.summary
    found.figure()


def test_the_same_run_counts_once(tmp_path: Path) -> None:
    folder = mixture(tmp_path)
    table = flips.analyze([folder, folder.path, str(folder.path)]).table
    assert value(table, "flips") == pytest.approx(41 / 10)


def test_figure_and_files(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    found = flips.analyze(mixture(tmp_path))
    paths = found.save(tmp_path / "out")
    assert [path.name for path in paths] == ["flips.csv", "flips.png", "flips.svg", "flips.txt"]
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in found.save(tmp_path / "out")] == first
    labels = {axes.get_xlabel() for axes in found.figure().axes}
    assert "training step" in labels
    assert dict(mpl.rcParams) == before


def test_names_with_dollars_are_no_formulas(tmp_path: Path) -> None:
    """matplotlib would take what stands between two of them for one, and fail where it is none."""
    folder = make_run(tmp_path, "run", {"$a^{$": (2, 2), "b": (3, 2)})
    write_flips(folder, 40, [(5, 0, 0, 1), (5, 1, 0, 2)])
    figure = flips.analyze(folder).figure()
    figure.canvas.draw()
    assert figure.legends[0].get_texts()[0].get_text() == "$a^{$"
    assert all(label.get_parse_math() for label in figure.axes[0].get_yticklabels())


def test_a_trace_that_ends_early_is_told(tmp_path: Path) -> None:
    folder = mixture(tmp_path)
    folder.append("metrics.jsonl", {"kind": "step", "step": 300})
    assert "ends at step 200 and its metrics at step 300" in flips.analyze(folder).summary


def test_what_has_no_whole_trace_is_refused(tmp_path: Path) -> None:
    folder = mixture(tmp_path)
    chunks = sorted((folder.path / "trace").glob("*.npz"))
    whole = chunks[1].read_bytes()
    chunks[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SlotkitError, match="not a whole chunk"):
        flips.analyze(folder)
    chunks[1].unlink()
    with pytest.raises(SlotkitError, match="lacks steps 65 to 128"):
        flips.analyze(folder)
    for chunk in chunks:
        chunk.unlink(missing_ok=True)
    with pytest.raises(SlotkitError, match="has no steps yet"):
        flips.analyze(folder)
    (folder.path / "trace" / "about.json").unlink()
    with pytest.raises(SlotkitError, match="There is no trace"):
        flips.analyze(folder)


def test_runs_without_flips_are_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "other", SHAPES, level="summary", method="learned")
    with pytest.raises(SlotkitError, match="learned weights"):
        flips.analyze(folder)


PS = {"slots__selection": "probabilistic"}


def test_the_greedy_reading_of_a_ps_run(tmp_path: Path) -> None:
    """The same numbers as of a greedy run with these flips; table, words and title say whose they are."""
    greedy, sampled = mixture(tmp_path, "greedy"), mixture(tmp_path, "sampled", **PS)
    one, two = (flips.analyze(folder, windows=4) for folder in (greedy, sampled))
    told = ["run", "group", "reading"]
    assert one.table.drop(columns=told).equals(two.table.drop(columns=told))
    assert set(one.table["reading"]) == {"greedy selection"}
    assert two.readings == {"sampled": "greedy reading of a PS run"}
    assert two.summary.startswith("lenet on digits, K = 4, greedy reading of a PS run (1 run, 200 steps):")
    assert one.summary.startswith("lenet on digits, K = 4 (1 run, 200 steps):")
    assert two.figure().get_suptitle() == "Flips: lenet on digits, K = 4, greedy reading of a PS run"


def test_ps_beside_gs(tmp_path: Path) -> None:
    both = flips.analyze([mixture(tmp_path, "greedy"), mixture(tmp_path, "sampled", **PS)])
    assert list(both.table["group"].unique()) == [
        "selection = greedy",
        "selection = probabilistic, greedy reading of a PS run",
    ]
    assert both.figure().get_suptitle() == "Flips, all layers, greedy reading where PS"
    alone = [mixture(tmp_path, f"k{k}", k=k, **PS) for k in (4, 8)]
    title = flips.analyze(alone).figure().get_suptitle()
    assert title == "Flips, all layers, greedy reading of PS runs"


def test_the_softmax_of_a_ps_run_over_time(tmp_path: Path) -> None:
    """Means over the reels of all layers: 6 of a, 4 of b. A greedy run has no such quantity."""
    folder = make_run(tmp_path, "ps", SHAPES, level="summary", **PS)
    means = {
        "mean_entropy": [[1.0, 0.5], [0.5, 0.25]],
        "decided": [[0.0, 0.0], [0.5, 1.0]],
        "drift": [[0.4, 0.2], [0.1, 0.2]],
    }
    write_measurements(folder, np.full(20, 0.1), np.zeros((20, 2)), 5.0, 1.0, means=means)
    found = flips.analyze(folder)
    assert [value(found.table, "mean entropy", at) for at in (10, 20)] == pytest.approx([0.8, 0.4])
    assert [value(found.table, "decided reels", at) for at in (10, 20)] == pytest.approx([0, 0.7])
    assert value(found.table, "weight drift", 20, layer="a") == pytest.approx(0.1)
    assert found.summary.splitlines()[1] == (
        "  The softmax of a reel has 0.4 nats of entropy on average at the last measurement (0.8 at the "
        "first, 1.39 if all 4 options were equally likely); 70.0 % of the reels are decided (an option has a "
        "probability of 0.99 or more), 0.0 % at the first. From one measurement to the next the expected "
        "weight drifts by 14 % of its bound (32 % at the first)."
    )
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in found.figure().axes]
    assert [title.replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ") for title in titles[-3:]] == [
        "The entropy ends at 0.25 (b) to 0.5 nats (a)",
        "The expected weight drifts by 10 (a) to 20 % (b) at the end",
        "At the end 50 (a) to 100 % (b) of the reels are decided",
    ]
    assert "mean entropy" not in set(flips.analyze(mixture(tmp_path)).table["quantity"])


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    folder = mixture(tmp_path)
    with pytest.raises(SlotkitError, match="within is 0"):
        flips.analyze(folder, within=0)
    with pytest.raises(SlotkitError, match="No run is named"):
        flips.analyze([])
    with pytest.raises(SlotkitError, match="no run 'nowhere'"):
        flips.analyze("nowhere", runs_dir=tmp_path)


def test_a_trace_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "odd", SHAPES)
    columns = {"lr": np.ones(2), "changed": np.array([[2, 0], [0, 0]], np.int32)}
    Trace(folder.path / "trace").write_chunk(1, columns)
    with pytest.raises(SlotkitError, match="counts 2 flips and holds 0"):
        flips.analyze(folder)
