"""slotkit.record around loops that others own: Lightning's and accelerate's give what a plain one gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import slotkit
from slotkit.machine import SlotMachine
from slotkit.runs.folder import RunFolder

IMAGES = torch.randn(128, 12, generator=torch.Generator().manual_seed(3))
BATCHES = [(part, torch.arange(16) % 3) for part in IMAGES.split(16)]

Made = tuple[nn.Module, SlotMachine, torch.optim.Optimizer]


def make() -> Made:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    machine = slotkit.slotify(network, k=8)
    return network, machine, machine.optimizer(lr=1.0, momentum=0.9)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[SlotMachine, Path]:
    network, machine, optimizer = make()
    place = tmp_path_factory.mktemp("loops") / "plain"
    with slotkit.record(machine, optimizer, place, trace="full", every=2):
        for images, labels in BATCHES * 2:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return machine, place


def check_same(machine: SlotMachine, place: Path, plain: tuple[SlotMachine, Path]) -> None:
    assert RunFolder(place).summary()["steps"] == 16
    for name in machine.reels:
        assert torch.equal(machine.selected(name), plain[0].selected(name))
    chunks = [(path / "trace" / "steps-00000001.npz").read_bytes() for path in (place, plain[1])]
    assert chunks[0] == chunks[1]


@pytest.mark.filterwarnings("ignore")
def test_lightning(plain: tuple[SlotMachine, Path], tmp_path: Path) -> None:
    import pytorch_lightning as lightning

    network, machine, optimizer = make()

    class Lit(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(BATCHES, batch_size=None)  # type: ignore[arg-type]
    with slotkit.record(machine, optimizer, tmp_path / "run", trace="full", every=2):
        trainer.fit(Lit(), loader)
    check_same(machine, tmp_path / "run", plain)


@pytest.mark.filterwarnings("ignore")
def test_accelerate(plain: tuple[SlotMachine, Path], tmp_path: Path) -> None:
    import accelerate

    network, machine, own = make()
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(BATCHES, batch_size=None)  # type: ignore[arg-type]
    accelerator = accelerate.Accelerator(cpu=True)
    network, optimizer, loader = accelerator.prepare(network, own, loader)
    with slotkit.record(machine, optimizer, tmp_path / "run", trace="full", every=2):
        for _ in range(2):
            for images, labels in loader:
                optimizer.zero_grad()
                accelerator.backward(nn.functional.cross_entropy(network(images), labels))
                optimizer.step()
    check_same(machine, tmp_path / "run", plain)
