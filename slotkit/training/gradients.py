"""The gradient of the mean loss over a batch, taken in one piece, in several, or by several processes.

`training.accumulate` is the number of pieces. A piece has its own dropout mask and, in batch norm, its own
mean and variance, whoever computes it. The gradients of the pieces are added in pairs, then pairs of pairs:
so one process, 2, 4 and 8 give the same bits where the number of pieces is the same power of two.

What goes from process to process is the gradient of the weights, never options or scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slotkit.config import Resolved
from slotkit.data.seeds import subseed
from slotkit.errors import SlotkitError, many
from slotkit.settings import TrainingSettings
from slotkit.training.trainee import Trainee


def pieces_of(images: int, count: int) -> list[tuple[slice, float]]:
    """The rows of each piece of a batch, and its share of the batch's mean loss.

    Pieces differ by at most one image. Where there are fewer images than pieces, a piece without one takes
    one with share 0: every process does the same forwards, and a probabilistic machine draws in each.
    """
    found = []
    for number in range(count):
        start, end = images * number // count, images * (number + 1) // count
        rows = slice(start, end) if end > start else slice(min(start, images - 1), min(start, images - 1) + 1)
        found.append((rows, (end - start) / images))
    return found


def pieces_for(accumulate: int, processes: int) -> int:
    """The least number of pieces that so many processes can share, and a multiple of `accumulate`."""
    return math.lcm(accumulate, processes)


class PairwiseSum:
    """Adds vectors of equal length, given one by one, in pairs and pairs of pairs."""

    def __init__(self) -> None:
        self._sums: list[tuple[int, Tensor]] = []  # (how many vectors are in it, sum), falling

    def add(self, vector: Tensor) -> None:
        size = 1
        while self._sums and self._sums[-1][0] == size:
            vector = self._sums.pop()[1] + vector
            size *= 2
        self._sums.append((size, vector))

    def total(self) -> Tensor:
        _, total = self._sums[-1]
        for _, before in reversed(self._sums[:-1]):
            total = before + total
        return total


class Gradients:
    """Leaves the gradient of a batch in the parameters that an optimizer steps on.

    In several pieces it also takes batch norm's running mean and variance: after a step they are the mean of
    what the pieces make of those before it, each by its share.
    """

    def __init__(self, trainee: Trainee, optimizer: Optimizer, settings: TrainingSettings, seed: int) -> None:
        self.trainee, self._seed = trainee, seed
        self.count = pieces_for(settings.accumulate, trainee.processes.count)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._norms = any(True for _ in _norms(trainee.model))
        self._statistics = list(_statistics(trainee.model))
        self._counts = list(_counts(trainee.model))
        norms = {id(value) for value in (*self._statistics, *self._counts)}
        self._others = [value for value in trainee.model.buffers() if id(value) not in norms]

    def rows(self, images: int) -> slice:
        """The rows that this process needs of a batch of so many images."""
        own = [rows for rows, _ in self._own(images).values()]
        return slice(own[0].start, max(rows.stop for rows in own))

    def first(self, images: int) -> slice:
        """The rows of the first piece of this process, counted from the first row that it needs."""
        own = self.rows(images)
        rows, _ = next(iter(self._own(images).values()))
        return slice(0, rows.stop - own.start)

    def _own(self, images: int) -> dict[int, tuple[slice, float]]:
        """The pieces of this process, by their numbers."""
        rank, processes = self.trainee.processes.rank, self.trainee.processes.count
        parts = pieces_of(images, self.count)
        own = range(self.count * rank // processes, self.count * (rank + 1) // processes)
        return {number: parts[number] for number in own}

    def of(self, images: Tensor, labels: Tensor, step: int, total: int) -> Tensor:
        """The mean loss of a batch of `total` images, with its gradient in .grad. `step` decides the dropout
        masks.

        images, labels: those of `rows`.
        """
        if self.count == 1:
            self._seed_dropout(step, 0)
            loss = nn.functional.cross_entropy(self.trainee.forward(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        first, summed = self.rows(total).start, PairwiseSum()
        before, counts = [[value.clone() for value in kind] for kind in (self._statistics, self._counts)]
        for number, (place, share) in self._own(total).items():
            _restore(self._statistics, before)
            _restore(self._counts, counts)
            rows = slice(place.start - first, place.stop - first)
            self._seed_dropout(step, number)
            loss = nn.functional.cross_entropy(self.trainee.forward(images[rows]), labels[rows]) * share
            loss.backward()  # type: ignore[no-untyped-call]
            summed.add(self._taken(loss.detach(), share, before))
        message = summed.total()
        self.trainee.processes.sum(message)
        self.trainee.processes.copy_the_first(self._others)
        return self._put(message, before)

    @torch.no_grad()
    def check_smallest_piece(self, image: Tensor, last: int) -> None:
        """Before the first step, try the smallest piece of an epoch whose last batch has so many images, if
        that piece is one image: batch norm needs two values a channel.

        `image` is one as the network gets it, (1, channels, height, width). The network stays as it is.

        Raises SlotkitError if a channel has a single value.
        """
        if not self._norms or max(1, last // self.count) > 1:
            return
        buffers = list(self.trainee.model.buffers())
        kept = [value.clone() for value in buffers]
        machine = self.trainee.machine
        try:
            with machine.using("greedy") if machine else nullcontext():
                self.trainee.forward(image)
        except ValueError as fault:
            if "more than 1 value per channel" not in str(fault):
                raise
            pieces = f" in {self.count} pieces (training.accumulate)" if self.count > 1 else ""
            raise SlotkitError(
                f"The last batch of an epoch has {many(last, 'image')}{pieces}, and batch "
                "norm can't take a piece of one image, where a channel has a single value. Choose a "
                "training.batch_size that leaves more for the last batch"
                f"{', or fewer pieces' if pieces else ''}."
            ) from fault
        finally:
            _restore(buffers, kept)

    def _seed_dropout(self, step: int, piece: int) -> None:
        numbers = (self._seed, step, piece) if piece else (self._seed, step)
        self.trainee.seed(subseed("dropout", *numbers) % 2**63)

    @torch.no_grad()
    def _taken(self, loss: Tensor, share: float, before: list[Tensor]) -> Tensor:
        """What a piece adds to the step, as one vector: gradients, who has one, statistics, loss."""
        gradients = [p.grad for p in self._parameters]
        there = [float(gradient is not None) for gradient in gradients]
        for parameter in self._parameters:
            parameter.grad = None
        dtype = loss.dtype
        vectors = [
            parameter.new_zeros(parameter.numel(), dtype=dtype)
            if gradient is None
            else gradient.reshape(-1).to(dtype)
            for parameter, gradient in zip(self._parameters, gradients, strict=True)
        ]
        changes = [
            ((now - then) * share).to(dtype) for now, then in zip(self._statistics, before, strict=True)
        ]
        return torch.cat([*vectors, loss.new_tensor(there), *changes, loss.reshape(1)])

    @torch.no_grad()
    def _put(self, message: Tensor, before: list[Tensor]) -> Tensor:
        """Put the sums where they belong. Returns the loss."""
        sizes = [len(self._parameters), *(value.numel() for value in self._statistics), 1]
        end = len(message) - sum(sizes)
        gradients = message[:end]
        has_gradient, *changes, loss = torch.split(message[end:], sizes)
        at = 0
        for parameter, there in zip(self._parameters, has_gradient.tolist(), strict=True):
            if there:
                own = gradients[at : at + parameter.numel()]
                parameter.grad = own.view(parameter.shape).to(parameter.dtype)
            at += parameter.numel()
        for value, then, change in zip(self._statistics, before, changes, strict=True):
            value.copy_(then + change.view_as(then))
        return loss.reshape(())


def with_pieces(resolved: Resolved, processes: int) -> Resolved:
    """The same settings with a number of pieces that so many processes can share."""
    training = resolved.config.training
    pieces = pieces_for(training.accumulate, processes)
    if pieces == training.accumulate:
        return resolved
    changed = training.model_copy(update={"accumulate": pieces})
    origins = {**resolved.origins, "training.accumulate": f"{processes} processes"}
    return Resolved(resolved.config.model_copy(update={"training": changed}), origins)


def _statistics(model: nn.Module) -> Iterator[Tensor]:
    """Batch norm's running means and variances."""
    for module in _norms(model):
        for value in (module.running_mean, module.running_var):
            if value is not None:
                yield value


def _counts(model: nn.Module) -> Iterator[Tensor]:
    """How many batches each batch norm has seen."""
    for module in _norms(model):
        if module.num_batches_tracked is not None:
            yield module.num_batches_tracked


def _norms(model: nn.Module) -> Iterator[nn.modules.batchnorm._NormBase]:
    return (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase))


def _restore(values: Iterable[Tensor], before: Iterable[Tensor]) -> None:
    for value, then in zip(values, before, strict=True):
        value.copy_(then)
