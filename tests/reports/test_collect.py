"""Which runs are repetitions in a report, and how many there are."""

from __future__ import annotations

import re
from pathlib import Path

import made_reports as made
from slotkit.reports.collect import cells, collect
from slotkit.reports.figures import validation
from slotkit.reports.page import page
from slotkit.reports.untrained import untrained

from slotkit import recipes
from slotkit.config import Overrides, Resolved, resolve
from slotkit.data.identity import Half, Identity
from slotkit.runs.folder import RunFolder

RECIPE = "paper-lenet-greedy"


def settings(**values: object) -> Resolved:
    own = {path.replace("__", "."): value for path, value in values.items()}
    return resolve([*recipes.below(RECIPE, []), Overrides("--set", own)])


def test_runs_with_equal_seeds_are_one(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        status = "stopped" if name == "a" else "finished"
        made.finished(tmp_path, name, settings(seeds__reels=seed), {"greedy": 0.98}, status=status)
    material = collect(["a", "b", "c"], tmp_path)
    (cell,) = cells(material.rows)
    assert [row.folder.name for row in cell.rows] == ["b", "c"]
    html = page(material, baseline=False)
    assert "<td>1 more with equal seeds, not counted</td>" in html
    assert "<h2>a: stopped</h2>" in html  # it was named, and is shown


def test_how_a_run_was_recorded_and_where_tells_no_methods_apart(tmp_path: Path) -> None:
    made.finished(tmp_path, "a", settings(), {"greedy": 0.98})
    values = {"recording__trace": "off", "training__device": "cuda", "training__log_every": 7}
    made.finished(tmp_path, "b", settings(seeds__reels=1, **values), {"greedy": 0.97})
    material = collect(["a", "b"], tmp_path)
    assert [len(cell.rows) for cell in cells(material.rows)] == [2]
    assert "greedy (n = 2)" in page(material, baseline=False)


def test_equal_settings_are_equal_whoever_said_them(tmp_path: Path) -> None:
    made.finished(tmp_path, "a", settings(), {"greedy": 0.98})
    told = dict(settings().origins)
    own = Resolved(settings(seeds__reels=1).config, dict.fromkeys(told, "my.toml"))
    made.finished(tmp_path, "b", own, {"greedy": 0.97})
    assert [len(cell.rows) for cell in cells(collect(["a", "b"], tmp_path).rows)] == [2]


def test_runs_on_data_that_were_changed_are_no_repetitions(tmp_path: Path) -> None:
    half = Half(images=10, labels="x", pixels="x")
    for seed, images in enumerate((half, half, Half(images=9, labels="x", pixels="x"))):
        folder = made.finished(tmp_path, f"s{seed}", settings(seeds__reels=seed), {"greedy": 0.98})
        data = Identity(
            dataset="mnist", classes=None, class_count=10, image=[1, 28, 28], train=images, test=half
        )
        folder.write_data(data)
    material = collect(["s0", "s1", "s2"], tmp_path)
    assert [len(cell.rows) for cell in cells(material.rows)] == [2, 1]
    html = page(material, baseline=False)
    assert re.findall(r"</svg>([^<]+)</li>", html)[:2] == ["greedy, data 1 (n = 2)", "greedy, data 2 (n = 1)"]


def test_runs_that_have_not_begun_are_counted(tmp_path: Path) -> None:
    these = made.planned(RECIPE, seeds=range(6), slots__k=8)
    sweep, _ = made.start(tmp_path / "s", these, "s.toml")
    first = next(sweep.runs())
    made.finished(sweep.path, first.entry.name, resolve(these[0].layers), {"greedy": 0.98})
    html = page(collect(["s", str(tmp_path / "s")], tmp_path), baseline=False)
    assert "6 runs: 1 finished, 5 waiting. Made by" in html


def test_curves_are_means_over_the_same_runs_all_along(tmp_path: Path) -> None:
    for name, curve, status in (
        ("a", (0.5, 0.6, 0.9), "finished"),
        ("b", (0.3, 0.4), "finished"),  # it has run out of patience
        ("c", (0.1,), "stopped"),
    ):
        made.finished(tmp_path, name, settings(seeds__reels=ord(name)), {"greedy": 0.9}, curve, status)
    (cell,) = cells(collect(["a", "b", "c"], tmp_path).rows)
    assert validation(cell) == [(1, 40.0), (2, 50.0)]


def test_a_network_before_training_counts_once_however_it_is_trained(tmp_path: Path) -> None:
    for name, seed, lr in (("a", 0, 0.1), ("b", 0, 0.2), ("c", 1, 0.1)):
        folder = made.finished(tmp_path, name, settings(seeds__reels=seed, training__lr=lr), {"greedy": 0.98})
        start = {"greedy": {"accuracy": 0.1 + seed / 10}}
        summary = folder.summary()
        folder.write_summary(summary | {"test": summary["test"] | {"start": start}})
    found, faults = untrained(collect(["a", "b", "c"], tmp_path).rows)
    assert (found, faults) == ({8: [10.0, 20.0]}, [])


def test_loops_of_ones_own_whose_seeds_are_not_known_are_not_equal(tmp_path: Path) -> None:
    told = {"method": "slot", "model.name": "own", "data.dataset": "own", "slots.k": 8, "seeds.reels": 0}
    about = {"network": "Net", "optimizer": "SlotSGD", "init": "x", "channel_dims": {}}
    for name in "ab":
        own = resolve([Overrides("slotkit.record", told)])
        folder = RunFolder.create(tmp_path, name, own, made.ENVIRONMENT, recorded=about)
        folder.write_summary({"status": "finished", "kind": "recorded"})
    (cell,) = cells(collect(["a", "b"], tmp_path).rows)
    assert (len(cell.rows), cell.equal) == (2, 0)
