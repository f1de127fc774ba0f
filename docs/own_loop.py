"""docs/own-loop.md as a program: python own_loop.py FOLDER. Kill it when you like, and start it again."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import slotkit

STEPS = 200


# --8<-- her network
class Block(nn.Module):
    """Two convolutions, and a way past them."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.past = nn.Conv2d(inner, outer, 1, stride, bias=False) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inside = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        out: Tensor = (inside + self.past(x)).relu()
        return out


class ResNet18(nn.Module):
    """Eight blocks; narrow, so that it trains in seconds."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        blocks = []
        for i, (inner, outer) in enumerate(pairwise(sizes)):
            blocks += [Block(inner, outer, 1 if i == 0 else 2), Block(outer, outer, 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))
        return out


def pictures(count: int = 256) -> TensorDataset:
    """Four classes of 16 x 16 pictures: which quarter is the brightest."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 16, 16, generator=generator)
    labels = torch.arange(count) % 4
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 0.15
    return TensorDataset(images, labels)


# --8<-- the loop
def train(folder: Path) -> tuple[slotkit.SlotMachine, ResNet18]:
    """Train for STEPS steps, or go on to them."""
    torch.manual_seed(0)
    model = ResNet18()
    machine = slotkit.slotify(model, k=8)
    optimizer = machine.optimizer(lr=0.2, momentum=0.9)
    loader = DataLoader(pictures(), batch_size=16, shuffle=True)

    with slotkit.record(machine, optimizer, folder, trace="full", every=10, resume=True) as run:
        while run.step < STEPS:
            for images, labels in loader:
                loss = nn.functional.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            run.log(loss=loss)
            run.checkpoint()
            print(f"step {run.step}: loss {loss.item():.3f}", flush=True)
    return machine, model


# --8<-- why did it stop improving?
def analyse(machine: slotkit.SlotMachine, folder: Path) -> None:
    """A table, a figure and a verdict."""
    from slotkit.analyses import flips

    found = flips.analyze(machine)
    print(found.summary)
    found.save(folder / "analyses")


# --8<-- the file, and the ordinary network
def finish(machine: slotkit.SlotMachine, model: ResNet18, folder: Path) -> None:
    """Write the slot file, then train the selected weights on as ordinary ones."""
    slotkit.save(folder / "mine.slot.safetensors", machine)

    machine.to_learned()  # `model` is an ordinary network now
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for images, labels in DataLoader(pictures(), batch_size=16):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


# --8<-- in another process
def reload(path: Path) -> ResNet18:
    """Her class, and the numbers of the file."""
    model = ResNet18()
    slotkit.load(path, into=model)
    return model


# --8<-- end
def main() -> None:
    folder = Path(sys.argv[1])
    machine, model = train(folder)
    analyse(machine, folder)
    finish(machine, model, folder)
    print(f"saved {folder / 'mine.slot.safetensors'}")


if __name__ == "__main__":
    main()
