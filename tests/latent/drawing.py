"""Layers whose options are drawn, and how often each option has to come."""

from __future__ import annotations

import math

import torch
from latent.trajectories import CPU, few, first_weight, normal
from torch import Tensor, nn

from slotkit.latent.line import line_scores
from slotkit.machine import SlotMachine
from slotkit.making import slotify

# One test of frequencies fails by chance at most this often.
CHANCE = 1e-9


def layer(
    engine: str,
    k: int,
    device: torch.device = CPU,
    shape: tuple[int, int] = (16, 24),
    dtype: torch.dtype = torch.float32,
    **settings: object,
) -> SlotMachine:
    model = nn.Linear(*shape, bias=False).to(device, dtype)
    return slotify(model, k, "probabilistic", engine=engine, **{"seed": 3, "tables": "stored", **settings})  # type: ignore[arg-type]


def count_draws(machine: SlotMachine, draws: int) -> Tensor:
    """How often each option of the layer's connections is drawn: (connections, K)."""
    parameter = machine.model.get_parameter("weight")
    options = machine.options("weight")
    counts = torch.zeros(options.shape, dtype=torch.int64, device=parameter.device)
    for draw in range(draws):
        with machine.using("probabilistic", draw):
            hit = options == parameter.detach().unsqueeze(-1)
        counts += hit
    assert (counts.sum(dim=-1) == draws).all(), "a weight that is none of its options, or options are equal"
    return counts.reshape(-1, options.shape[-1])


def assert_frequencies(machine: SlotMachine, draws: int = few(200, 6)) -> None:
    """Draws follow the softmax of the scores: each connection alone, by option number, and by rank.

    n independent trials with mean probability p hit a share q or a more extreme one with a chance of
    at most exp(-n KL(q || p)) on each side (Hoeffding 1963, theorem 1, where p may differ between the
    trials), Bonferroni over all the shares that are looked at. Sharp where p is nearly 0 or 1 too.
    """
    probabilities = machine.scores("weight").double().softmax(dim=-1).reshape(-1, machine.reels["weight"].k)
    counts = count_draws(machine, draws)
    connections, k = counts.shape
    order = probabilities.argsort(dim=-1, descending=True)
    tables = {
        "connection": (counts / draws, probabilities, draws),
        "option": (counts.sum(dim=0) / (draws * connections), probabilities.mean(dim=0), draws * connections),
        "rank": (
            counts.gather(-1, order).sum(dim=0) / (draws * connections),
            probabilities.gather(-1, order).mean(dim=0),
            draws * connections,
        ),
    }
    limit = math.log(2 * (connections * k + 2 * k) / CHANCE)
    for name, (share, expected, trials) in tables.items():
        surprise = trials * divergence(share.double(), expected)
        assert (surprise <= limit).all(), f"wrong frequencies by {name}: {surprise.max():.0f} > {limit:.0f}"


def divergence(q: Tensor, p: Tensor) -> Tensor:
    """KL(q || p) of two coins; probabilities that are 0 or 1 up to rounding count as 1e-15 from it."""
    p = p.clamp(1e-15, 1 - 1e-15)
    result: Tensor = torch.special.xlogy(q, q / p) + torch.special.xlogy(1 - q, (1 - q) / (1 - p))
    return result


def spread_latents(machine: SlotMachine, factor: float) -> None:
    weight = first_weight(machine)
    weight.latent.copy_(factor * normal(len(weight.latent), seed=4, device=weight.latent.device))


def peak_latents(machine: SlotMachine, probability: float = 0.9999) -> None:
    """Set every latent so that the winner has that probability."""
    weight = first_weight(machine)
    options, initial = weight.rows(torch.arange(len(weight.latent), device=weight.latent.device))
    low, high = torch.zeros_like(weight.latent).double(), torch.full_like(weight.latent, 1e7).double()
    for _ in range(80):
        middle = (low + high) / 2
        below = line_scores(options, initial, middle, 1.0).softmax(dim=-1).amax(dim=-1) < probability
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    weight.latent.copy_(high)


def train(
    machine: SlotMachine, steps: int, lr: float, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Steps on random regression, drawn anew in each."""
    model = machine.model
    parameter = model.get_parameter("weight")
    x = normal(8, parameter.shape[1], seed=5, device=parameter.device, dtype=parameter.dtype)
    target = normal(8, parameter.shape[0], seed=6, device=parameter.device, dtype=parameter.dtype)
    optimizer = optimizer or machine.optimizer(lr, 0.9, 1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()


def drawn(machine: SlotMachine, draw: int) -> Tensor:
    with machine.using("probabilistic", draw):
        return machine.model.get_parameter("weight").detach().clone()
