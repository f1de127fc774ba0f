"""Several processes train one network: one process's selections, one that writes, and ends told once."""

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
from commands import invoke, refuse  # type: ignore[import-not-found]
from forks import COMMAND, Fork, Forks  # type: ignore[import-not-found]
from together import run_together, start_together, told_by_torchrun  # type: ignore[import-not-found]

from slotkit.config import Overrides, resolve
from slotkit.data.images import Dataset
from slotkit.data.sources import load
from slotkit.errors import SlotkitError
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.settings import DataSettings
from slotkit.standin import stand_in
from slotkit.training import experiment
from slotkit.training.following import first_one_fetches, shared
from slotkit.training.prepare import prepare
from slotkit.training.processes import ALONE, Processes, check_device, count_in, joined

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = """
import torch
from torch import nn

class Centre(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
    def forward(self, x):
        if self.training:
            self.mean.mul_(0.5).add_(0.5 * x.detach().mean(0))
        return x - self.mean

def centred():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), Centre(24), nn.ReLU(), nn.Linear(24, 10))

def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.ReLU(), nn.Linear(2, 10))

def make():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3), nn.Linear(24, 10)
    )

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
"""

SMALL = (
    "--device",
    "cpu",
    "--set",
    "slots.engine=eager",
    "--set",
    "slots.k=4",
    "--set",
    "training.log_every=5",
)

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


@pytest.fixture(autouse=True)
def in_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    monkeypatch.delitem(sys.modules, "net", raising=False)


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


def told(ends: list[Fork]) -> list[str]:
    """What was told of an error, by whichever process."""
    lines = [line for one in ends for line in one.err.read_text().splitlines()]
    return [line for line in lines if line.startswith(("Error", "Stopped", "Traceback"))]


# ---------------------------------------------------------------------------------------------------
# A run has the same bits, whoever trains it.


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


# ---------------------------------------------------------------------------------------------------
# Ends.

LONG = ("--model-factory", "net:plain", "--epochs", "3000", *SMALL)


def test_sigterm_to_one_ends_all_with_the_state_saved(tmp_path: Path, forks: Forks) -> None:
    ends = start_together(forks, "train", *LONG, "--name", "run", cwd=tmp_path)
    ends[0].until_it_says("epoch 1/")
    ends[1].send_signal(signal.SIGTERM)
    assert [one.wait() for one in ends] == [143, 143]
    folder = RunFolder(tmp_path / "runs" / "run")
    summary = folder.summary()
    assert (summary["status"], folder.status()) == ("stopped", "stopped")
    step = checkpoint.load(folder.checkpoint("last"))[0]["training"]["step"]
    assert summary["reason"] == f"SIGTERM after step {step}"
    assert told(ends) == [
        f"Stopped: SIGTERM after step {step}. `slotkit train --resume runs/run` goes on from there."
    ]


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_killed_process_ends_the_other(killed: int, tmp_path: Path, forks: Forks) -> None:
    ends = start_together(forks, "train", *LONG, "--name", "run", cwd=tmp_path)
    ends[0].until_it_says("epoch 1/")
    ends[killed].kill()
    assert ends[1 - killed].wait() == 2
    sentence = (
        "Of the 2 processes that train together another one has ended without a word (it was killed, or the "
        "memory was full), or doesn't answer. `slotkit train --resume RUN` goes on from the last checkpoint."
    )
    assert told(ends) == [f"Error: {sentence}"]
    folder = RunFolder(tmp_path / "runs" / "run")
    assert folder.status() == ("killed" if killed == 0 else "failed")
    if killed == 1:
        assert folder.summary()["reason"] == sentence


FAILING = f"""
import os
from slotkit.errors import SlotkitError
from slotkit.training.gradients import Gradients

of = Gradients.of

def fail(self, images, labels, step, total):
    if step == 12 and os.environ["RANK"] == "1":
        raise KIND("The disk of rank 1 is full.")
    return of(self, images, labels, step, total)

Gradients.of = fail
{COMMAND}
"""


@pytest.mark.parametrize("kind", ["SlotkitError", pytest.param("ValueError", marks=pytest.mark.long)])
def test_a_process_that_fails_ends_the_other_with_its_error(kind: str, tmp_path: Path, forks: Forks) -> None:
    """Told once: as a sentence if it is one, and by its traceback otherwise."""
    code = FAILING.replace("KIND", kind)
    ends = start_together(forks, "train", *LONG, "--name", "run", cwd=tmp_path, code=code)
    assert [one.wait() for one in ends] == [2, 2 if kind == "SlotkitError" else 1]
    error = "The disk of rank 1 is full."
    assert told(ends) == (
        [f"Error: {error}"] if kind == "SlotkitError" else ["Traceback (most recent call last):"]
    )
    summary = RunFolder(tmp_path / "runs" / "run").summary()
    words = error if kind == "SlotkitError" else f"{kind}: {error}"
    assert summary["status"] == "failed"
    assert summary["reason"] == (
        f"The process of rank 1 has ended with an error: {words} `slotkit train --resume RUN` goes on from "
        "the last checkpoint."
    )


