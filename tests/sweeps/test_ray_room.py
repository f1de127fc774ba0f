"""What Ray on this machine alone can never give a run is refused: it would wait for it without end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from slotkit.errors import SlotkitError
from slotkit.sweeps.contract import Options
from slotkit.sweeps.ray_cluster import _connect


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
def test_more_than_there_is(
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
