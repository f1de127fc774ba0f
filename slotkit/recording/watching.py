"""What the recorder asks of one tensor of a machine, whichever form it is in."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from slotkit.machine import SlotMachine
from slotkit.recording.dense_watch import DenseWatch
from slotkit.recording.latent_watch import LatentWatch
from slotkit.reel import Reel


class Watched(Protocol):
    """One tensor of n connections under observation.

    Attributes:
        sample: the connections (m,) that are measured, rising.
        reads_beside: whether it keeps a greedy reading beside the options in use (PS).
    """

    sample: Tensor
    reads_beside: bool

    @property
    def reel(self) -> Reel:
        """The tensor's."""

    @property
    def changed(self) -> int:
        """How many options in use are others than before the last step, under PS since the last draw."""

    @property
    def flipped(self) -> int:
        """How many connections have another option of the highest score since the last `follow`, under PS of
        those that are followed.
        """

    @property
    def events(self) -> tuple[Tensor, Tensor]:
        """These connections, rising, and their new options: int32 (flipped,), on the CPU."""

    @property
    def c(self) -> float:
        """c of scores c * S + A * W; not a number where scores are on no line that is known."""

    def selection(self) -> Tensor:
        """The options that flips change, int64 (n,): those of the highest scores."""

    def follow(self) -> None:
        """A step is done, or the recording begins: see what is other than before."""

    def positions(self) -> Tensor:
        """Where the sampled connections are, float64 on the CPU: u (m,), or the scores (m, K)."""

    def staircase(self, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Margin, speed and steps to the next flip (m,), from the `positions` of one step before."""

    def softmax(self) -> dict[str, Any]:
        """The measurement of the probabilities, see `slotkit.recording.softmax.Softmax.measure`."""

    def state(self) -> tuple[Tensor, Tensor] | None:
        """The greedy reading and the expected weights, if it has them: what a trace goes on from."""

    def load(self, reading: Any, expected: Any) -> None:
        """The machine's state was loaded: go on from it and from a `state`; None, None if there is none.

        Raises SlotkitError, part of a sentence, if it is none.
        """

    def close(self) -> None:
        """Nobody asks for flips any more."""

    def stop_reading(self) -> None:
        """Keep no greedy reading beside: the trace of an older slotkit goes on, which has none."""


def watch(machine: SlotMachine, full: bool, samples: int) -> list[Watched]:
    """Every tensor of a machine. With `full` each flip can be named; of a PS machine the flips are else those
    of a sample of up to `samples` connections, evenly spread.
    """
    greedy, form = machine.selection == "greedy", machine.form
    if form.latents:
        return [
            LatentWatch(weight, _sample(weight.reel, samples, weight.latent.device), greedy, full)
            for weight in form.latents.values()
        ]
    return [
        DenseWatch(form, reel, _sample(reel, samples, form.scores(name).device), greedy, full)
        for name, reel in form.reels.items()
    ]


def _sample(reel: Reel, samples: int, device: torch.device) -> Tensor:
    count = int(torch.Size(reel.shape).numel())
    return torch.linspace(0, count - 1, min(samples, count), dtype=torch.float64).long().to(device)
