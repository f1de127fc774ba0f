"""Engines that are wrong on purpose: the comparison of tests/latent/test_engines.py must reject each."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from latent.mutants import mutated
from latent.trajectories import ADAM_RUN, CPU, SWINGING, Coarse, Run, assert_equals_the_oracle
from torch import Tensor

from slotkit.latent import line as formulas
from slotkit.latent.engines.contract import Arrays, Flips, Move
from slotkit.latent.engines.eager import Eager
from slotkit.latent.engines.registry import ENGINES, EngineEntry
from slotkit.latent.line import Line, line_scores
from slotkit.selection import take


class IgnoresUpper(Eager):
    """Doesn't see a latent that leaves its interval upwards."""

    def choose(self, arrays: Arrays, line: Line, recorded: bool) -> Flips:
        flips = super().choose(arrays, line, recorded)
        arrays.upper.fill_(math.inf)
        return flips


class IgnoresLower(Eager):
    """Doesn't see a latent that leaves its interval downwards."""

    def choose(self, arrays: Arrays, line: Line, recorded: bool) -> Flips:
        flips = super().choose(arrays, line, recorded)
        arrays.lower.fill_(-math.inf)
        return flips


class WithOther(Eager):
    """Takes another step than it was told to."""

    def __init__(self, **others: float) -> None:
        self.others = others

    def step_one(self, move: Move) -> Flips | None:
        rule = move.rule if move.gradient is None else move.rule._replace(**self.others)
        return super().step_one(move._replace(rule=rule))


class LastOfEqual(Eager):
    """Among equal scores the highest index."""

    def choose(self, arrays: Arrays, line: Line, recorded: bool) -> Flips:
        flips = super().choose(arrays, line, recorded)
        options, initial = arrays.rows(torch.arange(len(arrays.latent)))
        scores = line_scores(options, initial, arrays.latent, line.c)
        last = arrays.spec.k - 1 - scores.flip(-1).argmax(dim=-1)
        arrays.weight.copy_(take(options, last))
        return flips


class NeverTurns(Eager):
    """Doesn't look again when c changes its sign and every staircase turns around."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def choose(self, arrays: Arrays, line: Line, recorded: bool) -> Flips:
        place = arrays.latent.data_ptr()
        if place in self.kept and arrays.lower.isposinf().all():
            arrays.lower.copy_(self.kept[place][0])
            arrays.upper.copy_(self.kept[place][1])
        flips = super().choose(arrays, line, recorded)
        self.kept[place] = arrays.lower.clone(), arrays.upper.clone()
        return flips


class OneStepLate(Eager):
    """Chooses before the latents move, not after."""

    def step_one(self, move: Move) -> Flips | None:
        flips = super().step_one(move._replace(gradient=None))
        super().step_one(move._replace(choose=False))
        return flips


class ForgetsC(Eager):
    """Compares A, not A / |c|, with the interval."""

    def step_one(self, move: Move) -> Flips | None:
        return super().step_one(move._replace(line=Line(c=math.copysign(1.0, move.line.c))))


class WrongPlace(Eager):
    """Writes the options of the neighbours."""

    def choose(self, arrays: Arrays, line: Line, recorded: bool) -> Flips:
        flips = super().choose(arrays, line, recorded)
        if flips.number():
            arrays.weight.copy_(arrays.weight.roll(1))
        return flips


class ForgetsMoments(Eager):
    """Every step is Adam's first one to it."""

    def advance(self, move: Move, gradient: Tensor) -> None:
        assert move.moments is not None
        mean, square = (torch.zeros_like(part) for part in move.moments)
        super().advance(move._replace(moments=(mean, square)), gradient)


class OtherAdam(Eager):
    """Adam's formula, in which `old` is `new`."""

    def __init__(self, old: str, new: str) -> None:
        self.formula = mutated(formulas, (old, new)).advance_by_adam

    def advance(self, move: Move, gradient: Tensor) -> None:
        assert move.moments is not None
        kept = move.arrays.latent, *move.moments
        for tensor, values in zip(kept, self.formula(*kept, gradient, move.rule, torch.sqrt), strict=True):
            tensor.copy_(values)


