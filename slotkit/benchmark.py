"""What a training step costs: every form and engine beside the same network with learned weights.

All contenders live in one process and take turns, step by step, so that a machine that slows down
slows all of them; the figures are medians. Only peak memory needs a process of its own each. All are trained
first for as many steps as asked for, because flips get rarer and a peaked softmax is slower to draw from.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice, product, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slotkit.data.batches import batches
from slotkit.data.sources import find, load
from slotkit.errors import SlotkitError
from slotkit.latent.engines.registry import ENGINES, runnable
from slotkit.latent.state import STATE
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.models import create
from slotkit.optim import SlotAdam
from slotkit.selection import SELECTIONS, find_selection

# Of random images, where the network says nothing else.
IMAGES = {"lenet": (1, 28, 28)}

# Selection and optimizer -> learning rate: those that train MNIST, so that steps after many others cost what
# they cost in a training. Under PS it decides how peaked the softmax gets, and with it what a draw costs.
RATES = {
    ("", "sgd"): 0.01,
    ("", "adam"): 0.001,
    ("greedy", "sgd"): 0.1,
    ("greedy", "adam"): 0.01,
    ("probabilistic", "sgd"): 50.0,
    ("probabilistic", "adam"): 1.0,
}
MOMENTUM = 0.9

# Steps that are not counted, however few come first.
WARM_UP = 5


@dataclass(frozen=True)
class Contender:
    """A way to train the network; k is 0 and the selection empty for learned weights.

    Attributes:
        optimizer: "sgd" or "adam".
        settings: keywords of `slotify`, or of torch's optimizer for learned weights.
    """

    name: str
    k: int
    selection: str
    optimizer: str
    settings: dict[str, Any]


ORDINARY = [
    Contender("ordinary SGD, foreach", 0, "", "sgd", {"foreach": True}),
    Contender("ordinary SGD, fused", 0, "", "sgd", {"fused": True}),
    Contender("ordinary AdamW, fused", 0, "", "adam", {"fused": True}),
]


@dataclass(frozen=True)
class Row:
    """Medians of one contender. Times in milliseconds; ratios over the better ordinary network under SGD.

    Attributes:
        step: forward, backward, update; under probabilistic selection with the draw.
        draw: of writing a sample of all weights, None unless selection is probabilistic.
        loss: mean training loss of the steps that were timed, in nats.
        state_bytes: optimizer state and tables a connection, beside weight and gradient.
        peak_bytes: of a process that trains only this contender, if that was asked for.
    """

    contender: str
    k: int
    selection: str
    step: float
    optimizer: float
    draw: float | None
    ratio: float
    loss: float
    state_bytes: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Images:
    """What is trained on: (channels, height, width) of an image, and batches without end."""

    name: str
    image: tuple[int, int, int]
    classes: int
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]


def random_images(model: str, batch: int) -> Images:
    """One batch of random images and labels, again and again."""
    image = IMAGES.get(model, (3, 32, 32))
    random = torch.Generator().manual_seed(0)
    images = torch.rand(batch, *image, generator=random)
    labels = torch.randint(10, (batch,), generator=random)
    return Images("random", image, 10, lambda: repeat((images, labels)))


def images_of(dataset: str, data_dir: Path | None, batch: int) -> Images:
    """The training images of a dataset, normalised, epoch after epoch. Raises SlotkitError without them."""
    source, found = find(dataset), load(dataset, data_dir)

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in count(1):
            yield from batches(found.train, batch, seed=0, epoch=epoch, mean=source.mean, std=source.std)

    return Images(dataset, (found.channels, *found.size), found.num_classes, stream)


class Network:
    """One contender, built and ready to step."""

    def __init__(self, contender: Contender, model: str, image: tuple[int, int, int], classes: int) -> None:
        torch.manual_seed(0)
        self.model = create(model, image, classes)
        self.machine: SlotMachine | None = None
        self.loss = torch.zeros(())
        lr = RATES[contender.selection, contender.optimizer]
        if contender.k:
            self.machine = slotify(
                self.model, k=contender.k, selection=contender.selection, **contender.settings
            )
        self.optimizer: torch.optim.Optimizer
        if self.machine is not None and contender.optimizer == "adam":
            self.optimizer = SlotAdam(self.machine, lr=lr)
        elif self.machine is not None:
            self.optimizer = self.machine.optimizer(lr=lr, momentum=MOMENTUM)
        elif contender.optimizer == "adam":
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr, **contender.settings)
        else:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr, MOMENTUM, **contender.settings)

    def step(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Seconds of one training step, and of the optimizer in it. Its first forward takes the draw."""
        started = time.perf_counter()
        self.loss = nn.functional.cross_entropy(self.model(images), labels)
        self.loss.backward()  # type: ignore[no-untyped-call]
        before = time.perf_counter()
        self.optimizer.step()
        after = time.perf_counter()
        self.optimizer.zero_grad()
        return time.perf_counter() - started, after - before

    def draw(self) -> float:
        """Seconds of writing one sample of all weights."""
        assert self.machine is not None
        started = time.perf_counter()
        self.machine.spin("probabilistic")
        return time.perf_counter() - started

    def state_bytes(self) -> float:
        """Bytes beside weight and gradient, a connection."""
        connections, kept, counted = sum(value.numel() for value in self.model.parameters()), 0, set[str]()
        if self.machine is not None:
            connections = sum(math.prod(reel.shape) for reel in self.machine.reels.values())
            kept = self.machine.form.state_bytes()
            counted = set(STATE)  # the latents, which slotkit's optimizers show as their state too
        for state in self.optimizer.state.values():
            tensors = (value for name, value in state.items() if name not in counted)
            kept += sum(value.nbytes for value in tensors if isinstance(value, Tensor) and value.ndim)
        return kept / connections


