"""How good a network is. Under probabilistic sampling there are three ways to read it, and each has a name.

greedy   the option with the highest score everywhere (what a reader of the paper reports)
sample   n networks drawn from the scores: mean and spread (what the authors' loop does, n = 1)
last     the weights of the last training step
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slotkit.config import Config
from slotkit.data.batches import ordered_batches
from slotkit.data.images import Images
from slotkit.data.seeds import subseed
from slotkit.training.trainee import Trainee

# Evaluation keeps no gradients, so it can take more images at once than training: of small ones. Of larger
# ones the outputs of the first layers alone would be more than training keeps.
EVALUATION_BATCH = 512
SMALL = 64 * 64  # pixels


@dataclass(frozen=True)
class Reading:
    """Accuracy (a fraction) and mean cross-entropy (nats) of one reading of a network.

    Attributes:
        kind: "greedy", "sample", "last", or "learned" for learned weights.
        accuracies: one a network evaluated: several only for "sample".
    """

    kind: str
    accuracies: tuple[float, ...]
    loss: float

    @property
    def accuracy(self) -> float:
        """The mean over the networks evaluated, a fraction."""
        return statistics.fmean(self.accuracies)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the drawn networks (n - 1 in the denominator); None for one network."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    def as_dict(self) -> dict[str, float | int | None]:
        """As in summary.json."""
        return {
            "accuracy": self.accuracy,
            "spread": self.spread,
            "n": len(self.accuracies),
            "loss": self.loss,
        }

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {100 * self.spread:.2f}, n = {len(self.accuracies)}"
        return f"{100 * self.accuracy:.2f} %{spread} ({self.kind})"


def reading_kinds(config: Config) -> tuple[str, ...]:
    """Every reading that a summary gives."""
    if config.method == "learned":
        return ("learned",)
    if not config.probabilistic:
        return ("greedy",)
    return ("greedy", "sample", "last") if config.evaluation.ps == "last" else ("greedy", "sample")


def selecting_kind(config: Config) -> str:
    """The reading that selects the best checkpoint."""
    return config.evaluation.ps if config.probabilistic else reading_kinds(config)[0]


def batch_of(config: Config, shape: tuple[int, int, int]) -> int:
    """How many images of that shape (channels, height, width) are evaluated at once."""
    given, training = config.evaluation.batch_size, config.training
    if given is not None:
        return given
    if shape[1] * shape[2] <= SMALL:
        return EVALUATION_BATCH
    return min(EVALUATION_BATCH, math.ceil(training.batch_size / training.accumulate))


def nothing() -> None:
    """What happens between two batches where nothing has to."""


def read(
    trainee: Trainee, images: Images, kind: str, config: Config, between: Callable[[], None] = nothing
) -> Reading:
    """Evaluate one reading on `images`, in evaluation mode.

    `between` is called after every batch. It may raise: then the network is as it was before.
    """
    with evaluation_mode(trainee.model, config.evaluation.keep_dropout):
        if trainee.machine is None or kind == "last":
            pairs = [_measure(trainee, images, config, between)]
        elif kind == "greedy":
            with trainee.machine.using("greedy"):
                pairs = [_measure(trainee, images, config, between)]
        else:
            pairs = []
            for draw in range(config.evaluation.draws):
                with trainee.machine.using("probabilistic", draw):
                    pairs.append(_measure(trainee, images, config, between, draw))
    accuracies, losses = zip(*pairs, strict=True)
    return Reading(kind, accuracies, statistics.fmean(losses))


@contextmanager
def evaluation_mode(model: nn.Module, keep_dropout: bool = False) -> Iterator[None]:
    """Put the network in evaluation mode, and back in the mode it was in.

    `keep_dropout` leaves dropout on, which is what evaluating without `.eval()` amounts to in the
    CENG501 code (its networks have no batch norm).
    """
    training = model.training
    model.eval()
    if keep_dropout:
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.train()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def outputs(
    trainee: Trainee, images: Images, config: Config, first: int = 0, every: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits, of the trainee's dtype (b, classes), and labels, int64 (b,), of every image in order, without
    gradients; with `first` and `every` those of some batches.

    The network is used in the mode and with the weights that it is in.
    """
    for pixels, labels in ordered_batches(
        images,
        batch_of(config, images.shape),
        mean=config.data.mean,
        std=config.data.std,
        dtype=trainee.dtype,
        channels_last=trainee.bf16,
        first=first,
        every=every,
    ):
        yield trainee.forward(pixels), labels


def _measure(
    trainee: Trainee, images: Images, config: Config, between: Callable[[], None], draw: int = 0
) -> tuple[float, float]:
    """Accuracy and mean loss. Of several processes each takes every n-th batch: no image counts twice.

    What is left to chance (dropout that is kept) is a function of the seed, the draw and the batch.
    """
    processes = trainee.processes
    count = math.ceil(len(images) / batch_of(config, images.shape))
    correct = torch.zeros((), dtype=torch.int64, device=trainee.device)
    losses = torch.zeros(
        count, dtype=torch.float64, device="cpu" if trainee.device.type == "mps" else trainee.device
    )
    own = zip(
        range(processes.rank, count, processes.count),
        outputs(trainee, images, config, processes.rank, processes.count),
        strict=True,
    )
    # All processes are as often between two batches, also those that have one batch less.
    for first in range(0, count, processes.count):
        numbers = (config.seeds.training, draw, first + processes.rank)
        trainee.seed(subseed("evaluation", *numbers) % 2**63)
        batch = next(own, None)
        between()
        if batch is not None:
            number, (logits, labels) = batch
            correct += (logits.argmax(dim=-1) == labels).sum()
            losses[number] = nn.functional.cross_entropy(logits, labels, reduction="sum").to(losses)
    processes.sum(correct)
    processes.sum(losses)
    # One after the other: the same bits, however many processes there are.
    loss = 0.0
    for one in losses.tolist():
        loss += one
    return correct.item() / len(images), loss / len(images)
