"""A trace that somebody's own loop has recorded, without a config.toml: it is replayed and analysed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from slotkit.analyses import flips, thresholds, weights
from torch import nn

from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.recording.recorder import Recorder
from slotkit.recording.replay import first_selection, reels_of, replay, selections_at
from slotkit.recording.trace import Trace
from slotkit.runs.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

STEPS = 60


def record(
    folder: Path, k: int = 4, seed: int = 0, selection: str = "greedy", before: int = 0
) -> SlotMachine:
    """Train a small network in a loop of one's own, the first steps `before` it is recorded."""
    torch.manual_seed(1)
    machine = slotify(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), k, selection, seed=seed)
    optimizer = machine.optimizer(0.5, 0.9)
    x, target = torch.randn(16, 6), torch.randint(3, (16,))
    for step in range(1 - before, STEPS + 1):
        if step == 1:
            recorder = Recorder(machine, Trace(folder / "trace"), "full", 10)
        if selection != "greedy":
            machine.spin("probabilistic")
        nn.functional.cross_entropy(machine.model(x), target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if step >= 1:
            recorder.record(step, 0.5)
    recorder.flush()
    return machine


def test_it_is_replayed_and_analysed(tmp_path: Path) -> None:
    machine = record(tmp_path / "mine")
    weight = machine.model.get_parameter("0.weight").detach()
    flipped = flips.analyze(tmp_path / "mine")
    reached = thresholds.analyze([tmp_path / "mine"])

    assert torch.equal(replay(RunFolder(tmp_path / "mine"), STEPS)["0.weight"], weight)
    assert set(flipped.table["group"]) == set(reached.table["group"]) == {"a recorded machine, K = 4"}
    assert set(flipped.table["k"]) == {4}
    total = flipped.table.query("quantity == 'flips' and layer == 'all'")["value"].item()
    changed = sum(columns["changed"].sum() for _, columns in Trace(tmp_path / "mine" / "trace").chunks())
    assert total * (6 * 5 + 5 * 3) == pytest.approx(changed)
    assert changed > 0


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_machine_that_was_trained_before_begins_with_the_options_of_then(
    tmp_path: Path, selection: str
) -> None:
    record(tmp_path / "mine", selection=selection, before=20)
    folder = RunFolder(tmp_path / "mine")
    path = [
        torch.cat([selected.flatten() for selected in at.values()])
        for at in selections_at(folder, range(STEPS + 1))
    ]
    table = flips.analyze(folder).table.query("layer == 'all'")

    def shares(quantity: str) -> pd.Series:
        return table[table["quantity"] == quantity].set_index("at")["value"]

    every = torch.stack(path)  # (steps + 1, reels)
    used = torch.stack([(every == k).any(dim=0) for k in range(4)]).sum(dim=0)
    assert (every[0] != torch.cat([first_selection(reel) for reel in reels_of(folder).values()])).any()
    assert shares("agreement")[0] == pytest.approx((every[0] == every[-1]).double().mean())
    assert [shares("options visited").get(k, 0) for k in range(1, 5)] == pytest.approx(
        [(used == k).double().mean().item() for k in range(1, 5)]
    )


def test_seeds_are_a_group_and_k_tells_groups_apart(tmp_path: Path) -> None:
    for name, k, seed in (("a", 4, 0), ("b", 4, 1), ("c", 8, 0)):
        record(tmp_path / name, k, seed)
    table = flips.analyze([tmp_path / name for name in "abc"]).table
    groups = table.groupby("run")["group"].first()
    assert groups["a"] == groups["b"] == "K = 4"
    assert groups["c"] == "K = 8"
    assert sorted(table["seed"].unique()) == [0, 1]


def test_what_it_does_not_have_is_said(tmp_path: Path) -> None:
    record(tmp_path / "mine")
    with pytest.raises(SlotkitError, match=r"config\.toml can't be read"):
        weights.analyze(tmp_path / "mine")
    about = tmp_path / "mine" / "trace" / "about.json"
    described = json.loads(about.read_text())
    del described["reels"]
    about.write_text(json.dumps(described))
    with pytest.raises(SlotkitError, match=r"config\.toml can't be read"):
        flips.analyze(tmp_path / "mine")
