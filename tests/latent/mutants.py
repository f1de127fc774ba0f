"""Every rule of the compiled loops, broken once: a program that tells which broken loops go unnoticed.

It runs without compiling (NUMBA_DISABLE_JIT=1), because compiling each mutant would take minutes. It reads
the name of a mutant and whether all checks are wanted, a line of JSON each, and answers with a line of JSON:
what the suite's checks say of it, "" if nothing. "none" is the code as it is.

A mutant is one place of a source file, replaced. Left out are rules that no result depends on: how many
connections are looked at together, and polynomials that only spare an exponential.
"""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from latent.drawing import assert_frequencies, layer, spread_latents
from latent.trajectories import CPU, Coarse, Indifferent, Run, bits, first_weight, latent_form

from slotkit.latent.engines import cpu, cpu_choose, cpu_proposals, cpu_sample
from slotkit.latent.line import AdamStep
from slotkit.machine import SlotMachine
from slotkit.reel import UniformInit


class Mutant(NamedTuple):
    """`old` in the source of a module becomes `new`; `check` has to fail."""

    module: ModuleType
    old: str
    new: str
    check: Callable[[], None]


class DifferenceError(AssertionError):
    """The engine isn't the one to read."""


def steps(run: Run, engine: str = "numba", tables: str = "recomputed") -> Callable[[], None]:
    """Weights, state and flips of an engine are those of eager, to the last bit (float64).

    Under Adam A may differ by rounding: torch.sqrt is not exact.
    """

    def differ(name: str, one: torch.Tensor, two: torch.Tensor) -> bool:
        if run.betas is not None and name.endswith("/latent"):
            return not torch.allclose(one, two, rtol=1e-12, atol=1e-12)
        return not torch.equal(one, two)

    def check() -> None:
        expected = right_steps(run)
        for step, ours in enumerate(recorded_steps(run, engine, tables)):
            for name, value in expected[step].items():
                if differ(name, ours[name], value):
                    raise DifferenceError(f"{name} differs in step {step}")
        flips = sum(
            len(value) for one in expected for name, value in one.items() if name.endswith("/connections")
        )
        assert flips > 20, "a run without flips tests nothing"

    return check


def recorded_steps(run: Run, engine: str, tables: str = "recomputed") -> Iterator[dict[str, torch.Tensor]]:
    """Weights, state and flips after each step."""
    policy = tables if isinstance(run.init, str) else "stored"
    machine = run.machine(CPU, "latent", engine, policy)
    for weight in latent_form(machine).weights.values():
        weight.recorded = True
    for _ in run.train(machine):
        yield bits(machine) | events(machine)


@functools.cache
def right_steps(run: Run) -> list[dict[str, torch.Tensor]]:
    """Those of the engine to read: many mutants are compared with the same ones."""
    found = list(recorded_steps(run, "eager"))
    assert len(found) == run.steps
    return found


def independent() -> None:
    """Connections are drawn each for itself: of 96 fair coins, not 80 fall alike (a chance below 1e-10)."""
    machine = layer("numba", 2, shape=(12, 8), init=Indifferent())
    first = machine.options("weight")[..., 0]
    for number in range(20):
        with machine.using("probabilistic", number):
            heads = int((machine.model.get_parameter("weight") == first).sum())
        assert 16 < heads < 80, f"{heads} of 96 connections took their first option"


def events(machine: SlotMachine) -> dict[str, torch.Tensor]:
    """The flips of the last step."""
    found = {}
    for name, weight in latent_form(machine).weights.items():
        connections, options = weight.events
        found |= {f"{name}/connections": connections.clone(), f"{name}/options": options.clone()}
    return found


