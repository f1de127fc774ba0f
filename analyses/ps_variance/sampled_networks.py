"""What a slot machine's scores say at one step: the networks drawn from them, and the reels one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from slotkit.config import Config
from slotkit.data.images import Images
from slotkit.machine import SlotMachine
from slotkit.reel import Reel
from slotkit.standin import ties_of
from slotkit.training.evaluation import evaluation_mode, outputs
from slotkit.training.prepare import Prepared
from slotkit.training.trainee import Trainee, build

# The options of so many draws are compared, each with the next: a pair has hundreds of thousands of reels.
COMPARED = 3

# Options that are read at once, connections times K: bounds the memory.
NUMBERS = 1 << 22


@dataclass(frozen=True)
class Readings:
    """Accuracies (fractions) of the networks of one machine on the same images.

    Attributes:
        samples: of the drawn networks, in the order of their draw numbers.
        greedy, expected: with the likeliest options; with softmax-weighted means of the options.
        ensemble: of the mean of the samples' softmax outputs.
        same_prediction: probability that two different samples agree on an image; NaN for one sample.
        same_option: tensor name -> share of reels with the same option in two samples; empty for one sample.
    """

    samples: tuple[float, ...]
    greedy: float
    expected: float
    ensemble: float
    same_prediction: float
    same_option: Mapping[str, float]


def read_networks(prepared: Prepared, images: Images, draws: int) -> Readings:
    """The readings of a machine's present scores, in evaluation mode and without dropout.

    Sample number i is draw i of the evaluation stream: the one that `slotkit evaluate` takes, too.
    Dropout is off even if the run evaluates with it, so that all noise comes from the sampling.
    """
    trainee, config = prepared.trainee, prepared.config
    machine = trainee.machine
    assert machine is not None
    classes = prepared.dataset.num_classes
    mean = torch.zeros(len(images), classes, device=trainee.device)
    votes = torch.zeros_like(mean)
    rows = torch.arange(len(images), device=trainee.device)
    samples, same, before = [], [], None
    for draw in range(draws):
        with machine.using("probabilistic", draw):
            output = _softmax_outputs(trainee, images, config)
            chosen = {name: machine.selected(name) for name in machine.reels} if draw < COMPARED else None
        mean += output / draws
        predicted = output.argmax(dim=-1)
        votes[rows, predicted] += 1
        samples.append(_share(predicted == images.labels))
        if chosen and before:
            same.append({name: _share(chosen[name] == before[name]) for name in chosen})
        before = chosen
    with machine.using("greedy"):
        greedy = _accuracy(trainee, images, config)
    return Readings(
        samples=tuple(samples),
        greedy=greedy,
        expected=_accuracy(expected_network(prepared), images, config),
        ensemble=_share(mean.argmax(dim=-1) == images.labels),
        same_prediction=_pairs(votes, draws),
        same_option={name: math.fsum(s[name] for s in same) / len(same) for name in same[0]} if same else {},
    )


def expected_network(prepared: Prepared) -> Trainee:
    """An ordinary network with the machine's expected weights, sum over k of p_k W_k."""
    machine, config = prepared.trainee.machine, prepared.config
    assert machine is not None
    plain = config.model_copy(update={"method": "learned", "learned_init": "torch"})
    dataset = prepared.dataset
    network = build(plain, (dataset.channels, *dataset.size), dataset.num_classes)
    weights = {
        name: torch.cat([(p * options).sum(dim=-1) for p, options, _ in _parts(machine, name)]).reshape(
            reel.shape
        )
        for name, reel in machine.reels.items()
    }
    state = machine.state_dict()
    # Under its further names a tied tensor has these weights, too.
    ties = {name: weights[first] for name, first in ties_of(state).items() if first in weights}
    network.model.load_state_dict({**state["others"], **weights, **ties})
    return network


