"""What is made of sweeps with accuracies that are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from slotkit.analyses import gap
from slotkit.analyses.common.result import Result
from slotkit.analyses.gap import compute
from slotkit.analyses.gap.plan import Cell, Plan, plan
from slotkit.analyses.gap.sweep import READINGS, Sweep, start

from slotkit.config import Overrides, resolve
from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    import pandas as pd

Accuracy = Callable[[Cell, int], float]  # in %, of a cell and a seed


def made(
    path: Path, planned: Plan, accuracy: Accuracy, status: dict[tuple[Cell, int], str] | None = None
) -> Path:
    """The folder of a sweep that gave these accuracies; runs are finished, or as `status` says."""
    sweep = start(planned, path)
    for cell, seed, folder in sweep.runs():
        told = (status or {}).get((cell, seed), "finished")
        if told == "missing":
            continue
        folder.path.mkdir()
        folder.write_config(resolve(planned.layers(cell, seed)), {})
        value = accuracy(cell, seed) / 100
        # Half a point less with dropout on, one point more when sampled.
        reading = {"greedy": {"accuracy": value}, "sample": {"accuracy": value + 0.01}}
        dead = told == "collapsed"
        end = {"accuracy": 0.1 if dead else value, "loss": np.log(10) if dead else 0.1}
        validation = {"best": {"accuracy": value, "loss": 0.1}, "last": end}
        status_told = "finished" if dead else told
        folder.write_summary({"status": status_told, "test": {"best": reading}, "validation": validation})
        if status_told == "finished":
            off = {kind: one["accuracy"] for kind, one in reading.items()}
            on = {kind: one - 0.005 for kind, one in off.items()}
            (folder.path / READINGS).write_text(json.dumps({"off": off, "on": on}))
    return path


def linear(*effects: float) -> Accuracy:
    """Effects in points, and a seed that is worth 0.3."""
    return lambda cell, seed: (
        95 + sum(e * level for e, level in zip(effects, cell, strict=False)) / 2 + 0.3 * seed
    )


def noisy(accuracy: Accuracy, by: float = 0.1) -> Accuracy:
    draws = np.random.default_rng(1)
    return lambda cell, seed: accuracy(cell, seed) + by * draws.standard_normal()


def picked(table: pd.DataFrame, quantity: str, name: str | None = None) -> Any:
    rows = table[table["quantity"] == quantity]
    rows = rows if name is None else rows[rows["name"] == name]
    assert len(rows) == 1
    return rows.iloc[0]


def lenet(**given: Any) -> Plan:
    return plan(**({"epochs": 3, "seeds": (0, 1)} | given))


def test_known_effects_are_found_and_ranked(tmp_path: Path) -> None:
    found = gap.analyze(made(tmp_path / "s", lenet(), linear(5, -0.5, 0.25, 0, 1)))
    effects = found.table[found.table["quantity"] == "effect"]
    assert list(effects["name"][:4]) == [
        "update rule",
        "option bound",
        "momentum and learning rate",
        "L2 penalty",
    ]
    assert list(effects["value"]) == pytest.approx([5, 1, -0.5, 0.25, 0, 0, 0, 0], abs=1e-9)
    assert list(effects["n"]) == [32] * 8
    # The ends differ in all but L2 and schedule.
    assert picked(found.table, "gap")["value"] == pytest.approx(5.5)
    assert picked(found.table, "explained")["value"] == pytest.approx(5.5)
    assert picked(found.table, "end", "authors-lenet-greedy")["value"] == pytest.approx(97.775)
    assert (
        "The update rule explains most at the ends: all instead of selected is worth +5.00 [+5.00, +5.00] "
        "points to the reproduction and +5.00 [+5.00, +5.00] to the reference."
    ) in found.summary


def test_a_setting_that_narrows_the_gap_does_not_explain_it(tmp_path: Path) -> None:
    found = gap.analyze(made(tmp_path / "s", lenet(), linear(2, 0, 0, 0, -7)))
    assert picked(found.table, "gap")["value"] == pytest.approx(-5)
    assert found.table["name"].iloc[0] == "option bound"
    assert "The update rule explains most at the ends: all instead of selected is" in found.summary


def test_settings_that_only_cost_points_explain_nothing(tmp_path: Path) -> None:
    found = gap.analyze(made(tmp_path / "s", lenet(factors=["update rule", "option bound"]), linear(-2, -7)))
    assert picked(found.table, "gap")["value"] == pytest.approx(-9)
    assert "explains most" not in found.summary
    assert "No setting explains the gap: at both ends together each of them costs points" in found.summary


def test_steps_are_taken_at_the_ends(tmp_path: Path) -> None:
    # The option bound helps the selected rule by 2 points and costs the other 1.
    def accuracy(cell: Cell, seed: int) -> float:
        return linear(5)(cell, seed) + (2 if cell[0] < 0 else -1) * cell[4] / 2

    found = gap.analyze(made(tmp_path / "s", lenet(), accuracy))
    up, down, main = (
        picked(found.table, quantity, "option bound") for quantity in ("step up", "step down", "effect")
    )
    assert (up["value"], down["value"], main["value"]) == pytest.approx((2, -1, 0.5))
    assert (up["n"], down["n"]) == (2, 2)
    assert "L2 penalty" not in set(found.table.loc[found.table["quantity"] == "step up", "name"])
    told = "  option bound (√(2/(in+out)) → √(6/(in+out))): +2.00 [+2.00, +2.00]; -1.00 [-1.00, -1.00]"
    assert told in found.summary.splitlines()


def test_intervals_tell_what_is_not_told_from_0(tmp_path: Path) -> None:
    found = gap.analyze(made(tmp_path / "s", lenet(), noisy(linear(5, 1))))
    rule, bias = (picked(found.table, "effect", name) for name in ("update rule", "biases"))
    assert rule["low"] < 5 < rule["high"]
    # 32 runs with a deviation of 0.1: a standard error of 0.035, and t is 2.13 at 15 degrees of freedom.
    assert rule["high"] - rule["low"] == pytest.approx(2 * 2.13 * 0.035, rel=0.5)
    assert bias["low"] < 0 < bias["high"]
    assert "biases (PyTorch's, untrained → none)" in found.summary
    told = [line for line in found.summary.splitlines() if line.startswith(("  biases", "  update rule ("))]
    assert [line.endswith("points, not told from 0") for line in told] == [False, False, False, True]


def test_an_interaction_is_given_with_its_aliases(tmp_path: Path) -> None:
    interacting: Accuracy = lambda cell, seed: linear(5)(cell, seed) + 0.4 * cell[0] * cell[1]  # noqa: E731
    found = gap.analyze(made(tmp_path / "s", lenet(), interacting))
    first = found.table[found.table["quantity"] == "interaction"].iloc[0]
    assert first["value"] == pytest.approx(0.8)
    assert first["name"] == (
        "update rule x momentum and learning rate = L2 penalty x schedule = option bound x score bound = "
        "biases x pixel range"
    )


def test_one_seed_has_no_intervals_and_says_so(tmp_path: Path) -> None:
    found = gap.analyze(made(tmp_path / "s", lenet(seeds=(4,)), linear(5)))
    assert found.table[["low", "high"]].isna().all(axis=None)
    assert picked(found.table, "effect", "update rule")["value"] == pytest.approx(5)
    assert "No cell has two seeds, so there are no intervals: give more --seeds." in found.summary
    assert "[" not in found.summary.split("No cell")[0]
    found.figure()


def test_one_cell_with_two_seeds_is_too_few_for_intervals(tmp_path: Path) -> None:
    """An interrupted sweep has all of the first seed, and a part of the next."""
    planned = lenet(factors=["update rule", "option bound"])
    status = {(cell, 1): "missing" for cell in planned.trained()[1:]}
    told = gap.analyze(made(tmp_path / "s", planned, linear(1, 2), status)).summary
    assert (
        "Too few cells have two finished seeds, so there are no intervals: train what is missing, or give "
        "more --seeds."
    ) in told.splitlines()
    assert "No cell has two seeds" not in told


def test_missing_and_diverged_runs_are_said_and_left_out(tmp_path: Path) -> None:
    planned = lenet()
    first, second, third = planned.trained()[:3]
    status = {(first, 0): "diverged", (second, 1): "missing", (third, 1): "running"}
    found = gap.analyze(made(tmp_path / "s", planned, linear(5, 1), status))
    assert picked(found.table, "effect", "update rule")["value"] == pytest.approx(5)
    assert picked(found.table, "effect", "update rule")["n"] == 29
    assert "2 of 58 runs are not finished: estimated from the others." in found.summary
    assert "1 diverged and is left out of the effects: cell-01-seed-0." in found.summary
    diverged = found.table[found.table["run"] == "cell-01-seed-0"].iloc[0]
    assert np.isnan(diverged["value"])
    assert "don't tell" not in found.summary


def test_a_run_that_is_damaged_or_another_one_is_named_and_hides_no_other(tmp_path: Path) -> None:
    """A run that somebody has extended by hand is not that of its cell any more."""
    planned = lenet(factors=["update rule", "option bound"], seeds=(0, 1, 2))
    place = made(tmp_path / "s", planned, linear(5, 1))
    folders = {folder.name: folder for _, _, folder in Sweep.open(place).runs()}
    (folders["cell-01-seed-0"].path / "summary.json").write_text("{")
    (folders["cell-02-seed-1"].path / READINGS).write_text("{")
    longer = [*planned.layers(planned.trained()[2], 0), Overrides("test", {"training.epochs": 9})]
    folders["cell-03-seed-0"].write_config(resolve(longer), {})
    found = gap.analyze(place)
    assert picked(found.table, "effect", "update rule")["value"] == pytest.approx(5)
    assert picked(found.table, "effect", "update rule")["n"] == 9
    assert "cell-01-seed-0 is left out (damaged): " in found.summary
    assert (
        f"cell-02-seed-1 is left out (damaged): {folders['cell-02-seed-1'].path / READINGS}" in found.summary
    )
    assert "cell-03-seed-0 is left out (other): " in found.summary
    assert "training.epochs is 9 there and 3 here" in found.summary
    assert "not finished" not in found.summary
    for folder in folders.values():
        (folder.path / "summary.json").write_text("{")
    with pytest.raises(SlotkitError, match=r"cell-01-seed-0/summary\.json can't be read"):
        gap.analyze(place)


def test_a_cell_that_is_lost_with_all_seeds_costs_an_interaction(tmp_path: Path) -> None:
    planned = lenet(factors=["update rule", "option bound"])
    lost = {((1, 1), seed): "diverged" for seed in (0, 1)}
    found = gap.analyze(made(tmp_path / "s", planned, linear(5, 1), lost))
    assert picked(found.table, "effect", "update rule")["value"] == pytest.approx(5)
    assert "don't tell, and the others assume to be 0: update rule x option bound." in found.summary
    assert np.isnan(picked(found.table, "gap")["value"])
    assert "The gap is unknown" in found.summary
    found.figure()


LIMITS = [
    (0.10, 2.31, True),  # ten equal probabilities
    (0.22, 1.70, True),  # a few classes apart, no more
    (0.70, 0.95, False),
    (0.65, 0.647, False),  # two classes, and something learned
    (0.97, 0.10, False),
]


@pytest.mark.parametrize(("accuracy", "loss", "collapsed"), LIMITS)
def test_what_counts_as_collapsed(accuracy: float, loss: float, collapsed: bool) -> None:
    assert compute._collapsed({"accuracy": accuracy, "loss": loss}) == collapsed


def test_a_network_that_collapsed_swamps_nothing(tmp_path: Path) -> None:
    planned = lenet()
    dead = planned.trained()[9]

    def accuracy(cell: Cell, seed: int) -> float:
        return 9.8 if (cell, seed) == (dead, 0) else linear(5, 1)(cell, seed)

    found = gap.analyze(made(tmp_path / "s", planned, accuracy, {(dead, 0): "collapsed"}))
    assert picked(found.table, "effect", "update rule")["value"] == pytest.approx(5)
    assert found.table.loc[found.table["run"] == "cell-10-seed-0", "value"].item() == pytest.approx(9.8)
    told = "1 collapsed to chance and is left out of the effects: cell-10-seed-0."
    assert told in found.summary


def test_no_run_at_all_is_an_error(tmp_path: Path) -> None:
    planned = lenet(factors=["update rule"], seeds=(0,))
    status = {(cell, 0): "missing" for cell in planned.trained()}
    with pytest.raises(SlotkitError, match=r"No run of the design is finished, so there is nothing to est"):
        gap.analyze(made(tmp_path / "s", planned, linear(5), status))


def test_factors_of_evaluation_are_read_from_the_same_runs(tmp_path: Path) -> None:
    planned = plan(model="conv2", selection="PS", seeds=(0, 1), epochs=2)
    found = gap.analyze(made(tmp_path / "s", planned, linear(5)))
    dropout, sampling = (picked(found.table, "reading", f.name) for f in planned.readings)
    assert (dropout["name"], dropout["value"]) == ("dropout in evaluation", pytest.approx(0.5))
    assert (sampling["name"], sampling["value"]) == ("PS evaluation", pytest.approx(-1))
    assert (dropout["between"], sampling["between"]) == (True, False)
    # Both recipes sample; the reproduction leaves dropout on.
    reference, reproduction = (
        picked(found.table, "end", name)["value"] for name in (planned.reference, planned.reproduction)
    )
    assert (reference, reproduction) == (pytest.approx(97.5 + 1.15), pytest.approx(92.5 + 1.15 - 0.5))
    assert picked(found.table, "explained")["value"] == pytest.approx(5.5)


@pytest.mark.parametrize(("kind", "accuracy"), [("greedy", 10), ("sample", 20), ("last", 30)])
def test_a_reading_that_is_set_for_all_is_the_one_that_is_read(kind: str, accuracy: float) -> None:
    planned = lenet(selection="probabilistic", layers=[Overrides("--set", {"evaluation.ps": kind})])
    run = {"readings": {"off": {"greedy": 0.1, "sample": 0.2, "last": 0.3}}}
    assert compute._read(run, planned, set()) == pytest.approx(accuracy)


def test_settings_that_were_held_are_said(tmp_path: Path) -> None:
    planned = lenet(factors=["update rule", "biases"])
    summary = gap.analyze(made(tmp_path / "s", planned, linear(5))).summary
    assert "all 4 combinations of 2 settings, 2 seeds" in summary
    assert "Held at the setting of authors-lenet-greedy, though the ends differ in it: momentum" in summary
    assert "one cosine" not in summary
    assert (
        "begin at epoch 25, and training ends with epoch 3"
        in gap.analyze(made(tmp_path / "t", lenet(), linear(5))).summary
    )


def test_the_figure_is_drawn_and_saved(tmp_path: Path) -> None:
    found: Result = gap.analyze(made(tmp_path / "s", lenet(), noisy(linear(5, 1))))
    effects, accuracies = found.figure().axes
    labels = [label.get_text() for label in effects.get_yticklabels()]
    assert labels[0] == "update rule\nselected → all"
    assert len(labels) == 11
    assert [tick.get_text() for tick in accuracies.get_xticklabels()] == [
        "every run",
        "reference",
        "reproduction",
    ]
    assert [path.name for path in found.save(tmp_path / "out")] == [
        f"gap.{e}" for e in ("csv", "png", "svg", "txt")
    ]


# Training
