"""Several runs put together: a damaged one is named and hides no other, and equal runs count once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import make_run, write_measurements  # type: ignore[import-not-found]
from slotkit.analyses import flips, thresholds
from slotkit.analyses.common.recorded import open_runs
from slotkit.analyses.common.result import Result
from slotkit.analyses.common.several import look_at

from slotkit.errors import SlotkitError
from slotkit.runs.folder import RunFolder

ANALYSES = [flips.analyze, thresholds.analyze]


def measured(place: Path, name: str, **settings: Any) -> RunFolder:
    folder: RunFolder = make_run(place, name, {"a": (4, 5)}, level="summary", **settings)
    write_measurements(folder, np.full(40, 0.1), np.ones((40, 1)), np.ones((4, 1, 9)), 1.0)
    return folder


def trace(folder: RunFolder) -> Path:
    return folder.path / "trace" / "steps-00000001.npz"


@pytest.mark.parametrize("analyze", ANALYSES)
@pytest.mark.parametrize("damaged", ["trace", "config.toml", "data.json"])
def test_a_damaged_run_is_named_and_hides_no_other(
    tmp_path: Path, analyze: Callable[..., Result], damaged: str
) -> None:
    folders = [measured(tmp_path, f"r{seed}", seeds__reels=seed) for seed in range(3)]
    file = trace(folders[0]) if damaged == "trace" else folders[0].path / damaged
    file.write_text("no such file")
    found = analyze(folders)
    assert set(found.table["run"]) == {"r1", "r2"}
    assert set(found.table["group"]) == {"lenet on digits, K = 4"}
    (told,) = [line for line in found.summary.splitlines() if "left out" in line]
    assert told.startswith(f"r0 is left out: {file} ")
    with pytest.raises(SlotkitError, match=f"^{file} "):
        analyze(folders[:1])


@pytest.mark.parametrize("analyze", ANALYSES)
def test_the_trace_of_another_run_is_refused(tmp_path: Path, analyze: Callable[..., Result]) -> None:
    """K and the seed of a table would be those of the trace, and its groups those of config.toml."""
    mine = measured(tmp_path, "mine", k=8, seeds__reels=3)
    other = measured(tmp_path, "other")
    shutil.copytree(other.path / "trace", mine.path / "trace", dirs_exist_ok=True)
    sentence = (
        f"The trace {mine.path / 'trace'} is of another run than the config.toml beside it: slots.k is 8 "
        "there and 4 in the trace. Put back the one that is missing, or train again."
    )
    with pytest.raises(SlotkitError) as refused:
        analyze(mine)
    assert str(refused.value) == sentence
    assert f"mine is left out: {sentence}" in analyze([mine, other]).summary.splitlines()


def test_the_seed_of_a_trace_is_that_of_its_run(tmp_path: Path) -> None:
    folder = measured(tmp_path, "mine", seeds__reels=3)
    about = folder.path / "trace" / "about.json"
    reels = {"k": 4, "seed": 5, "init": "glorot-uniform", "sharing": "none", "symmetric": False}
    about.write_text(json.dumps(json.loads(about.read_text()) | {"reels": reels}))
    with pytest.raises(SlotkitError, match=r"seeds\.reels is 3 there and 5 in the trace"):
        flips.analyze(folder)
    about.write_text(json.dumps(json.loads(about.read_text()) | {"reels": reels | {"seed": 3}}))
    assert set(flips.analyze(folder).table["seed"]) == {3}


@pytest.mark.parametrize("analyze", ANALYSES)
def test_equal_runs_count_once(tmp_path: Path, analyze: Callable[..., Result]) -> None:
    folders = [measured(tmp_path, name, seeds__reels=seed) for name, seed in (("a", 0), ("b", 1), ("c", 0))]
    found = analyze(folders)
    assert set(found.table["run"]) == {"a", "b"}
    assert (
        "c is left out: it has the settings and the seeds of a, and equal runs count once."
        in found.summary.splitlines()
    )


def test_of_equal_runs_the_finished_one_counts(tmp_path: Path) -> None:
    folders = [measured(tmp_path, name) for name in "ab"]
    test = {"best": {"greedy": {"accuracy": 0.5}}}
    folders[1].write_summary({"status": "finished", "test": test})
    counted = look_at(open_runs(folders), lambda folder, name: name)
    assert (counted.names, counted.found) == (["b"], ["b"])


def test_other_seeds_or_settings_are_no_equal_runs(tmp_path: Path) -> None:
    one = measured(tmp_path, "one")
    other_order = measured(tmp_path, "order", seeds__data=1)
    other_rate = measured(tmp_path, "rate", training__lr=0.2)
    assert look_at([one, other_order, other_rate], lambda folder, name: name).names == [
        "one",
        "order",
        "rate",
    ]


def test_settings_that_do_not_change_what_is_trained_make_no_other_runs(tmp_path: Path) -> None:
    """One training would count twice, and seeds of one training would be groups of one run each."""
    one = measured(tmp_path, "one")
    again = measured(tmp_path, "again", data__workers=2, evaluation__batch_size=100)
    seed = measured(tmp_path, "seed", seeds__reels=1, data__memory=1.0, training__accumulate=2)
    found = flips.analyze([one, again, seed])
    assert found.table.groupby("run")["group"].first().to_dict() == dict.fromkeys(
        ["one", "seed"], "lenet on digits, K = 4"
    )
    assert "again is left out: it has the settings and the seeds of one, and equal" in found.summary
    # Where dropout is kept in evaluation, its masks are drawn batch by batch.
    noisy = [
        measured(tmp_path, f"noisy{size}", evaluation__keep_dropout=True, evaluation__batch_size=size)
        for size in (100, 200)
    ]
    assert set(flips.analyze(noisy).table["run"]) == {"noisy100", "noisy200"}


def test_what_the_names_of_groups_do_not_say_is_told(tmp_path: Path) -> None:
    """A curve "by K" may be one by learning rate."""
    runs = [
        measured(tmp_path, "k2", k=2, training__lr=0.3),
        measured(tmp_path, "k4", k=4),
        measured(tmp_path, "k8", k=8),
    ]
    told = "The groups differ in lr, too, which their names don't say."
    found = flips.analyze(runs)
    assert set(found.table["group"]) == {"K = 2", "K = 4", "K = 8"}
    assert told in found.summary.splitlines()
    assert "The groups differ" not in flips.analyze(runs[1:]).summary
    other = measured(tmp_path, "other", data__dataset="mnist", data__mean=(0.5,), data__std=(0.5,))
    assert "The groups differ" not in flips.analyze([runs[1], other]).summary
