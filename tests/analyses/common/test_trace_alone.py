"""A trace that somebody's own loop has recorded, without a config.toml: it is replayed and analysed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from slotkit.analyses import flips, thresholds, weights
from torch import nn

from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.recording.recorder import Recorder
from slotkit.recording.replay import replay
from slotkit.recording.trace import Trace
from slotkit.runs.folder import RunFolder

STEPS = 60


def record(folder: Path, k: int = 4, seed: int = 0, selection: str = "greedy") -> SlotMachine:
    """Train a small network in a loop of one's own."""
    torch.manual_seed(1)
    machine = slotify(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), k, selection, seed=seed)
    optimizer = machine.optimizer(0.5, 0.9)
    recorder = Recorder(machine, Trace(folder / "trace"), "full", 10)
    x, target = torch.randn(16, 6), torch.randint(3, (16,))
    for step in range(1, STEPS + 1):
        if selection != "greedy":
            machine.spin("probabilistic")
        nn.functional.cross_entropy(machine.model(x), target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
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
