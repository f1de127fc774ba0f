"""Small networks and runs: the trajectory of the oracle, and what it means to be equal to it."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from small_networks import weights
from torch import Tensor, nn

from slotkit.latent.form import LatentForm
from slotkit.latent.state import STATE
from slotkit.latent.weight import LatentWeight
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.optim import SlotAdam
from slotkit.reel import Fans, Init
from slotkit.selection import take

CPU = torch.device("cpu")

# In Triton's interpreter a step takes a tenth of a second: nothing there is longer than its rule needs.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def few(number: int, interpreted: int = 2) -> int:
    """How often something is done or has to happen, and how often in the interpreter."""
    return interpreted if INTERPRETED else number


@dataclass(frozen=True)
class Coarse:
    """An init with few values: equal options, equal scores and both at once are common."""

    levels: int = 2

    def options(self, uniform: Tensor, fans: Fans) -> Tensor:
        return (uniform * self.levels).round() / 4

    def scores(self, uniform: Tensor, fans: Fans) -> Tensor:
        return (uniform * self.levels).round() / 8


@dataclass(frozen=True)
class Centred:
    """An init that isn't uniform, with scores of both signs."""

    def options(self, uniform: Tensor, fans: Fans) -> Tensor:
        return uniform * uniform.abs()

    def scores(self, uniform: Tensor, fans: Fans) -> Tensor:
        return uniform * 2 - 1


@dataclass(frozen=True)
class Indifferent:
    """All initial scores of a connection are equal."""

    def options(self, uniform: Tensor, fans: Fans) -> Tensor:
        return uniform

    def scores(self, uniform: Tensor, fans: Fans) -> Tensor:
        return torch.ones_like(uniform)


def mlp() -> nn.Sequential:
    """LeNet-300-100 in small."""
    return nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4))


