"""Find layers whose outputs are all zero. A network with such a layer can't learn, and shows no error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def dead_layers(model: nn.Module, images: Tensor) -> list[str]:
    """Names of the innermost modules that put out nothing but zeros for `images`, in forward order.

    A few options shared by a whole layer need not average to zero; if they are mostly negative,
    every ReLU behind them is dead and accuracy stays at chance. `symmetric=True` avoids it. The
    model is run once in evaluation mode and left in the mode it was in.
    """
    dead: list[str] = []

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.numel() and not output.any():
                dead.append(name)

        return look

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if not any(True for _ in module.children()) or nn.utils.parametrize.is_parametrized(module)
    ]
    training = model.training
    try:
        model.eval()(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return dead
