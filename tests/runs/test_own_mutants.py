"""Damaged and forged files of a run of one's own loop: what reads them works, or says which file is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs.mutants import mutants  # type: ignore[import-not-found]
from runs.test_mutants import NUMBER, refuses  # type: ignore[import-not-found]
from slotkit.analyses.common.comparison import group_labels
from slotkit.analyses.common.recorded import read_any
from slotkit.cli import runs as commands
from torch import nn

import slotkit
from slotkit.export import export
from slotkit.recording.replay import replay
from slotkit.runs import listing
from slotkit.runs.folder import RunFolder

FILES = {
    "config.toml": "config",
    "summary.json": "summary",
    "metrics.jsonl": "metrics",
    "trace/about.json": "about",
    "trace/start.safetensors": "chunk",
    "trace/steps-00000001.npz": "chunk",
    "checkpoints/last.safetensors": "checkpoint",
}


class StoppedHereError(Exception):
    """The loop ends without a last checkpoint."""


def loop(place: Path, form: str, steps: int, resume: bool = False) -> None:
    """A few steps of a machine that was trained before; then the process is gone."""
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    machine = slotkit.slotify(model, k=4, form=form)
    optimizer = machine.optimizer(lr=5.0, momentum=0.9)

    def step() -> None:
        model(torch.ones(2, 6)).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    step()
    with slotkit.record(machine, optimizer, place, trace="full", every=2, resume=resume) as run:
        while run.step < steps:
            step()
            run.log(loss=run.step / 2)
            if run.step == 4:
                run.checkpoint("best", epoch=1)
        run.flush()
        raise StoppedHereError


@pytest.fixture(scope="module", params=["latent", "dense"])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    place = tmp_path_factory.mktemp("own") / "killed"
    with pytest.raises(StoppedHereError):
        loop(place, request.param, 6)
    return place, request.param


def readers(place: Path, form: str) -> list[Callable[[], Any]]:
    folder = RunFolder(place)

    def go_on() -> None:
        with pytest.raises(StoppedHereError):
            loop(place, form, 8, resume=True)

    return [
        lambda: (commands._row(listing.read(folder)), folder.tables(), list(folder.metrics())),
        lambda: group_labels([folder]),
        lambda: read_any(folder, events=True),
        lambda: replay(folder, 3),
        lambda: export(folder, "last"),
        go_on,
    ]


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_refused_in_one_sentence(
    name: str, killed: tuple[Path, str], tmp_path: Path
) -> None:
    whole, form = killed
    data = (whole / name).read_bytes()
    kind = FILES[name] if not name.endswith("start.safetensors") else None
    found = mutants(kind, data, NUMBER, seed=3) if kind else damaged(data)
    for number, (how, forged) in enumerate(found):
        place = tmp_path / f"copy-{number}"
        shutil.copytree(whole, place)
        (place / name).write_bytes(forged)
        for reader in readers(place, form):
            refuses(reader, place, (number, how))
        shutil.rmtree(place)


def damaged(whole: bytes) -> list[tuple[str, bytes]]:
    """Its digest is in about.json, so that no change can pass."""
    return [("cut", whole[:-1]), ("empty", b""), ("changed", whole[:-1] + bytes([whole[-1] ^ 1]))]


@pytest.mark.parametrize("path", ["selection", "k", "dataset"])
def test_a_list_of_runs_does_without_a_setting_that_somebody_took_out(
    path: str, killed: tuple[Path, str], tmp_path: Path
) -> None:
    place = tmp_path / "copy"
    shutil.copytree(killed[0], place)
    lines = (place / "config.toml").read_text().splitlines(keepends=True)
    left = [line for line in lines if not line.startswith(f"{path} = ")]
    assert len(left) < len(lines)
    (place / "config.toml").write_text("".join(left))
    assert commands._row(listing.read(RunFolder(place)))["run"] == "copy"