def conv() -> nn.Sequential:
    """Groups, stride, padding, one and two dimensions, and a transposed convolution: input 2 x 5 x 5."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 4, 2, groups=2),
        nn.ReLU(),
        nn.Flatten(2),
        nn.Conv1d(4, 1, 4, stride=4),
        nn.Flatten(),
    )


NETS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "mlp": (mlp, (12,)),
    "conv": (conv, (2, 5, 5)),
}


def normal(*shape: int, seed: int, device: torch.device = CPU, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)


def latent_form(machine: SlotMachine) -> LatentForm:
    assert isinstance(machine.form, LatentForm)
    return machine.form


def first_weight(machine: SlotMachine) -> LatentWeight:
    return next(iter(latent_form(machine).weights.values()))


@dataclass(frozen=True)
class Run:
    """A network, its reels, and the settings of SGD, or with `betas` of Adam on the latents; by default the
    learning rate changes in every step.
    """

    net: str = "mlp"
    k: int = 3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    dampening: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    betas: tuple[float, float] | None = None
    eps: float = 1e-8
    lr: float = 0.5
    period: int = 25  # of the learning rate's warm restarts; 0: it is constant
    steps: int = 300
    sharing: str = "none"
    symmetric: bool = False
    kind: str | None = None
    init: str | Init = "glorot-uniform"
    seed: int = 5
    dtype: torch.dtype = torch.float64

    def machine(
        self, device: torch.device, form: str, engine: str = "auto", tables: str = "auto"
    ) -> SlotMachine:
        torch.manual_seed(0)
        model = NETS[self.net][0]().to(device, self.dtype)
        return slotify(
            model,
            self.k,
            sharing=self.sharing,
            init=self.init,
            seed=self.seed,
            form=form,
            engine=engine,
            symmetric=self.symmetric,
            kind=self.kind,
            tables=tables,
        )

    def lr_factor(self, step: int) -> float:
        return 0.5 + 0.5 * math.cos(math.pi * (step % self.period) / self.period) if self.period else 1.0

    def optimizer(self, machine: SlotMachine) -> torch.optim.Optimizer:
        if self.betas is not None:
            adam = SlotAdam(machine, self.lr, self.betas, self.eps, self.weight_decay)
            adam.param_groups[0]["maximize"] = self.maximize
            return adam
        return machine.optimizer(
            self.lr,
            self.momentum,
            self.weight_decay,
            dampening=self.dampening,
            nesterov=self.nesterov,
            maximize=self.maximize,
        )

    def train(self, machine: SlotMachine) -> Iterator[int]:
        """Full-batch steps of squared error; yields the step's number after each."""
        return self.train_with(machine.model, self.optimizer(machine))

    def train_with(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[int]:
        device = next(model.parameters()).device
        x = normal(6, *NETS[self.net][1], seed=1, device=device, dtype=self.dtype)
        target = normal(6, 4, seed=2, device=device, dtype=self.dtype)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        for step in range(self.steps):
            optimizer.zero_grad()
            (0.5 * (model(x) - target).square().sum(dim=-1).mean()).backward()
            optimizer.step()
            scheduler.step()
            yield step


def short(run: Run) -> Run:
    """In the interpreter a run of few steps that are as much longer; where c swings it swings faster."""
    if not INTERPRETED or run.steps <= 8:
        return run
    if run.lr >= SWINGING.lr:
        return replace(run, weight_decay=3e-2, steps=8)
    return replace(run, steps=4, lr=8 * run.lr, period=min(run.period, 4))


# lr * weight_decay is so large that the scores swing: c is negative every other 60 steps.
SWINGING = Run("mlp", 8, lr=50.0, period=0)
# The rate is that of A, whose thresholds are of order 1.
ADAM_RUN = Run("mlp", 8, lr=0.05, betas=(0.9, 0.999), weight_decay=0.0, steps=100)


@dataclass
class Trajectory:
    """What the oracle did: after each step, every tensor's selection, weight and scores."""

    selected: list[dict[str, Tensor]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    scores: list[dict[str, Tensor]] = field(default_factory=list)
    flips: int = 0


class AdamOracle(torch.optim.AdamW):
    """torch's AdamW on one number A a connection, with all K scores S_k + A * W_k in sight.

    It writes the options of the best scores into an ordinary network, and A gets the weight's gradient.
    """

    def __init__(
        self, run: Run, model: nn.Module, options: dict[str, Tensor], scores: dict[str, Tensor]
    ) -> None:
        self.weights = {name: model.get_parameter(name) for name in options}
        self.options, self.initial = options, scores
        self.latents = {name: nn.Parameter(torch.zeros_like(value)) for name, value in self.weights.items()}
        assert run.betas is not None
        super().__init__(
            self.latents.values(), run.lr, run.betas, run.eps, run.weight_decay, maximize=run.maximize
        )
        self.choose()

    def scores(self, name: str) -> Tensor:
        latent = self.latents[name].detach().double().unsqueeze(-1)
        return self.initial[name].double() + latent * self.options[name].double()

    def choose(self) -> None:
        for name, weight in self.weights.items():
            weight.detach().copy_(take(self.options[name], self.selected(name)))

    def selected(self, name: str) -> Tensor:
        return self.scores(name).argmax(dim=-1)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for weight in self.weights.values():
            weight.grad = None

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for name, weight in self.weights.items():
            self.latents[name].grad = weight.grad
        super().step()
        self.choose()


@functools.lru_cache(maxsize=32)
def oracle_trajectory(run: Run, device: torch.device) -> Trajectory:
    """The dense form under torch's SGD; under Adam an `AdamOracle`."""
    oracle: SlotMachine | AdamOracle
    oracle = machine = run.machine(device, "dense")
    options = {name: machine.options(name) for name in machine.reels}
    if run.betas is None:
        steps = run.train(machine)
    else:
        model = NETS[run.net][0]().to(device, run.dtype)
        for name, parameter in model.named_parameters():
            if name not in options:
                nn.init.zeros_(parameter.requires_grad_(False))  # as slotify does
        oracle = AdamOracle(run, model, options, {name: machine.scores(name) for name in options})
        steps = run.train_with(model, oracle)
    before = {name: oracle.selected(name).clone() for name in options}
    seen = Trajectory()
    for _ in steps:
        selected = {name: oracle.selected(name).clone() for name in options}
        seen.selected.append(selected)
        seen.weights.append({name: take(options[name], selected[name]) for name in options})
        seen.scores.append({name: oracle.scores(name).clone() for name in options})
        seen.flips += sum(int((selected[name] != before[name]).sum()) for name in options)
        before = selected
    return seen


def assert_equals_the_oracle(
    run: Run,
    engine: str,
    device: torch.device,
    tables: str = "stored",
    watch: Callable[[SlotMachine], None] = lambda machine: None,
) -> None:
    """The same weights after every step; the same selections and scores, looked at in every 25th.

    Options of a connection differ (but for an init that repeats them), so that equal weights are
    equal selections. `watch` is called after every step.
    """
    run = short(run)
    expected = oracle_trajectory(run, device)
    machine = run.machine(device, "latent", engine, tables)
    for step in run.train(machine):
        watch(machine)
        for name in machine.reels:
            weight = machine.model.get_parameter(name)
            assert torch.equal(weight, expected.weights[step][name]), f"weights differ: {name}, step {step}"
            if step % 25 == 24 or step == run.steps - 1:
                assert torch.equal(machine.selected(name), expected.selected[step][name]), (
                    f"selections differ: {name}, step {step}"
                )
                scores = expected.scores[step][name]
                error = (machine.scores(name) - scores).abs().max()
                assert error <= 1e-9 * scores.abs().max(), f"scores differ: {name}, step {step}"
    assert expected.flips > few(20, 10) or run.k == 1, "a run without flips tests nothing"


def assert_equals_until_a_near_tie(run: Run, engine: str, device: torch.device) -> int:
    """float32: where the selections first differ, the oracle's two best scores are nearly equal.

    Near: a gap of less than 1e-5 of the connection's highest score. Returns the steps until then.
    """
    run = short(replace(run, dtype=torch.float32))
    expected = oracle_trajectory(run, device)
    machine = run.machine(device, "latent", engine, "stored")
    flips, before = 0, {name: machine.selected(name) for name in machine.reels}
    for step in run.train(machine):
        apart = False
        for name in machine.reels:
            differs = machine.model.get_parameter(name) != expected.weights[step][name]
            if differs.any():
                apart = True
                scores = expected.scores[step][name][differs]
                best = scores.topk(2, dim=-1).values
                gap, scale = best[:, 0] - best[:, 1], scores.abs().amax(dim=-1)
                assert (gap < 1e-5 * scale).all(), f"selections differ: {name}, step {step}, gaps {gap}"
            flips += int((expected.selected[step][name] != before[name]).sum())
            before[name] = expected.selected[step][name]
        if apart:
            break
    assert flips > few(20, 10) or run.k == 1, "a run without flips tests nothing"
    return step


# ---------------------------------------------------------------------------------------------------
# Training a little, and looking at everything.


def train(
    machine: SlotMachine,
    steps: int = 3,
    optimizer: torch.optim.Optimizer | None = None,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
) -> torch.optim.Optimizer:
    """Some steps of `conv` or `mlp` on one batch; `prepare` is applied to it."""
    parameter = next(machine.parameters())
    shape = (2, 5, 5) if parameter.dim() == 4 else (12,)
    x = prepare(normal(4, *shape, seed=1, device=parameter.device, dtype=parameter.dtype))
    optimizer = optimizer or machine.optimizer(1.0, 0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        (machine.model(x).float() - 0.5).square().sum().backward()
        optimizer.step()
    return optimizer


def bits(machine: SlotMachine) -> dict[str, Tensor]:
    """Weights, and all that training keeps of them."""
    found = weights(machine)
    for name, weight in latent_form(machine).weights.items():
        found |= {f"{name}/{key}": getattr(weight, key).clone() for key in STATE}
        numbers = (weight.line.c, weight.line.e, weight.line.steps, weight.line.has_velocity, weight.follows)
        found[f"{name}/line"] = torch.tensor(numbers, dtype=torch.float64)
    return found
