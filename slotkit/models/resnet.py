"""ResNet-18 and ResNet-34 in CIFAR's form: a 3x3 convolution first, no pool before the blocks."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from slotkit.models.norms import check_norm, norm
from slotkit.models.vgg_cd import narrowed

WIDTHS = (64, 128, 256, 512)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class Block(nn.Module):
    """Two 3x3 convolutions, and their input added before the last ReLU, if there is a skip connection."""

    def __init__(self, channels: int, out: int, stride: int, skip: bool, batch_norm: str, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=bias)
        self.norm1 = norm(batch_norm, out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=bias)
        self.norm2 = norm(batch_norm, out)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module | None = None
        if skip and (stride != 1 or channels != out):
            narrow = nn.Conv2d(channels, out, 1, stride, bias=bias)
            self.shortcut = nn.Sequential(OrderedDict(conv=narrow, norm=norm(batch_norm, out)))
        elif skip:
            self.shortcut = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        changed = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(images)))))
        if self.shortcut is not None:
            changed = changed + self.shortcut(images)
        out: Tensor = self.relu2(changed)
        return out


def resnet(
    image: tuple[int, int, int],
    classes: int,
    depth: int,
    skip: bool = True,
    width: float = 1.0,
    batch_norm: str = "affine",
    bias: bool = False,
) -> nn.Sequential:
    """A convolution, four stages of blocks (the last three halve the image), average pool, one dense layer.

    Args:
        depth: 18 or 34.
        skip: skip connections; without them the 1x1 convolutions in them are gone, too.
        width: share of the channels, for small experiments; 1 in every source.
        batch_norm: "affine" (as in the source), "plain" (statistics only) or "none".
    """
    check_norm(batch_norm)
    channels = narrowed(WIDTHS[0], width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(image[0], channels, 3, padding=1, bias=bias),
        norm=norm(batch_norm, channels),
        relu=nn.ReLU(),
    )
    for stage, (full, blocks) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True), start=1):
        out = narrowed(full, width)
        for block in range(1, blocks + 1):
            stride = 2 if block == 1 and stage > 1 else 1
            layers[f"stage{stage}_block{block}"] = Block(channels, out, stride, skip, batch_norm, bias)
            channels = out
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, classes, bias=bias)
    return nn.Sequential(layers)
