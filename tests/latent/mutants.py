"""Every rule of the compiled loops, broken once: a program that tells which broken loops go unnoticed.

It runs without compiling (NUMBA_DISABLE_JIT=1), because compiling each mutant would take minutes. Prints one
line of JSON: mutant -> what the suite's checks said of it, "" if nothing. "none" is the code as it is.

A mutant is one place of a source file, replaced. Left out are rules that no result depends on: how many
connections are looked at together, and polynomials that only spare an exponential.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from latent.test_draws import assert_frequencies, layer, spread_latents
from latent.trajectories import CPU, Coarse, Indifferent, Run, bits, latent_form

from slotkit.latent.engines import cpu, cpu_choose, cpu_sample
from slotkit.machine import SlotMachine
from slotkit.reel import Fans, UniformInit


class Mutant(NamedTuple):
    """`old` in the source of a module becomes `new`; `check` has to fail."""

    module: ModuleType
    old: str
    new: str
    check: Callable[[], None]


class DifferenceError(AssertionError):
    """The engine isn't the one to read."""


def steps(run: Run) -> Callable[[], None]:
    """Weights, state and flips of numba are those of eager, to the last bit (float64)."""

    def check() -> None:
        tables = "recomputed" if isinstance(run.init, str) else "stored"
        machines = [run.machine(CPU, "latent", name, tables) for name in ("numba", "eager")]
        for machine in machines:
            for weight in latent_form(machine).weights.values():
                weight.recorded = True
        flips = 0
        for step, _ in zip(*(run.train(machine) for machine in machines), strict=True):
            ours, right = (bits(machine) | events(machine) for machine in machines)
            for name, value in right.items():
                if not torch.equal(ours[name], value):
                    raise DifferenceError(f"{name} differs in step {step}")
            flips += sum(weight.changed for weight in latent_form(machines[1]).weights.values())
        assert flips > 20, "a run without flips tests nothing"

    return check


def independent() -> None:
    """Connections are drawn each for itself: of 96 fair coins, not 80 fall alike (a chance below 1e-10)."""
    machine = layer("numba", 2, shape=(12, 8), init=Heavy())
    first = machine.options("weight")[..., 0]
    for number in range(20):
        with machine.using("probabilistic", number):
            heads = int((machine.model.get_parameter("weight") == first).sum())
        assert 16 < heads < 80, f"{heads} of 96 connections took their first option"


@dataclass(frozen=True)
class Heavy(Indifferent):
    """Equal scores, too large for rejection: every draw is by inversion, with the same chances."""

    def scores(self, uniform: torch.Tensor, fans: Fans) -> torch.Tensor:
        return 5 * super().scores(uniform, fans)


def events(machine: SlotMachine) -> dict[str, torch.Tensor]:
    """The flips of the last step."""
    found = {}
    for name, weight in latent_form(machine).weights.items():
        found[f"{name}/connections"], found[f"{name}/options"] = weight.events
    return found


def draws(factor: float, k: int = 3, count: int = 60, **settings: object) -> Callable[[], None]:
    """Sampled options follow the softmax."""

    def check() -> None:
        machine = layer("numba", k, shape=(12, 8), **settings)
        spread_latents(machine, factor)
        assert_frequencies(machine, count)

    return check


PLAIN = Run("mlp", 8, steps=12)
MANY = replace(PLAIN, k=40, steps=6)
DECAYED = replace(PLAIN, weight_decay=0.05, steps=30)
SWINGS = Run("mlp", 6, lr=50.0, period=0, weight_decay=5e-3, steps=20)  # c changes its sign
LONG = Run("conv", 6, steps=12)
SHARED = replace(LONG, sharing="channel")
FLAT, STEEP = draws(0.5), draws(40.0)

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
    "momentum-of-decay": ("kind(h.weight_decay)", "kind(h.momentum)", PLAIN),
    "never-nesterov": ("h.nesterov", "False", replace(PLAIN, nesterov=True)),
    "never-damped": ("kind(h.intake)", "kind(1.0)", replace(PLAIN, dampening=0.5)),
    "never-maximizes": ("kind(h.sign)", "kind(1.0)", replace(PLAIN, maximize=True)),
}  # fmt: skip

DRAWS = {
    "always-taken": ("if accepts(np.float64(chance[n]), below)", "if True", draws(4.0)),
    "scores-forgotten": ("c * np.float64(score[n]) + a", "a", draws(0.0, init=UniformInit(6.0, linear_scores=7.0))),
    "options-forgotten": ("+ a * np.float64(option[n]) - ceiling", "- ceiling", draws(4.0)),
    "ceiling-too-low": ("ceiling = flat + abs(a) * largest_option", "ceiling = flat + 0.3 * abs(a) * largest_option", draws(4.0)),
    "chance-of-the-proposal": ("unit_uniform(x[3] if second else x[1])", "unit_uniform(x[2] if second else x[0])", draws(4.0)),
    "last-option-never": ("x[0]) * k) >> HALF)", "x[0]) * (k - np.uint64(1))) >> HALF)", draws(0.5)),
    "every-exponential-one": ("out[j] *= x[j]", "out[j] = 1.0", STEEP),
    "first-by-inversion": ("if rest <= 0:", "if True:", STEEP),
    "inversion-one-late": ("return np.float32(w[j])", "return np.float32(w[(j + 1) % k])", STEEP),
    "one-word-for-all": ("low, high = np.uint64(i) & WORD", "low, high = np.uint64(0) & WORD", independent),
}  # fmt: skip


def mutated(module: ModuleType, old: str, new: str) -> ModuleType:
    """The module with its only `old` replaced."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    assert old in source, f"{module.__name__} has no {old!r}: write this mutant anew"
    twin = ModuleType(module.__name__)
    twin.__file__ = module.__file__
    exec(compile(source.replace(old, new), f"<mutant of {module.__name__}>", "exec"), twin.__dict__)
    return twin


def verdict(check: Callable[[], None]) -> str:
    try:
        check()
    except (AssertionError, IndexError, ZeroDivisionError) as fault:
        return f"{type(fault).__name__}: {fault}"
    return ""


def main() -> None:
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns of overflow where compiled code doesn't
    told: dict[str, str] = {}
    checks = [steps(run) for run in (PLAIN, MANY, DECAYED, SWINGS, SHARED)] + [
        FLAT,
        STEEP,
        draws(4.0),
        independent,
    ]
    told["none"] = " ".join(verdict(check) for check in checks).strip()
    right = cpu.step_tensor, cpu.sample_tensor
    for name, (old, new, run) in STEPS.items():
        cpu.step_tensor = mutated(cpu_choose, old, new).step_tensor
        told[name] = verdict(steps(run))
    cpu.step_tensor = right[0]
    for name, (old, new, check) in DRAWS.items():
        cpu.sample_tensor = mutated(cpu_sample, old, new).sample_tensor
        told[name] = verdict(check)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