def test_what_all_processes_refuse_is_told_once(tmp_path: Path, forks: Forks) -> None:
    ends = start_together(forks, "train", "--model", "lenat", cwd=tmp_path)
    assert [one.wait() for one in ends] == [2, 2]
    (line,) = told(ends)
    assert line.startswith("Error: There is no model 'lenat'.")


# ---------------------------------------------------------------------------------------------------
# Refusals, and one process.


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            {"WORLD_SIZE": "two"},
            "WORLD_SIZE is 'two' in the environment, where torchrun puts the number of processes. Unset it, "
            "or start with `torchrun --nproc-per-node N -m slotkit train`.",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"},
            "WORLD_SIZE is 2 in the environment, and LOCAL_RANK, MASTER_PORT is missing: torchrun sets them "
            "all. Start with `torchrun --nproc-per-node N -m slotkit train`, or unset WORLD_SIZE.",
        ),
    ],
)
def test_half_an_environment_is_refused(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(SlotkitError) as refused, joined(environment):
        pass
    assert str(refused.value) == sentence


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "1", "RANK": "0"}])
def test_one_process_joins_nobody(environment: dict[str, str]) -> None:
    assert count_in(environment) == 1
    with joined(environment) as processes:
        assert processes is ALONE
    assert not torch.distributed.is_initialized()
    assert ALONE.leads
    assert ALONE.text("runs/one") == "runs/one"
    assert [ALONE.any(flag) for flag in (True, False)] == [True, False]


def test_other_commands_are_the_work_of_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in told_by_torchrun(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    assert refuse(monkeypatch, capsys, "runs", "list") == (
        "Error: `slotkit runs` is the work of one process, and torchrun has started 2. Run it without "
        "torchrun; `slotkit train` is what several processes do together.\n"
    )


@pytest.mark.parametrize(
    ("rank", "download", "order"),
    [(0, True, ["load", "wait"]), (1, True, ["wait", "load"]), (0, False, ["load"]), (1, False, ["load"])],
)
def test_missing_data_are_fetched_by_the_first_process(rank: int, download: bool, order: list[str]) -> None:
    done: list[str] = []

    class Waiting(Processes):
        def wait(self) -> None:
            done.append("wait")

    with first_one_fetches(DataSettings(download=download), Waiting(rank, 2)):
        done.append("load")
    assert done == order


@pytest.mark.parametrize(("rank", "order"), [(0, ["load", "wait"]), (1, ["wait", "load"])])
def test_missing_data_of_a_run_that_goes_on_are_fetched_by_the_first_process(
    rank: int, order: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"training.device": "cpu", "slots.engine": "eager", "recording.trace": "off"}
    settings |= {"training.epochs": 1, "training.limit_batches": 1}
    folder = experiment.run(resolve([Overrides("test", settings)]), tmp_path, "begun")
    done: list[str] = []

    class Waiting(Processes):
        def wait(self) -> None:
            done.append("wait")

    def loaded(*given: Any) -> Dataset:
        done.append("load")
        return load("digits", None)

    def trained(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slotkit.data.sources.load", loaded)
    for name in ("_Training", "follow"):
        monkeypatch.setattr(f"slotkit.training.experiment.{name}", trained)
    with pytest.raises(KeyboardInterrupt):
        experiment.resume(
            folder,
            [Overrides("--set", {"training.epochs": 2, "data.download": True})],
            processes=Waiting(rank, 2),
        )
    assert done == order


def test_the_dense_form_is_refused() -> None:
    prepared = prepare(resolve([Overrides("test", {"slots.form": "dense", "training.device": "cpu"})]))
    with pytest.raises(SlotkitError) as refused:
        shared(prepared, Processes(0, 2))
    assert str(refused.value) == (
        "This run's slot machine is in the dense form, and 2 processes train together. The gradient of its "
        "scores has K numbers a connection, too many to send at each step. Use the latent form "
        "(slots.form=latent), or one process."
    )
    assert shared(prepared, ALONE) is prepared


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    check_device("cuda:0", "cuda", ALONE)
    check_device("auto", "cpu", Processes(0, 2))
    sentences = []
    for name, kind in (("cuda:0", "cuda"), ("auto", "mps"), ("cuda", "cuda")):
        with pytest.raises(SlotkitError) as refused:
            check_device(name, kind, Processes(0, 2))
        sentences.append(str(refused.value))
    assert sentences == [
        "training.device is cuda:0, which is one GPU, and 2 processes train together. With --device cuda "
        "each takes its own.",
        "Several processes train on CPUs or CUDA GPUs, not on mps. Use --device cpu.",
        "There are 1 GPUs for 2 processes on this machine. Give torchrun --nproc-per-node 1, or train with "
        "--device cpu.",
    ]
