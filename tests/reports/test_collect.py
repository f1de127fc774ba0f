"""Which runs are repetitions in a report, and how many there are."""

from __future__ import annotations

import re
from pathlib import Path

import made_reports as made
import pytest
from slotkit.reports.claims import accuracies
from slotkit.reports.collect import cells, collect
from slotkit.reports.figures import validation
from slotkit.reports.page import page, write
from slotkit.reports.untrained import untrained

from slotkit import recipes
from slotkit.config import Overrides, Resolved, resolve
from slotkit.data.identity import Half, Identity
from slotkit.errors import SlotkitError
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


def test_finetuned_weights_are_no_repetition_of_learned_ones(tmp_path: Path) -> None:
    """A branch of a comparison has the settings of a run with learned weights, and another beginning."""
    learned = resolve(recipes.below("paper-lenet-learned", []))
    plain = made.finished(tmp_path, "plain", learned, {"learned": 0.98})
    about = {"run": "a", "path": "/a", "checkpoint": "best", "epoch": 3}
    tuned = RunFolder.create(tmp_path, "tuned", learned, made.ENVIRONMENT, about)
    tuned.write_summary(plain.summary())
    material = collect(["plain", "tuned"], tmp_path)
    found = cells(material.rows)
    assert [len(cell.rows) for cell in found] == [1, 1]
    assert accuracies(found).learned == (98.0,)
    html = page(material, baseline=False)
    assert "<td>finetuned weights</td>" in html
    assert "finetuned from a (best)" in html


def test_what_is_named_twice_is_counted_once(tmp_path: Path) -> None:
    """A comparison was two, with an interval as of two pairs."""
    made.comparison(tmp_path)
    made.lenet(tmp_path)
    material = collect(["compared", "lenet", str(tmp_path / "compared"), str(tmp_path / "lenet")], tmp_path)
    assert (len(material.comparisons), len(material.sweeps)) == (1, 1)


def test_runs_that_have_not_begun_are_counted(tmp_path: Path) -> None:
    these = made.planned(RECIPE, seeds=range(6), slots__k=8)
    sweep, _ = made.start(tmp_path / "s", these, "s.toml")
    first = next(sweep.runs())
    made.finished(sweep.path, first.entry.name, resolve(these[0].layers), {"greedy": 0.98})
    html = page(collect(["s", str(tmp_path / "s")], tmp_path), baseline=False)
    assert "6 runs: 1 finished, 5 waiting. Made by" in html


def test_cells_that_have_not_begun_are_rows_without_a_mean(tmp_path: Path) -> None:
    """Those of a network of which no run has begun, too; of a cell that has begun nothing is added."""
    these = [
        *made.planned(RECIPE, slots__k=8),
        *made.planned(RECIPE, slots__k=4, training__lr=0.3),
        *made.planned("authors-conv2-greedy", slots__k=2),
    ]
    sweep, _ = made.start(tmp_path / "s", these, "s.toml")
    first = next(sweep.runs())
    made.finished(sweep.path, first.entry.name, resolve(these[0].layers), {"greedy": 0.98})
    html = page(collect(["s"], tmp_path), baseline=False)
    lenet, conv = (_table_of(html, title) for title in ("lenet on mnist", "conv2 on cifar10"))
    assert [(row["K"], row["test accuracy (%)"], row["n"], row["notes"]) for row in lenet] == [
        ("8", "98.00", "1", ""),
        ("4", "", "0", "2 not begun"),
    ]
    assert "training__lr 0.3" in lenet[1]["other settings"]
    assert [(row["K"], row["n"], row["notes"]) for row in conv] == [("2", "0", "2 not begun")]


def _table_of(html: str, title: str) -> list[dict[str, str]]:
    """The rows of a problem's table, by heading."""
    _, _, section = html.partition(f"<h2>{title}</h2>")
    table, _, _ = section.partition("</table>")
    headings = re.findall(r"<th>(.*?)</th>", table)
    rows = re.findall(r"<tr>((?:<td>.*?</td>)+)</tr>", table)
    return [dict(zip(headings, re.findall(r"<td>(.*?)</td>", row), strict=True)) for row in rows]


@pytest.mark.parametrize("file", ["summary.json", "config.toml", "metrics.jsonl", "data.json"])
def test_a_damaged_run_is_left_out_and_named(tmp_path: Path, file: str) -> None:
    place = made.sweep(tmp_path, "s", [(made.planned(RECIPE, slots__k=8), {"greedy": 0.98})])
    first, _ = sorted(path.name for path in place.iterdir() if path.is_dir())
    (place / first / file).write_text("nothing\n")
    material = collect(["s"], tmp_path)
    assert [row.folder.name for row in material.rows] != [first]
    assert len(material.rows) == 1
    html = page(material, baseline=False)
    assert "2 runs: 1 finished, 1 damaged. Made by" in html
    (told,) = material.left_out()
    assert told.startswith(f"{first} is left out (damaged): {place / first / file} can't be read")
    assert told.endswith(f" Or move {place / first} elsewhere, to train that run anew.")
    assert f"{first} is left out (damaged): " in html
    said: list[str] = []
    write(["s"], tmp_path, baseline=False, tell=said.append)
    assert said == [told]


def test_a_damaged_run_that_is_named_hides_no_other(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        made.finished(tmp_path, name, settings(seeds__reels=seed), {"greedy": 0.9})
    (tmp_path / "a" / "summary.json").write_text("nothing")
    assert [row.folder.name for row in collect(["a", "b"], tmp_path).rows] == ["b"]
    with pytest.raises(SlotkitError, match=r"summary.json can't be read"):
        collect(["a"], tmp_path)


def test_a_run_that_was_extended_is_shown_if_it_is_named_itself(tmp_path: Path) -> None:
    these = made.planned(RECIPE, slots__k=8)
    sweep, _ = made.start(tmp_path / "s", these, "s.toml")
    for run, one in zip(sweep.runs(), these, strict=True):
        longer = [Overrides("--epochs", {"training.epochs": 999})] if one.seed else []
        made.finished(sweep.path, run.entry.name, resolve([*one.layers, *longer]), {"greedy": 0.9})
    name = [run.entry.name for run in sweep.runs()][1]
    material = collect(["s"], tmp_path)
    assert "2 runs: 1 finished, 1 other. Made by" in page(material, baseline=False)
    (told,) = material.left_out()
    assert told.startswith(f"{name} is left out (other): ")
    both = collect(["s", str(tmp_path / "s" / name)], tmp_path)
    assert (len(both.rows), both.left_out()) == (2, [])


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
