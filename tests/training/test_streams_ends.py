"""How a training ends whose pictures are read by other processes, and what it goes on with.

By kill -9, by Ctrl-C, by SIGTERM for all processes, and by the end of a process that reads.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import invoke  # type: ignore[import-not-found]
from forks import COMMAND, Forks  # type: ignore[import-not-found]
from made_pictures import write_folder
from together import run_together  # type: ignore[import-not-found]

from slotkit.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")

# 40 training images, 10 steps in an epoch; a commit at every step.
TRAIN = (
    *(
        "train",
        "--dataset",
        "imagefolder:imgs",
        "--epochs",
        "2",
        "--device",
        "cpu",
        "--model-factory",
        "net:make",
    ),
    *("--set", "training.batch_size=4", "--set", "slots.k=2", "--set", "slots.engine=eager"),
    *("--set", "recording.checkpoint_minutes=1e-9", "--set", "training.log_every=1"),
    *("--set", "data.augment=flip+mixup"),
)
STREAMED = ("--set", "data.memory=0", "--set", "data.workers=2")

NETWORK = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 2))
"""

# In step 11, the first one of the second epoch, `HAPPENS` does.
ENDED = f"""
import multiprocessing, os, signal, sys
from slotkit.training.gradients import Gradients

of = Gradients.of

def happens(self, images, labels, step, total):
    if step == 10:
        readers = [reader.pid for reader in multiprocessing.active_children()]
        print("readers", *readers, file=sys.stderr, flush=True)
        HAPPENS
    return of(self, images, labels, step, total)

Gradients.of = happens
{COMMAND}
"""
CTRL_C = "[os.kill(one, signal.SIGINT) for one in (*readers, os.getpid())]"
SIGTERM = "[os.kill(one, signal.SIGTERM) for one in (*readers, os.getpid())]"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the pictures are, and the run `whole`, which nothing has ended."""
    found = tmp_path_factory.mktemp("ends")
    write_folder(found / "imgs", 22, 2)
    (found / "net.py").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found)
        patch.delitem(sys.modules, "net", raising=False)
        done(*TRAIN, "--name", "whole")
        yield found


def done(*arguments: str) -> RunFolder:
    ended = invoke(*arguments)
    assert ended.exit_code == 0, ended.stderr
    return RunFolder(Path("runs") / arguments[-1])


def assert_same(one: RunFolder, two: RunFolder) -> None:
    for name in ("metrics.jsonl", "checkpoints/last.safetensors", "checkpoints/best.safetensors"):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes(), name
    assert one.summary()["test"] == two.summary()["test"]


def is_there(process: int) -> bool:
    """Whether it runs: one that has ended and that nobody has asked for is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("happens", "code", "status", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, "killed", None),
        (CTRL_C, 130, "interrupted", None),
        (SIGTERM, 143, "stopped", "Stopped: SIGTERM after step "),
        (
            "os.kill(readers[0], signal.SIGKILL)",
            2,
            "failed",
            "Error: A process that reads pictures ended: ",  # and how that was noticed
        ),
    ],
    ids=["kill -9", "Ctrl-C", "SIGTERM", "reader"],
)
def test_it_ends_with_its_readers_and_goes_on_to_the_same_bits(
    happens: str, code: int, status: str, told: str | None, place: Path, forks: Forks
) -> None:
    name = f"{status}-part"
    ended = forks.start(ENDED.replace("HAPPENS", happens), *TRAIN, *STREAMED, "--name", name, cwd=place)
    assert ended.wait() == code, ended.err.read_text()[-2000:]
    lines = ended.err.read_text().splitlines()
    (readers,) = ([int(one) for one in line.split()[1:]] for line in lines if line.startswith("readers"))
    assert len(readers) == 2
    assert not any("Traceback" in line for line in lines)
    if told is not None:
        assert any(line.startswith(told) for line in lines), lines
    assert RunFolder(Path("runs") / name).status() == status
    part = done("train", "--model-factory", "net:make", "--resume", name)
    assert_same(part, RunFolder(Path("runs/whole")))
    until = time.monotonic() + 30  # torch's workers look every 5 seconds whether they are still needed
    while any(map(is_there, readers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(is_there, readers))


def test_two_processes_read_their_own_pictures_and_mix_as_one(place: Path, forks: Forks) -> None:
    """The same bits as one process in as many pieces, and in float64 the losses of one in one piece."""
    run_together(forks, *TRAIN, *STREAMED, "--precision", "fp64", "--name", "two", cwd=place)
    two = RunFolder(Path("runs/two"))
    assert_same(
        two, done(*TRAIN, "--precision", "fp64", "--set", "training.accumulate=2", "--name", "pieces")
    )
    one = done(*TRAIN, "--precision", "fp64", "--name", "one")
    losses = [[entry["loss"] for entry in run.metrics()] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0][0] != pytest.approx(losses[0][-1], rel=1e-3)
