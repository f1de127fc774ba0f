"""Tell of dead layers, all of whose outputs are zero: a network with one can't learn, and shows no error."""

from __future__ import annotations

import torch
from torch import Tensor

from slotkit.dead import dead_layers
from slotkit.training.trainee import Trainee


class Deaths:
    """The dead layers of a training, told when there are others than at the last look."""

    def __init__(self, trainee: Trainee) -> None:
        self.trainee = trainee
        self.told: list[str] = []

    def look(self, images: Tensor, epoch: int) -> str | None:
        """A sentence before the first step of an epoch, which begins with `images`; None without news."""
        dead = _dead_everywhere(self.trainee, dead_layers(self.trainee.model, images))
        if dead == self.told:
            return None
        self.told = dead
        if not dead:
            return f"Epoch {epoch} starts without dead layers."
        return (
            f"Epoch {epoch} starts with dead layers, all of whose outputs are zero: "
            f"{', '.join(dead)}. {_advice(self.trainee, epoch)}"
        )


def _advice(trainee: Trainee, epoch: int) -> str:
    reels = trainee.machine.reels.values() if trainee.machine else ()
    if any(reel.sharing != "none" and not reel.symmetric for reel in reels):
        return "slots.symmetric=true pairs the shared options as +v, -v, which avoids it."
    return "Try another seed." if epoch == 1 else "Try a smaller learning rate."


def _dead_everywhere(trainee: Trainee, dead: list[str]) -> list[str]:
    """Those that are dead for the images of all processes: all of them go through the same events."""
    if trainee.processes.count == 1:
        return dead
    names = [name for name, _ in trainee.model.named_modules()]
    votes = torch.tensor([name in dead for name in names], dtype=torch.int64, device=trainee.device)
    trainee.processes.sum(votes)
    return [
        name for name, for_it in zip(names, votes.tolist(), strict=True) if for_it == trainee.processes.count
    ]
