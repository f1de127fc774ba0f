"""How several processes begin together: what is refused, and who fetches missing data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refuse  # type: ignore[import-not-found]
from together import told_by_torchrun  # type: ignore[import-not-found]

from slotkit.config import Overrides, resolve
from slotkit.data.images import Dataset
from slotkit.data.sources import load
from slotkit.errors import SlotkitError
from slotkit.settings import DataSettings
from slotkit.training import experiment
from slotkit.training.following import first_one_fetches, shared
from slotkit.training.prepare import prepare
from slotkit.training.processes import ALONE, Processes, check_device, count_in, joined

pytestmark = pytest.mark.usefixtures("one_thread")


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