def contenders(
    ks: Sequence[int], selections: Sequence[str], dense_up_to: int, engines: Sequence[str]
) -> list[Contender]:
    """Ordinary networks, then for each K and selection the dense form (if K is not too large), and every
    engine under both optimizers.
    """
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown:
        raise SlotkitError(
            f"There is no engine {', '.join(map(repr, unknown))}. Choose some of {', '.join(ENGINES)}."
        )
    found = list(ORDINARY)
    for k, selection in product(ks, map(find_selection, selections)):
        if k <= dense_up_to:
            found.append(Contender("dense form", k, selection, "sgd", {"form": "dense"}))
        for engine, (optimizer, name) in product(engines, (("sgd", "latent"), ("adam", "SlotAdam"))):
            found.append(Contender(f"{name}, {engine}", k, selection, optimizer, {"engine": engine}))
    return found


def measure(
    model: str,
    ks: Sequence[int],
    selections: Sequence[str] = SELECTIONS,
    batch: int = 128,
    steps: int = 30,
    dense_up_to: int = 64,
    memory: bool = False,
    engines: Sequence[str] | None = None,
    after: int = 0,
    images: Images | None = None,
) -> list[Row]:
    """Time `steps` steps of every contender, in turns, after as many as `after` says (at least WARM_UP) that
    are not counted. Without `engines` they are all that can run; without `images`, random ones.

    Raises SlotkitError for an unknown network, selection or engine.
    """
    chosen = runnable(torch.device("cpu")) if engines is None else engines
    listed = contenders(ks, selections, dense_up_to, chosen)
    feed = images or random_images(model, batch)
    networks = [Network(contender, model, feed.image, feed.classes) for contender in listed]
    stream = feed.batches()
    for some in islice(stream, max(after, WARM_UP)):
        for network in networks:
            network.step(*some)
    times: list[list[tuple[float, float]]] = [[] for _ in networks]
    losses = [0.0] * len(networks)
    for some in islice(stream, steps):
        for i, network in enumerate(networks):
            times[i].append(network.step(*some))
            losses[i] += network.loss.item() / steps
    step, optimizer = ([1000 * statistics.median(one[i] for one in turn) for turn in times] for i in (0, 1))
    ordinary = min(ms for ms, contender in zip(step, listed, strict=True) if _is_plain_sgd(contender))
    rows = []
    for i, (contender, network) in enumerate(zip(listed, networks, strict=True)):
        draw = None
        if contender.selection == "probabilistic":
            draw = 1000 * statistics.median(network.draw() for _ in range(max(3, steps // 3)))
        peak = peak_bytes(contender, model, feed, batch) if memory else None
        rows.append(
            Row(
                contender.name,
                contender.k,
                contender.selection,
                step[i],
                optimizer[i],
                draw,
                step[i] / ordinary,
                losses[i],
                network.state_bytes(),
                peak,
            )
        )
    return rows


def _is_plain_sgd(contender: Contender) -> bool:
    return contender.k == 0 and contender.optimizer == "sgd"


def peak_bytes(contender: Contender, model: str, images: Images, batch: int) -> int:
    """The largest resident memory of a new process that takes five steps of one contender."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (contender, model, images.image, images.classes, batch))


def _peak(contender: Contender, model: str, image: tuple[int, int, int], classes: int, batch: int) -> int:
    network = Network(contender, model, image, classes)
    for _ in range(WARM_UP):
        network.step(torch.rand(batch, *image), torch.randint(classes, (batch,)))
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss starts from that of the parent process; VmHWM is this process's own.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