def draws(
    factor: float, k: int = 3, count: int = 60, c: float = 1.0, **settings: object
) -> Callable[[], None]:
    """Sampled options follow the softmax. A quarter of the draws shows what is very wrong."""

    def check() -> None:
        machine = layer("numba", k, shape=(12, 8), **{"tables": "recomputed", **settings})
        spread_latents(machine, factor)
        first_weight(machine).line.c = c
        for number in (count // 4, count):
            assert_frequencies(machine, number)

    return check


def stale() -> None:
    """Draws follow scores that have moved since the proposals were made, and that have turned round."""
    machine = layer("numba", 8, shape=(12, 8), tables="recomputed")
    for factor in (0.0, 20.0, -20.0):
        spread_latents(machine, factor)
        assert_frequencies(machine, 40)


PLAIN = Run("mlp", 8, steps=12)
MANY = replace(PLAIN, k=40, steps=6)
DECAYED = replace(PLAIN, weight_decay=0.05, steps=30)
ADAM = Run("mlp", 8, lr=0.05, betas=(0.9, 0.99), eps=1e-2, weight_decay=0.5, steps=12)
SWINGS = Run("mlp", 6, lr=50.0, period=0, weight_decay=5e-3, steps=20)  # c changes its sign
LONG = Run("conv", 6, steps=12)
SHARED = replace(LONG, sharing="channel")
FLAT, STEEP = draws(0.5), draws(40.0)

# What the compiled loop makes an `AdamStep` of.
NUMBERS = ", ".join(f"rule[{i}]" for i in range(len(AdamStep._fields)))

STEPS = {
    "lower-ignored": ("if not (u >= lower[i] and u <= upper[i])", "if not u <= upper[i]", PLAIN),
    "upper-ignored": ("if not (u >= lower[i] and u <= upper[i])", "if not u >= lower[i]", PLAIN),
    "group-below-unseen": ("(u >= lower[i]) & (u <= upper[i])", "u <= upper[i]", PLAIN),
    "group-above-unseen": ("(u >= lower[i]) & (u <= upper[i])", "u >= lower[i]", PLAIN),
    "last-group-unseen": ("range(0, len(position), GROUP)", "range(0, len(position) - GROUP, GROUP)", PLAIN),
    "first-of-group-unseen": ("for i in range(start, end):\n            ", "for i in range(start + 1, end):\n            ", PLAIN),
    "a-not-over-c": ("u_scale = kind(scale)", "u_scale = kind(1.0)", DECAYED),
    "a-lags": ("if len(gradient):", "if len(gradient) and b > 0:", PLAIN),
    "last-of-equal": ("if group[j] > top", "if group[j] >= top", replace(PLAIN, init=Coarse())),
    "few-unseen": ("if any_above(group, top)", "if start == 0", MANY),
    "last-few-unseen": ("range(0, len(values), FEW)", "range(0, len(values) - FEW, FEW)", MANY),
    "place-in-its-group": ("start + j, group[j]", "j, group[j]", MANY),
    "c-without-scores": ("c * np.float64(s[j]) + a", "np.float64(s[j]) + a", DECAYED),
    "a-without-options": ("a * np.float64(w[j])", "a", PLAIN),
    "staircase-not-turned": ("sign * np.float64(s[selected])", "np.float64(s[selected])", SWINGS),
    "crossings-not-turned": ("score - sign * np.float64(s[j])", "score - np.float64(s[j])", SWINGS),
    "lower-from-above": ("if gap < 0", "if gap > 0", PLAIN),
    "upper-from-below": ("if gap > 0", "if gap < 0", PLAIN),
    "lower-zero-signed": ("highest(below)[1] + 0.0", "highest(below)[1] + 1e-9", PLAIN),
    "upper-turned": ("0.0 - highest(above)[1]", "0.0 + highest(above)[1]", PLAIN),
    "score-scale-forgotten": ("unit_uniform(x[2]) * bound * scale", "unit_uniform(x[2]) * bound", replace(PLAIN, init="glorot-deviation")),
    "scores-not-positive": ("unit_uniform(x[0]) * bound", "symmetric_uniform(x[0]) * bound", PLAIN),
    "words-mixed": ("symmetric_uniform(x[2]) * bound, symmetric_uniform(x[3])", "symmetric_uniform(x[3]) * bound, symmetric_uniform(x[2])", PLAIN),
    "pair-of-equals": ("= -w[8 * b + j]", "= w[8 * b + j]", replace(PLAIN, symmetric=True)),
    "pairs-forgotten": ("if spec.symmetric:", "if False:", replace(PLAIN, symmetric=True)),
    "options-of-the-scores": ("np.uint64(stream)", "np.uint64(0)", PLAIN),
    "every-block-the-first": ("np.uint64(block)", "np.uint64(0)", PLAIN),
    "nothing-shared": ("(i // spec.stride) % spec.owners", "i", SHARED),
    "stride-forgotten": ("(i // spec.stride) % spec.owners", "i % spec.owners", SHARED),
    "owners-forgotten": ("(i // spec.stride) % spec.owners", "i // spec.stride", replace(LONG, sharing="layer")),
    "key-of-the-tensor": ("if stream == OPTIONS:", "if False:", replace(LONG, sharing="network")),
    "key-of-the-network": ("if stream == OPTIONS:", "if True:", replace(LONG, sharing="network")),
    "uniform-even": ("np.int32(1 - 2**24)", "np.int32(-(2**24))", PLAIN),
    "velocity-lost": ("velocity[i] = pace if abs(pace) >= least else nothing", "velocity[i] = nothing", PLAIN),
    "weight-kept": ("weight[i] = w[j]", "pass", PLAIN),
    "flips-not-counted": ("flips += 1", "flips += 0", PLAIN),
    "flips-of-nobody": ("= i, j\n", "= i + 1, j\n", PLAIN),
    "flips-to-another": ("= i, j\n", "= i, j - 1\n", PLAIN),
    "flips-where-none-is": ("if weight[i] != w[j]:", "if True:", SWINGS),
    "momentum-of-decay": ("bool(rule[3]), rule[4]", "bool(rule[3]), rule[1]", PLAIN),
    "never-nesterov": ("bool(rule[3])", "False", replace(PLAIN, nesterov=True)),
    "never-damped": ("rule[2], bool", "1.0, bool", replace(PLAIN, dampening=0.5)),
    "never-maximizes": ("rule[4], rule[5])", "rule[4], 1.0)", replace(PLAIN, maximize=True)),
    "adam-is-sgd": ("if len(square):", "if False:", ADAM),
    "adam-mean-lost": ("velocity[i] = m if abs(m) >= least else nothing", "velocity[i] = nothing", ADAM),
    "adam-square-lost": ("square[i] = v if v >= least else nothing", "square[i] = nothing", ADAM),
    **{
        f"adam-{field}-not-told": (NUMBERS, NUMBERS.replace(f"[{i}]", f"[{i - 1}]"), replace(ADAM, maximize=field == "sign"))
        for i, field in enumerate(AdamStep._fields)
        if i > 0
    },
}  # fmt: skip

BIASED = UniformInit(6.0, linear_scores=4.0)
PAIRS = draws(4.0, k=6, count=30, symmetric=True)
MANY_DRAWS = draws(4.0, k=40, count=40)
CROWDED = draws(8.0, k=16, count=30)

# Settings under which a rule is used often: several parts a group, later attempts, the inverse CDF.
ONE_GROUP = ("PART, GROUPS = 4, 32", "PART, GROUPS = 4, 1")
REFUSED = ("- np.int32(low[m])) * unit[m]", "- np.int32(low[m])) * BEYOND")
WIDE = ("CELL_BITS, NO_CELL = 20, -1", "CELL_BITS, NO_CELL = 24, -1")
INVERSE = ("ATTEMPTS, FLAT = 64, 4.0", "ATTEMPTS, FLAT = 64, -1.0")

DRAWS: dict[str, tuple[str, str, Callable[[], None], tuple[str, str] | None]] = {
    "part-of-another-word": ("parts[n] >> halved, OPTIONS", "(parts[n] >> halved) + 1, OPTIONS", draws(4.0, k=8), None),
    "signs-of-pairs": ("np.float32(1 - 2 * (parts[n] & halved))", "ONE", PAIRS, None),
    "score-of-another": ("options[n] & 3", "(options[n] + 1) & 3", draws(0.0, init=BIASED), None),
    "scores-forgotten": ("(chances[n] >= sure) & (", "(chances[n] < NOTHING) & (", draws(0.0, init=BIASED), None),
    "scores-turned": ("chances[unsure[o]] < scores[o]", "chances[unsure[o]] > scores[o]", draws(0.0, init=BIASED), None),
    "ceiling-forgotten": ("* scores[o] - draw.ceiling", "* scores[o]", draws(0.0, init=BIASED), None),
    "sure-too-soon": ("math.exp(-draw.spread)", "1.0", draws(0.0, init=BIASED), None),
    "stale-proposals": ("cells[n] != kept[n]", "kept[n] == NO_CELL", stale, None),
    "sign-of-a-forgotten": ("| np.int32(a[n] < 0)", "", stale, None),
    "top-of-the-other-end": ("-highest[n] if edges[n] < 0 else highest[n]", "highest[n]", STEEP, None),
    "parts-not-compared": ("max(lasting[q], lasting[p * m + n])", "lasting[q]", CROWDED, ONE_GROUP),
    "lengths-at-the-wrong-edge": ("-size if cells[n] & 1 else size", "size", draws(8.0, k=8), None),
    "even-parts-too-short": ("np.float32(largest * 1.0001)", "np.float32(1.0001)", draws(0.0, k=8), None),
    "even-top-of-the-other-end": ("-draw.bound if cell & 1 else draw.bound", "draw.bound", draws(1.0, k=8, count=150), WIDE),
    "c-of-scores-forgotten": ("draw.c * scores[o] - draw.ceiling", "scores[o] - draw.ceiling", draws(0.0, init=BIASED, c=-0.5), None),
    "options-beyond-k": ("if not has_option(parts[n], lanes[n], spec):", "if False:", draws(0.0, k=6), None),
    "low-end-ignored": ("low[n] = max(least, end) if passed else least", "low[n] = 0", draws(4.0, k=16, count=150), None),
    "high-end-ignored": ("high[n] = most if passed else min(most, end)", "high[n] = 255", draws(4.0, k=16, count=150), None),
    "first-slot-only": ("np.int32(group[m]) + np.int32(slot) * np.int32(groups)", "np.int32(group[m])", CROWDED, ONE_GROUP),
    "second-attempt-low-end": ("np.float32(np.int32(most) - np.int32(least))", "np.float32(np.int32(most))", draws(8.0, k=16), REFUSED),
    "second-attempt-group": ("group += step", "group += 0", draws(8.0, k=16), REFUSED),
    "second-attempt-slot": ("parts[n] = group + np.int32(slot) * groups if", "parts[n] = group if", CROWDED, ONE_GROUP),
    "lane-one-late": ("end0 <= point, end1 <= point, end2 <= point", "end1 <= point, end2 <= point, False", draws(4.0, k=8), None),
    "value-of-another": ("value, length, start = w2 if in2 else value", "value, length, start = w3 if in2 else value", draws(0.5, k=8), None),
    "start-forgotten": ("(point - start) / length", "point / length", draws(4.0), None),
    "always-taken": ("chances[n] = value, (point - start) / length", "chances[n] = value, NOTHING", CROWDED, ONE_GROUP),
    "slopes-of-neighbours": ("slopes[n] = a[n] * LOG2E", "slopes[n] = a[max(n - 1, 0)] * LOG2E", draws(4.0), None),
    "power-of-e": ("slopes[n] = a[n] * LOG2E", "slopes[n] = a[n]", draws(8.0, k=8, count=150), None),
    "every-power-one": ("r * (T5 + r * T6)))))) * scale", "r * (T5 + r * T6)))))) * ONE", draws(8.0, k=8), None),
    "first-by-inversion": ("if rest <= 0:", "if True:", STEEP, INVERSE),
    "inversion-one-late": ("return np.float32(w[j])", "return np.float32(w[(j + 1) % k])", STEEP, INVERSE),
    "one-word-for-all": ("low, high = np.uint64(i) & WORD", "low, high = np.uint64(0) & WORD", independent, INVERSE),
    "one-word-for-a-block": ("index = np.uint64(draw.first // 4 + b)", "index = np.uint64(0)", independent, None),
}  # fmt: skip

# Changes that may cost attempts and nothing else: every check has to pass.
HARMLESS = {
    "one-attempt": ("ATTEMPTS, FLAT = 64, 4.0", "ATTEMPTS, FLAT = 1, 4.0"),
    "one-group": ("PART, GROUPS = 4, 32", "PART, GROUPS = 4, 1"),
    "wide-cells": WIDE,
    "always-anew": ("cells[n] != kept[n]", "True"),
    "no-attempt": ("if is_flat:", "if False:"),
    "first-attempt-refused": REFUSED,
    "second-attempt-as-the-first": ("(index >> HALF) | later", "(index >> HALF)"),
    "gaps-as-long-as-options": ("BEYOND if slopes[n] < 0 else -BEYOND", "w[0, n]"),
    "even-everywhere": ("cells[m] >> 1 == around_0", "True"),
    "even-nowhere": ("cells[m] >> 1 == around_0", "False"),
}


def mutated(module: ModuleType, *replaced: tuple[str, str]) -> ModuleType:
    """The module with each old text replaced by a new one."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    for old, _ in replaced:
        assert old in source, f"{module.__name__} has no {old!r}: write this mutant anew"
    twin = ModuleType(module.__name__)
    twin.__file__ = module.__file__
    for old, new in replaced:
        source = source.replace(old, new)
    exec(compile(source, f"<mutant of {module.__name__}>", "exec"), twin.__dict__)
    return twin


def verdict(check: Callable[[], None]) -> str:
    try:
        check()
    except (AssertionError, IndexError, ZeroDivisionError) as fault:
        return f"{type(fault).__name__}: {fault}"
    return ""


@contextmanager
def broken_step(*replaced: tuple[str, str]) -> Iterator[None]:
    """The engine takes its steps with a loop in which each old text is replaced by a new one."""
    right = cpu.step_tensor
    cpu.step_tensor = mutated(cpu_choose, *replaced).step_tensor
    try:
        yield
    finally:
        cpu.step_tensor = right


@contextmanager
def broken_draw(*replaced: tuple[str, str]) -> Iterator[None]:
    """The same for its draws, whose loops lie in two modules."""
    sources = [Path(str(module.__file__)).read_text() for module in (cpu_proposals, cpu_sample)]
    proposals, sampling = ([(old, new) for old, new in replaced if old in source] for source in sources)
    assert len(proposals) + len(sampling) == len(replaced), f"write this mutant anew: {replaced}"
    twin = mutated(cpu_proposals, *proposals)
    sys.modules[cpu_proposals.__name__] = twin  # from which the other module takes what it imports
    try:
        sampler = mutated(cpu_sample, *sampling).sample_tensor
    finally:
        sys.modules[cpu_proposals.__name__] = cpu_proposals
    right = cpu.new_proposals, cpu.sample_tensor
    cpu.new_proposals, cpu.sample_tensor = twin.new_proposals, sampler
    try:
        yield
    finally:
        cpu.new_proposals, cpu.sample_tensor = right


SAMPLED = [draws(4.0, k=8, count=30), PAIRS, CROWDED, draws(1.0, k=6, count=30)]
EVERY = [steps(run) for run in (PLAIN, MANY, DECAYED, ADAM, SWINGS, SHARED)]
EVERY += [*SAMPLED, FLAT, STEEP, MANY_DRAWS, stale, independent, draws(0.0, init=BIASED)]


def judge(name: str, every: bool) -> str:
    """What the checks say of one mutant. Of what may change no distribution each looks at half of them, or all."""
    if name in STEPS:
        old, new, run = STEPS[name]
        with broken_step((old, new)):
            return verdict(steps(run))
    if name in DRAWS:
        old, new, check, given = DRAWS[name]
        with broken_draw((old, new), *([] if given is None else [given])):
            return verdict(check)
    if name in HARMLESS:
        with broken_draw(HARMLESS[name]):
            return all_of(SAMPLED if every else SAMPLED[list(HARMLESS).index(name) % 2 :: 2])
    assert name == "none", f"there is no mutant {name}"
    told = [all_of(EVERY)]
    for place, setting in enumerate((ONE_GROUP, INVERSE)):
        with broken_draw(setting):
            told.append(all_of(SAMPLED if every else SAMPLED[place::2]))
    return " ".join(told).strip()


def all_of(checks: list[Callable[[], None]]) -> str:
    return " ".join(verdict(check) for check in checks).strip()


def main() -> None:
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns of overflow where compiled code doesn't
    for line in sys.stdin:
        name, every = json.loads(line)
        print(json.dumps(judge(name, every)), flush=True)


if __name__ == "__main__":
    main()
