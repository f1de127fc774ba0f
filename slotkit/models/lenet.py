"""LeNet-300-100: the paper's fully connected network for MNIST."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def lenet(image: tuple[int, int, int], classes: int, bias: bool = False) -> nn.Sequential:
    """Three dense layers with ReLU: inputs -> 300 -> 100 -> classes.

    Input (n, channels, height, width), output logits (n, classes). No source uses dropout here.
    """
    channels, height, width = image
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(channels * height * width, 300, bias=bias),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100, bias=bias),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, classes, bias=bias),
        )
    )
