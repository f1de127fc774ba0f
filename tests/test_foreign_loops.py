"""slotkit.record around loops that others own gives what a plain one gives.

Lightning's, accelerate's, the Trainer of Hugging Face, and the train script of timm.
"""

from __future__ import annotations

from itertools import islice
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


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trainer(plain: tuple[SlotMachine, Path], tmp_path: Path) -> None:
    import transformers
    from torch.utils.data import SequentialSampler

    network, machine, optimizer = make()

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            scores = self.network(images)
            return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}

    class InOrder(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: object) -> SequentialSampler:
            return SequentialSampler(rows)

    rows = [
        {"images": image, "labels": label}
        for images, labels in BATCHES
        for image, label in zip(images, labels, strict=True)
    ]
    settings = transformers.TrainingArguments(
        *(str(tmp_path / "trainer"),),
        **{"num_train_epochs": 2, "per_device_train_batch_size": 16, "lr_scheduler_type": "constant"},
        **{"max_grad_norm": 0, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True},
    )
    trainer = InOrder(WithLoss(), settings, train_dataset=rows, optimizers=(optimizer, None))
    with slotkit.record(machine, optimizer, tmp_path / "run", trace="full", every=2):
        trainer.train()
    check_same(machine, tmp_path / "run", plain)


@pytest.mark.filterwarnings("ignore")
def test_timm_train_script(plain: tuple[SlotMachine, Path], tmp_path: Path) -> None:
    """With what timm's script puts around a step. Then its --resume, in a new machine, after 10 steps."""
    from timm.models import resume_checkpoint
    from timm.utils import CheckpointSaver, ModelEmaV3, NativeScaler

    network, machine, optimizer = make()
    scaler, average = NativeScaler(device="cpu"), ModelEmaV3(network, decay=0.9)
    saver = CheckpointSaver(
        network, optimizer, model_ema=average, amp_scaler=scaler, checkpoint_dir=str(tmp_path)
    )

    def train(batches: list[tuple[Tensor, Tensor]]) -> None:
        for images, labels in batches:
            loss = nn.functional.cross_entropy(network(images), labels)
            scaler(loss, optimizer, parameters=network.parameters())
            optimizer.zero_grad()
            average.update(network)

    with slotkit.record(machine, optimizer, tmp_path / "run", trace="full", every=2):
        train([*islice(BATCHES * 2, 10)])
        saver.save_checkpoint(0, 50.0)
        train([*islice(BATCHES * 2, 10, None)])
    check_same(machine, tmp_path / "run", plain)

    network, machine, optimizer = make()
    scaler, average = NativeScaler(device="cpu"), ModelEmaV3(network, decay=0.9)
    resume_checkpoint(network, str(tmp_path / "last.pth.tar"), optimizer, scaler, log_info=False)
    train([*islice(BATCHES * 2, 10, None)])
    for name in machine.reels:
        assert torch.equal(machine.selected(name), plain[0].selected(name))