SHORT = Run("mlp", 8, steps=60)
CONSTANT = replace(ADAM_RUN, period=0, steps=40)
DECAYED = replace(CONSTANT, weight_decay=0.5)
BLUNT = replace(CONSTANT, eps=1e-2)

WRONG: dict[str, tuple[Eager, Run]] = {
    "ignores-upper": (IgnoresUpper(), SHORT),
    "ignores-lower": (IgnoresLower(), SHORT),
    "no-decay-of-a": (WithOther(weight_decay=0.0), replace(SHORT, weight_decay=1e-2)),
    "last-of-equal": (LastOfEqual(), replace(SHORT, init=Coarse())),
    "never-turns": (NeverTurns(), replace(SWINGING, steps=100)),
    "one-step-late": (OneStepLate(), SHORT),
    "forgets-velocity": (WithOther(momentum=0.0, nesterov=False), SHORT),
    "always-damped": (WithOther(intake=0.5), replace(SHORT, dampening=0.5)),
    "never-nesterov": (WithOther(nesterov=False), replace(SHORT, nesterov=True)),
    "never-maximizes": (WithOther(sign=1.0), replace(SHORT, maximize=True)),
    "forgets-c": (ForgetsC(), replace(SHORT, weight_decay=1e-2)),
    "wrong-place": (WrongPlace(), SHORT),
    "adam-without-memory": (ForgetsMoments(), CONSTANT),
    "adam-mean-not-corrected": (WithOther(rate=CONSTANT.lr), CONSTANT),
    "adam-square-not-corrected": (WithOther(correction=1.0), CONSTANT),
    "adam-betas-swapped": (WithOther(intake=1 - 0.999, beta2=0.9, square_intake=1 - 0.9), CONSTANT),
    "adam-beta2-not-one-minus": (WithOther(square_intake=0.999), CONSTANT),
    "adam-without-eps": (WithOther(eps=0.0), BLUNT),
    "adam-never-maximizes": (WithOther(sign=1.0), replace(CONSTANT, maximize=True)),
    "adam-without-decay": (WithOther(kept=1.0), DECAYED),
    "adam-eps-in-the-root": (
        OtherAdam("root(square) / h.correction + h.eps", "root(square / h.correction**2 + h.eps)"),
        BLUNT,
    ),
    "adam-eps-corrected": (
        OtherAdam("root(square) / h.correction + h.eps", "(root(square) + h.eps) / h.correction"),
        BLUNT,
    ),
    "adam-decay-in-the-gradient": (
        OtherAdam(
            "gradient = h.sign * gradient\n    mean",
            "gradient += (1 - h.kept) / 0.05 * position\n    h = h._replace(kept=1.0)\n    mean",
        ),
        DECAYED,
    ),
    "adam-decay-after-the-step": (
        OtherAdam("h.kept * position - h.rate * mean / scale", "h.kept * (position - h.rate * mean / scale)"),
        DECAYED,
    ),
    "adam-square-of-the-mean": (
        OtherAdam("h.square_intake * gradient * gradient", "h.square_intake * mean * mean"),
        CONSTANT,
    ),
    "adam-signs-only": (OtherAdam("root(square) / h.correction", "abs(mean)"), CONSTANT),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_engine_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, run = WRONG[name]
    module = ModuleType("wrong_engine")
    module.ENGINE = wrong  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wrong_engine", module)
    entry = EngineEntry("wrong_engine", "wrong on purpose", ENGINES["eager"].refusal)
    monkeypatch.setitem(ENGINES, "wrong", entry)
    with pytest.raises(AssertionError, match=r"(weights|selections|scores) differ: "):
        assert_equals_the_oracle(run, "wrong", CPU)
