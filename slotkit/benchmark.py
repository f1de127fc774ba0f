"""What a training step costs: every form and engine beside the same network with learned weights.

All contenders live in one process and take turns, step by step, so that a machine that slows down
slows all of them; the figures are medians. Only peak memory needs a process of its own each.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slotkit.errors import SlotkitError
from slotkit.latent.engines.registry import ENGINES, runnable
from slotkit.machine import SlotMachine, slotify
from slotkit.models import create
from slotkit.optim import SlotAdam

IMAGES = {"lenet": (1, 28, 28)}
ORDINARY = {"ordinary, foreach": {"foreach": True}, "ordinary, fused": {"fused": True}}


@dataclass(frozen=True)
class Contender:
    """A way to train the network: k is 0 for learned weights. `optimizer` is "sgd" or "adam"."""

    name: str
    k: int
    settings: dict[str, Any]
    optimizer: str = "sgd"


@dataclass(frozen=True)
class Row:
    """Medians of one contender. Times in milliseconds; ratios over the better ordinary network.

    Attributes:
        draw: of writing a sample of all weights, None unless selection is probabilistic.
        state_bytes: optimizer state and tables a connection, beside weight and gradient.
        peak_bytes: of a process that trains only this contender, if that was asked for.
    """

    contender: str
    k: int
    step: float
    optimizer: float
    draw: float | None
    ratio: float
    state_bytes: float
    peak_bytes: int | None


class Network:
    """One contender, built and ready to step."""

    def __init__(self, contender: Contender, model: str, batch: int) -> None:
        image = IMAGES.get(model, (3, 32, 32))
        torch.manual_seed(0)
        self.model = create(model, image, 10)
        self.machine: SlotMachine | None = None
        self.optimizer: torch.optim.Optimizer
        adam = contender.optimizer == "adam"
        if contender.k:
            self.machine = slotify(self.model, k=contender.k, **contender.settings)
            self.optimizer = SlotAdam(self.machine) if adam else self.machine.optimizer(0.1, 0.9)
        else:
            settings = {"weight_decay": 0.0} if adam else {"lr": 0.01, "momentum": 0.9}
            kind: type[Any] = torch.optim.AdamW if adam else torch.optim.SGD
            self.optimizer = kind(self.model.parameters(), **settings, **contender.settings)
        self.images, self.labels = torch.rand(batch, *image), torch.randint(10, (batch,))

    def step(self) -> tuple[float, float]:
        """Seconds of one training step, and of the optimizer in it."""
        started = time.perf_counter()
        nn.functional.cross_entropy(self.model(self.images), self.labels).backward()  # type: ignore[no-untyped-call]
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
        connections = sum(parameter.numel() for parameter in self.model.parameters())
        kept = 0
        if self.machine is not None:
            connections = sum(math.prod(reel.shape) for reel in self.machine.reels.values())
            kept = self.machine.form.state_bytes()
        if self.machine is None or not self.machine.form.latents:
            tensors = [value for state in self.optimizer.state.values() for value in state.values()]
            kept += sum(value.nbytes for value in tensors if isinstance(value, torch.Tensor))
        return kept / connections


def contenders(
    ks: Sequence[int], selection: str, dense_up_to: int, engines: Sequence[str]
) -> list[Contender]:
    """The ordinary network twice, then for each K the dense form (if K is not too large) and the engines."""
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown:
        raise SlotkitError(
            f"There is no engine {', '.join(map(repr, unknown))}. Choose some of {', '.join(ENGINES)}."
        )
    found = [Contender(name, 0, settings) for name, settings in ORDINARY.items()]
    for k in ks:
        if k <= dense_up_to:
            found.append(Contender("dense form", k, {"form": "dense", "selection": selection}))
        for engine in engines:
            found.append(Contender(f"latent, {engine}", k, {"engine": engine, "selection": selection}))
    return found


def measure(
    model: str,
    ks: Sequence[int],
    selection: str = "greedy",
    batch: int = 128,
    steps: int = 30,
    dense_up_to: int = 64,
    memory: bool = False,
    engines: Sequence[str] | None = None,
) -> list[Row]:
    """Time `steps` steps of every contender, in turns, after five that are not counted. Without `engines`
    they are all that can run.

    Raises SlotkitError for an unknown network, selection or engine.
    """
    chosen = runnable(torch.device("cpu")) if engines is None else engines
    listed = contenders(ks, selection, dense_up_to, chosen)
    networks = [Network(contender, model, batch) for contender in listed]
    for network in networks:
        for _ in range(5):
            network.step()
    times = [[network.step() for network in networks] for _ in range(steps)]
    step = [1000 * statistics.median(turn[i][0] for turn in times) for i in range(len(networks))]
    optimizer = [1000 * statistics.median(turn[i][1] for turn in times) for i in range(len(networks))]
    ordinary = min(step[: len(ORDINARY)])
    rows = []
    for i, (contender, network) in enumerate(zip(listed, networks, strict=True)):
        draw = None
        if contender.k and selection == "probabilistic":
            draw = 1000 * statistics.median(network.draw() for _ in range(max(3, steps // 3)))
        peak = peak_bytes(contender, model, batch) if memory else None
        rows.append(
            Row(
                contender.name,
                contender.k,
                step[i],
                optimizer[i],
                draw,
                step[i] / ordinary,
                network.state_bytes(),
                peak,
            )
        )
    return rows


def peak_bytes(contender: Contender, model: str, batch: int) -> int:
    """The largest resident memory of a new process that takes five steps of one contender."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (contender, model, batch))


def _peak(contender: Contender, model: str, batch: int) -> int:
    network = Network(contender, model, batch)
    for _ in range(5):
        network.step()
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss starts from that of the parent process; VmHWM is this process's own.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
