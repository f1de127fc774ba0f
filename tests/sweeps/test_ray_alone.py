"""What the executor ray does before anything is given to Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slotkit.errors import SlotkitError
from slotkit.runs.folder import RunFolder
from slotkit.sweeps import ray_cluster
from slotkit.sweeps.contract import Job, Options, Told
from slotkit.sweeps.ray_cluster import RayCluster, _connect


def ray_with(**resources: float) -> Any:
    return SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **settings: None,
        shutdown=lambda: None,
        nodes=lambda: [{"Resources": resources, "Alive": True}],
    )


@pytest.mark.parametrize(
    ("options", "threads", "sentence"),
    [
        (
            Options(threads=8),
            8,
            "--threads 8 is more than the 2 CPUs that Ray has on this machine, so no run could begin. Give "
            "fewer --threads, or the --address of a cluster that has them.",
        ),
        (Options(gpus=0.5), 1, "--gpus 0.5 is more than the 0 GPUs that Ray has on this machine"),
    ],
)
def test_more_than_there_is_would_be_waited_for_without_end(
    options: Options, threads: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SlotkitError) as error:
        _connect(ray_with(CPU=2.0), options, threads)
    assert str(error.value).startswith(sentence)


def test_what_there_is_and_a_cluster_that_may_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert _connect(ray_with(CPU=2.0, GPU=1.0), Options(gpus=1), 2)
    assert _connect(ray_with(CPU=2.0), Options(gpus=1, address="here:1"), 8)


def test_a_run_that_another_process_trains_is_not_begun_anew_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "_connect", lambda *given: False)
    ray = ray_with(CPU=2.0)
    ray.remote = lambda task: None
    monkeypatch.setattr(ray_cluster, "_import", lambda: ray)
    executor, told = RayCluster(Options()), list[Told]()
    folder = RunFolder(tmp_path / "a")
    folder.path.mkdir()
    with folder.locked():
        executor.start(Job("key", "a", tmp_path, "id", ()))
        executor.wait(told.append, 0)
    (ended,) = told
    assert (ended.key, ended.how) == ("key", "busy")  # type: ignore[union-attr]
    assert not executor._jobs
