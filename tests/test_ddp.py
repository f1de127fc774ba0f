"""A hand-written loop under DistributedDataParallel, recorded; and a slot machine under fully_shard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from together import run_together  # type: ignore[import-not-found]
from torch import distributed, nn

import slotkit
from slotkit.errors import SlotkitError
from slotkit.runs.folder import RunFolder

# A loop; of several processes, under DistributedDataParallel, each takes its rows of the joint batch.
LOOP = """
import json, os, sys
import torch
from torch import distributed, nn
import slotkit

def train(selection, place, until, resume=False):
    rank, count = 0, 1
    if distributed.is_initialized():
        rank, count = distributed.get_rank(), distributed.get_world_size()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    machine = slotkit.slotify(network, k=8, selection=selection, engine="eager")
    optimizer = machine.optimizer(lr=1.0, momentum=0.9, weight_decay=1e-4)
    model = nn.parallel.DistributedDataParallel(network) if count > 1 else network
    images = torch.randn(64, 12, generator=torch.Generator().manual_seed(3)).double()
    labels = torch.arange(64) % 3
    with slotkit.record(machine, optimizer, place, trace="full", every=5, resume=resume) as run:
        for step in range(run.step, until):
            rows = torch.arange(64).roll(-step)[:16].chunk(count)[rank]
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
        run.checkpoint(step=run.step)
    return {name: machine.selected(name).tolist() for name in machine.reels} | {"step": run.step}

if "WORLD_SIZE" in os.environ:
    distributed.init_process_group("gloo")
    for selection in sys.argv[1:]:
        train(selection, selection, 25)
        print(json.dumps(train(selection, selection, 60, resume=True)))
    distributed.destroy_process_group()
"""


@pytest.mark.usefixtures("one_thread")
def test_loops_under_ddp_select_what_the_joint_batch_selects(tmp_path: Path, forks: Forks) -> None:
    """60 steps in float64, interrupted after 25: the first process has recorded all, the second nothing."""
    own: dict[str, Any] = {}
    exec(LOOP, own)
    selections = ("greedy", "probabilistic")
    whole = [own["train"](selection, tmp_path / f"one-{selection}", 60) for selection in selections]
    printed = run_together(forks, *selections, cwd=tmp_path, code=LOOP)
    assert [[json.loads(line) for line in text.splitlines()] for text in printed] == [whole, whole]
    assert whole[0] != whole[1]
    for selection in selections:
        two = RunFolder(tmp_path / selection)
        summary = two.summary()
        assert (summary["steps"], summary["status"]) == (60, "finished")
        assert len(list(two.metrics())) == 60
    assert len(list(tmp_path.iterdir())) == 4
    traces = [tmp_path / run / "trace" / "steps-00000001.npz" for run in ("one-greedy", "greedy")]
    assert traces[0].read_bytes() == traces[1].read_bytes()


# ---------------------------------------------------------------------------------------------------
# FSDP2.

SENTENCE = (
    "0.weight lies in shards, one a process (fully_shard does that), and a slot machine needs whole weights. "
    "Leave fully_shard out: DistributedDataParallel, and torchrun with `slotkit train`, keep a whole network "
    "in every process and send the gradients of its weights only."
)


@pytest.fixture
def group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_machine_in_shards_does_not_step(selection: str, group: None) -> None:
    from torch.distributed.fsdp import fully_shard

    model = network()
    machine = slotkit.slotify(model, k=4, selection=selection)
    optimizer = machine.optimizer(lr=1.0)
    fully_shard(model)

    def step() -> None:
        model(torch.ones(2, 6)).sum().backward()
        optimizer.step()

    with pytest.raises(SlotkitError) as refused:
        step()
    assert str(refused.value) == SENTENCE
    with pytest.raises(SlotkitError, match="lies in shards"):
        machine.state_dict()


def test_a_network_in_shards_becomes_no_machine(group: None) -> None:
    from torch.distributed.fsdp import fully_shard

    model = network()
    fully_shard(model)
    with pytest.raises(SlotkitError) as refused:
        slotkit.slotify(model, k=4)
    assert str(refused.value) == SENTENCE
