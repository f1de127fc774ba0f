"""Every rule of the Triton kernels, broken once: one place of their source is replaced, and a check fails."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from latent.kernel_checks import ADAM, COARSE, CONV, DECAYED, NAME, QUICK, SWINGS, reels, samples, skipped
from latent.mutants import steps
from latent.trajectories import Run

from slotkit.latent.engines import triton as engine
from slotkit.latent.engines import triton_kernels as kernels

# A place of the kernels, what becomes of it, and the run or check that has to notice. None writes where nothing
# is: the interpreter has the memory of this process.
MUTANTS: dict[str, tuple[str, str, Run | Callable[[], None]]] = {
    "lower-ignored": ("(u >= low) & (u <= high)", "u <= high", QUICK),
    "upper-ignored": ("(u >= low) & (u <= high)", "u >= low", QUICK),
    "a-not-over-c": ("position * told(row, SCALE, KEPT_SCALE, ON_DEVICE).to(STATE)", "position", DECAYED),
    "first-group-only": ("tl.where(waiting & (group > g), group, GROUPS)", "tl.where(group < 0, group, GROUPS)", QUICK),
    "latent-of-the-first-group": ("tl.where(here, position, 0.0)", "tl.where(group[:, None] == 0, position, 0.0)", QUICK),
    "bounds-of-all": ("mask=lost)\n            tl.store(upper", "mask=lost | (at < 5))\n            tl.store(upper", SWINGS),
    "last-of-equal": ("tl.min(tl.where((scores == top[:, None]) & (j < K), j, K), axis=1)", "tl.max(tl.where((scores == top[:, None]) & (j < K), j, 0), axis=1)", COARSE),
    "padding-chosen": ("tl.max(tl.where(j < K, scores, -float(\"inf\")), axis=1)", "tl.max(scores, axis=1)", reels(replace(QUICK, k=6))),
    "c-without-scores": ("scores = c * s + latent", "scores = s + latent", DECAYED),
    "a-without-options": ("latent.to(tl.float64)[:, None] * w\n", "latent.to(tl.float64)[:, None]\n", QUICK),
    "staircase-not-turned": ("score = sign * tl.sum", "score = tl.sum", SWINGS),
    "crossings-not-turned": ("(score[:, None] - sign * s)", "(score[:, None] - s)", SWINGS),
    "lower-from-above": ("(gap < 0), crossing", "(gap > 0), crossing", QUICK),
    "upper-from-below": ("(gap > 0), crossing", "(gap < 0), crossing", QUICK),
    "padding-has-bounds": ("tl.where((j < K) & (gap > 0)", "tl.where((gap > 0)", replace(QUICK, k=6)),
    "words-mixed": ("tl.join(tl.join(x0, x2), tl.join(x1, x3))", "tl.join(tl.join(x0, x1), tl.join(x2, x3))", steps(replace(QUICK, steps=1, lr=9.0), NAME)),
    "every-block-the-first": ("low * 0 + four + third", "low * 0 + third", reels(QUICK)),
    "options-of-the-scores": ("low * 0 + stream)", "low * 0)", reels(QUICK)),
    "score-scale-forgotten": ("scores * number(row, SCORE_SCALE).to(tl.float32)", "scores", reels(replace(QUICK, init="glorot-deviation"))),
    "pair-of-equals": ("tl.join(half, -half)", "tl.join(half, half)", reels(replace(QUICK, symmetric=True))),
    "stride-forgotten": ("i // tl.load(row + STRIDE) %", "i %", reels(replace(CONV, sharing="channel"))),
    "owners-forgotten": ("% tl.load(row + OWNERS)", "", reels(replace(CONV, sharing="layer"))),
    "key-of-the-tensor": ("tl.load(row + OPTION_KEY)", "tl.load(row + KEY)", reels(replace(CONV, sharing="network"))),
    "uniform-even": ("(1 - 16777216)", "(-16777216)", reels(QUICK)),
    "velocity-lost": ("tl.store(pace, after, mask=kept)", "pass", QUICK),
    "latent-lost": ("tl.store(latent, position, mask=live)", "pass", QUICK),
    "weight-kept": ("tl.store(weight + i, new, mask=flipped)", "pass", QUICK),
    "weight-of-the-neighbour": ("tl.store(weight + i, new", "tl.store(weight + i - (i > 0).to(tl.int64), new", QUICK),
    "flips-not-counted": ("return flips + tl.sum(one)", "return flips", QUICK),
    "flips-in-one-place": ("start + flips + tl.cumsum(one, axis=0) - one", "start + tl.cumsum(one, axis=0) - one", SWINGS),
    "flips-to-another": ("at, selected, mask=flipped)", "at, selected - 1, mask=flipped)", QUICK),
    "never-nesterov": ("Hyperparameters(r0, r1, r2, r3 != 0", "Hyperparameters(r0, r1, r2, r3 < 0", replace(QUICK, nesterov=True)),
    "momentum-of-decay": ("r2, r3 != 0, r4, r5", "r2, r3 != 0, r1, r5", QUICK),
    "never-maximizes": ("r2, r3 != 0, r4, r5", "r2, r3 != 0, r4, 1.0", replace(QUICK, maximize=True)),
    "adam-without-square": ("tl.store(squares, square, mask=live)", "pass", ADAM),
    "adam-betas-mixed": ("AdamStep(r0, r1, r2, r3.to(STATE), r4", "AdamStep(r0, r1, r4, r3.to(STATE), r2", ADAM),
    "never-skips": ("KEPT_SKIPPED, ON_DEVICE), tl.float64) == 0)", "KEPT_SKIPPED, ON_DEVICE), tl.float64) >= 0)", skipped),
    "line-goes-on": ("tl.where(skipped, c, after), tl.where(skipped, e, speed)", "after, speed", skipped),
    "adam-counts-on": ("tl.where(skipped, t - 1, t)", "t", skipped),
    "intervals-not-turned": ("inside & (tl.full(live.shape, told(row, 0, KEPT_TURNED", "inside & (tl.full(live.shape, 0 * told(row, 0, KEPT_TURNED", SWINGS),
    "line-stands-still": ("tl.store(kept + KEPT_C, after)", "pass", DECAYED),
    "always-damped": ("tl.where(begun != 0, r2, 1.0)", "r2 * 1.0", replace(QUICK, dampening=0.5)),
    "adam-mean-not-corrected": ("lr / (1 - first)", "lr", ADAM),
    "adam-square-not-corrected": ("tl.sqrt(1 - second)", "tl.sqrt(1 + 0 * second)", ADAM),
    "adam-without-decay": ("1 - lr * r1)", "1 + 0 * lr * r1)", ADAM),
    "draw-uniform": ("tl.exp(scores - tl.max(scores, axis=1)[:, None])", "tl.where(j < K, 1.0, 0.0).to(tl.float64)", samples(8)),
    "draw-scores-forgotten": ("scores = c * initial.to(tl.float64) + latent", "scores = c * 0 + latent", samples(8, 0.0, init="glorot-uniform", c=30.0)),
    "draw-one-late": ("reached & (mass > 0), j, K)", "reached & (mass > 0), (j + 1) % K, K)", samples(8)),
    "draw-one-word-for-four": ("(i % 4).to(tl.int32)[:, None]", "(i * 0).to(tl.int32)[:, None]", samples(8)),
    "draw-one-number": ("words(i // 4, draw, stream", "words(i // 4, 0, stream", samples(8)),
    "draw-one-stream": ("draw, stream, key, 4)", "draw, 2, key, 4)", samples(8)),
    "draw-padding": ("tl.where(j < K, scores, -float(\"inf\"))\n        mass", "scores\n        mass", samples(6)),
}  # fmt: skip

KERNELS = kernels


def use(old: str, new: str, folder: Path) -> None:
    """Let the engine have kernels in which `old` is `new`. Triton reads their source from a file."""
    source = Path(str(KERNELS.__file__)).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"the kernels don't have {old!r} once: write this mutant anew"
    file = folder / f"mutant_{len(list(folder.iterdir()))}.py"
    file.write_text(source.replace(old, new), encoding="utf-8")
    engine.kernels = loaded(file)  # type: ignore[misc]


def loaded(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module