def read_reels(machine: SlotMachine) -> dict[str, dict[str, float]]:
    """Tensor name -> quantity -> mean over its reels, with p = softmax(scores) of K options W:

    entropy -sum p ln p (nats), and as a share of ln K (NaN for K = 1); effective options exp(entropy); top
    probability max p; same option, expected: sum p^2, the chance that two samples agree; noise share: the
    variance of the sampled weight over its mean square, sums over all reels; score spread: root mean square
    deviation of a reel's scores from their mean. Latent form: c, and the initial spread |c| * spread of S.
    """
    found = {}
    for name, reel in machine.reels.items():
        sums = torch.zeros(7, dtype=torch.float64)
        for p, options, scores in _parts(machine, name):
            sums += _sums(p, options, scores)
        entropy, effective, top, pairs, noise, square, spread = (sums / math.prod(reel.shape)).tolist()
        found[name] = {
            "entropy": entropy,
            "entropy share": entropy / math.log(reel.k) if reel.k > 1 else math.nan,
            "effective options": effective,
            "top probability": top,
            "same option, expected": pairs,
            "noise share": noise / square if square > 0 else math.nan,
            "score spread": math.sqrt(spread),
        }
        c = machine.form.coefficient(name)
        if c is not None:
            found[name]["c"] = c
    return found


def initial_spreads(machine: SlotMachine) -> dict[str, float]:
    """Tensor name -> score spread of the initial scores."""
    found = {}
    for name, reel in machine.reels.items():
        spreads = [
            reel.rows(part)[1].double().var(dim=-1, unbiased=False).sum().item() for part in _pieces(reel)
        ]
        found[name] = math.sqrt(math.fsum(spreads) / math.prod(reel.shape))
    return found


def _sums(p: Tensor, options: Tensor, scores: Tensor) -> Tensor:
    entropy = torch.special.entr(p).sum(dim=-1)
    mean, square = (p * options).sum(dim=-1), (p * options**2).sum(dim=-1)
    columns = (
        entropy,
        entropy.exp(),
        p.amax(dim=-1),
        (p**2).sum(dim=-1),
        # With equal options, rounding can make the variance negative.
        (square - mean**2).clamp(min=0),
        square,
        scores.var(dim=-1, unbiased=False),
    )
    return torch.stack([column.sum() for column in columns])


def _parts(machine: SlotMachine, name: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Probabilities, options and scores (n, K), float64 on the CPU, of consecutive reels."""
    reel, form = machine.reels[name], machine.form
    for part in _pieces(reel):
        weight = form.latents.get(name)
        if weight is not None:
            there = part.to(weight.latent.device)
            scores, options = weight.scores_of(there), weight.rows(there)[0]
        else:
            tables = machine.scores(name), machine.options(name)
            scores, options = (table.reshape(-1, reel.k)[part.to(table.device)] for table in tables)
        scores, options = scores.cpu().double(), options.cpu().double()
        yield scores.softmax(dim=-1), options, scores


def _pieces(reel: Reel) -> tuple[Tensor, ...]:
    """Connections of a reel, up to NUMBERS // K at a time."""
    return torch.split(torch.arange(math.prod(reel.shape)), max(1, NUMBERS // reel.k))


def _softmax_outputs(trainee: Trainee, images: Images, config: Config) -> Tensor:
    with evaluation_mode(trainee.model):
        return torch.cat([logits.softmax(dim=-1) for logits, _ in outputs(trainee, images, config)])


def _accuracy(trainee: Trainee, images: Images, config: Config) -> float:
    return _share(_softmax_outputs(trainee, images, config).argmax(dim=-1) == images.labels)


def _pairs(votes: Tensor, draws: int) -> float:
    """Mean over images of the share of pairs of samples with one prediction; votes (n, classes)."""
    if draws < 2:
        return math.nan
    return (votes * (votes - 1)).sum().item() / (len(votes) * draws * (draws - 1))


def _share(true: Tensor) -> float:
    return int(true.sum()) / true.numel()
