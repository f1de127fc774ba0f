"""Several processes train one network, with one process's selections and bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import invoke  # type: ignore[import-not-found]
from forks import COMMAND, Fork, Forks  # type: ignore[import-not-found]
from together import SMALL, run_together, start_together, told  # type: ignore[import-not-found]

from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.standin import stand_in
from slotkit.training import processes

pytestmark = pytest.mark.usefixtures("one_thread", "with_networks")

# 1,222 images: nine batches of 127, whose halves differ, and one of 79. 6 epochs make 60 steps.
JOINT = (
    *("--model-factory", "net:plain", "--precision", "fp64", "--trace", "full"),
    *("--epochs", "6", "--set", "training.batch_size=127", *SMALL),
)

# All that could differ: dropout, batch norm, halves of other lengths. A commit at every step.
SAME_BITS = (
    *("--model-factory", "net:make", "--epochs", "3", "--set", "training.batch_size=255", *SMALL),
    *("--set", "recording.checkpoint_minutes=1e-9"),
)

# What clocks, this machine and the number of processes decide.
NOT_BITS = ("config.toml", "log.txt", "times.jsonl", "summary.json", "lock")


def alone(*arguments: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 0, done.stderr


def state_of(run: str) -> dict[str, Any]:
    return checkpoint.load(RunFolder(Path("runs") / run).checkpoint("last"))[0]


def bits_of(run: str) -> dict[str, bytes]:
    folder = Path("runs") / run
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in NOT_BITS}


def assert_same_bits(one: str, two: str) -> None:
    first, second = bits_of(one), bits_of(two)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    tests = [RunFolder(Path("runs") / run).summary()["test"] for run in (one, two)]
    assert tests[0] == tests[1]


def assert_same_selections(one: str, two: str, steps: int = 60) -> None:
    states = [state_of(run) for run in (one, two)]
    assert [state["training"]["step"] for state in states] == [steps, steps]
    machines = [stand_in(state, {}) for state in states]
    for name in machines[0].reels:
        assert torch.equal(machines[0].selected(name), machines[1].selected(name))
    losses = [[entry["loss"] for entry in RunFolder(Path("runs") / run).metrics()] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0][0] != pytest.approx(losses[0][-1], rel=1e-3)


def test_torchrun_with_two_processes_selects_what_one_process_selects(tmp_path: Path) -> None:
    """Greedy, 60 steps in float64; and the flight recorders have seen the same flips at the same steps."""
    alone("train", *JOINT, "--name", "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "slotkit", "train", *JOINT, "--name", "two"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("run folder: runs/two") == 1
    assert done.stderr.count("epoch 6/6") == 1
    assert_same_selections("one", "two")
    traces = [(Path("runs") / run / "trace" / "steps-00000001.npz").read_bytes() for run in ("one", "two")]
    assert traces[0] == traces[1]


def test_two_processes_draw_what_one_process_draws(tmp_path: Path, forks: Forks) -> None:
    """Probabilistic: the latents are the same, and every draw is one of a counter."""
    alone("train", *JOINT, "--selection", "PS", "--name", "one")
    run_together(forks, "train", *JOINT, "--selection", "PS", "--name", "two", cwd=tmp_path)
    assert_same_selections("one", "two")


@pytest.mark.parametrize("seed", ["1", "9"])
def test_a_layer_that_is_dead_for_one_process_alone_stops_nobody(
    seed: str, tmp_path: Path, forks: Forks
) -> None:
    """For the images of the first one or the second, and the other one looks at others."""
    few = ("--epochs", "1", "--set", "training.batch_size=2", "--set", "training.limit_batches=3")
    run_together(
        forks,
        "train",
        "--model-factory",
        "net:narrow",
        *few,
        *SMALL,
        "--seed",
        seed,
        "--name",
        "r",
        cwd=tmp_path,
    )
    assert RunFolder(Path("runs/r")).summary()["status"] == "finished"


def test_buffers_of_other_modules_are_those_of_the_first_process(tmp_path: Path, forks: Forks) -> None:
    """In all of them: what was read while training is what the checkpoint gives."""
    few = ("--epochs", "1", "--set", "training.batch_size=200", "--set", "evaluation.batch_size=16")
    run_together(forks, "train", "--model-factory", "net:centred", *few, *SMALL, "--name", "r", cwd=tmp_path)
    done = invoke("evaluate", "r", "--model-factory", "net:centred", "--checkpoint", "last", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["readings"] == RunFolder(Path("runs/r")).summary()["test"]["last"]


FORGOTTEN = f"""
import sys
from slotkit.training import processes
added = processes._Together.sum
processes._Together.sum = lambda self, numbers: None if numbers.numel() > 100 else added(self, numbers)
if sys.argv.pop() == "unwatched":
    processes._Together.check_same = lambda self, tensors, when: None
{COMMAND}
"""


@pytest.mark.parametrize("watched", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_forgotten_reduction_is_seen(watched: bool, tmp_path: Path, forks: Forks) -> None:
    """By the processes themselves after an epoch, and by the comparison with one process."""
    word = "watched" if watched else "unwatched"
    short = (*JOINT, "--epochs", "2")
    ends = start_together(forks, "train", *short, "--name", "two", word, cwd=tmp_path, code=FORGOTTEN)
    assert [one.wait() for one in ends] == ([2, 2] if watched else [0, 0])
    if watched:
        assert told(ends) == [
            "Error: The processes have come apart: after epoch 1 their weights are not the same. A network "
            "with a state of its own beside batch norm's, or an operation without a deterministic form, does "
            "that. Train with one process, or with --deterministic."
        ]
        return
    alone("train", *short, "--name", "one")
    with pytest.raises(AssertionError):
        assert_same_selections("one", "two", steps=20)


def test_weights_in_another_order_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[int]] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda numbers, how: told.append(numbers.tolist()))
    one = torch.tensor([1.0, 2.0, 3.0])
    for tensors in ([one], [one.clone()], [one.flip(0)], [one[:1], one[1:]], [torch.ones(5)[::5], one[1:]]):
        processes._Together(0, 2, None).check_same(tensors, "after epoch 1")
    whole, again, turned, parts, with_a_gap = (number for number, _ in told)
    assert whole == again == parts == with_a_gap
    assert turned != whole
    assert [both[0] + both[1] for both in told] == [0] * 5


def kill(ends: list[Fork]) -> None:
    for one in ends:
        one.send_signal(signal.SIGKILL)
    assert {one.wait() for one in ends} == {-signal.SIGKILL}


def test_killed_with_two_and_resumed_with_two_or_one(tmp_path: Path, forks: Forks) -> None:
    alone("train", *SAME_BITS, "--set", "training.accumulate=2", "--name", "whole")
    ends = start_together(forks, "train", *SAME_BITS, "--name", "two", cwd=tmp_path)
    ends[0].until_it_says("epoch 1/3")
    kill(ends)
    folder = RunFolder(tmp_path / "runs" / "two")
    assert folder.status() == "killed"
    shutil.copytree(folder.path, tmp_path / "runs" / "again")
    run_together(forks, "train", "--resume", "two", "--model-factory", "net:make", cwd=tmp_path)
    alone("train", "--resume", "again", "--model-factory", "net:make")
    for run in ("two", "again"):
        assert "Resumed after step" in (tmp_path / "runs" / run / "log.txt").read_text()
        assert_same_bits(run, "whole")
    assert folder.config().training.accumulate == 2


def test_one_process_is_followed_by_two_and_sums_change(tmp_path: Path, forks: Forks) -> None:
    alone("train", *SAME_BITS, "--name", "one", "--epochs", "1")
    ends = start_together(
        forks, "train", "--resume", "one", "--epochs", "2", "--model-factory", "net:make", cwd=tmp_path
    )
    assert [one.wait() for one in ends] == [0, 0]
    assert (
        "A step takes its batch in 2 pieces from here on, and took it in 1: sums are rounded otherwise, and "
        "dropout and batch norm work piece by piece."
    ) in ends[0].err.read_text().splitlines()
    assert RunFolder(tmp_path / "runs" / "one").config().training.accumulate == 2
    assert RunFolder(tmp_path / "runs" / "one").summary()["epochs"] == 2
