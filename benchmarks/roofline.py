"""The bytes of a training step of some networks, counted without a device: docs/roofline.md.

    python benchmarks/roofline.py

Every operation of a forward and backward pass in float32 (PyTorch, eager) reads what it is given and writes
what it makes; views move nothing. To that comes the optimizer, by its bytes a connection. No time is taken.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slotkit.models import create

# Network -> name for `create`, image, classes.
NETWORKS: dict[str, tuple[str, tuple[int, int, int], int]] = {
    "LeNet": ("lenet", (1, 28, 28), 10),
    "CONV-6": ("conv6", (3, 32, 32), 10),
    "VGG-19": ("vgg19", (3, 32, 32), 10),
    "resnet50": ("timm/resnet50", (3, 224, 224), 1000),
    "vit_small": ("timm/vit_small_patch16_224", (3, 224, 224), 1000),
}
BATCH = 128
# Bytes a connection and step of torch's fused SGD with momentum, and of slotkit's: docs/roofline.md.
SGD, GREEDY, SAMPLED = 20, 32, 40
H100 = 3.35e12  # bytes a second, by its data sheet


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not any(
            each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns
        ):
            tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, Tensor)]
            self.bytes += sum(each.nbytes for each in tensors)
        return out


def step_bytes(name: str, image: tuple[int, int, int], classes: int) -> tuple[int, int]:
    """Bytes of a forward and backward pass, and connections."""
    with torch.device("meta"):
        network = create(name, image, classes)
        images, labels = torch.empty(BATCH, *image), torch.zeros(BATCH, dtype=torch.int64)
        with Traffic() as traffic:
            nn.functional.cross_entropy(network(images), labels).backward()
    layers = (nn.Linear, nn.Conv2d)
    weights = [module.weight for module in network.modules() if isinstance(module, layers)]
    return traffic.bytes, sum(weight.numel() for weight in weights)


def main() -> None:
    print(
        f"| network, batch {BATCH} | connections | forward and backward | at 3.35 TB/s | greedy | sampled |"
    )
    print("|---|---|---|---|---|---|")
    for shown, given in NETWORKS.items():
        passed, n = step_bytes(*given)
        ratios = [(passed + each * n) / (passed + SGD * n) for each in (GREEDY, SAMPLED)]
        told = [f"{n / 1e6:.2f} M", f"{passed / 1e9:.3g} GB", f"{1e3 * passed / H100:.3g} ms"]
        print(f"| {' | '.join([shown, *told, *(f'{ratio:.3f}' for ratio in ratios)])} |")


if __name__ == "__main__":
    main()
