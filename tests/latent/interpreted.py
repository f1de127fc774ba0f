"""The Triton engine without a GPU: a program that runs its kernels in Triton's interpreter, right and broken.

TRITON_INTERPRET=1 is read when Triton is imported, so this is a process of its own. Prints one line of JSON.
`main`: check or mutant -> what was said of it, "" if nothing. A mutant is one place of the kernels, replaced: a
check has to fail. `suite`: the same of every case of the engine suite. The interpreter takes a tenth of a second
for a small step, so networks and runs are tiny.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from latent.mutants import DifferenceError, steps
from latent.test_draws import drawn, layer, spread_latents
from latent.trajectories import CPU, Centred, Coarse, Indifferent, Run, bits, first_weight
from test_philox import RANDOM123
from triton.runtime import interpreter

from slotkit.latent.engines import triton as engine
from slotkit.latent.engines import triton_kernels as kernels
from slotkit.latent.engines.registry import ENGINES
from slotkit.latent.weight import sample
from slotkit.making import slotify
from slotkit.optim import SlotAdam
from slotkit.reel import EVALUATION_DRAWS, Reel

NAME = "triton"


def patch_once() -> None:
    """Triton's interpreter replaces its language at every call of a kernel by a kernel, and makes a table of all
    types for every number: most of its time. Once for each function is enough.
    """
    patch: Any = interpreter._patch_lang  # type: ignore[attr-defined]
    done: set[Any] = set()

    class Kept:
        def restore(self) -> None:
            """The next launch needs it again."""

    def once(fn: Any) -> Any:
        if fn not in done:
            done.add(fn)
            patch(fn)
        return Kept()

    slow: Any = interpreter._get_np_dtype  # type: ignore[attr-defined]
    names: dict[str, Any] = {}

    def by_name(kind: Any) -> Any:
        name = "pointer" if kind.scalar.is_ptr() else kind.scalar.name
        if name not in names:
            names[name] = slow(kind)
        return names[name]

    interpreter._patch_lang = once  # type: ignore[attr-defined]
    interpreter._get_np_dtype = by_name  # type: ignore[attr-defined]


def round_to_nearest() -> None:
    """To bfloat16 as devices and torch round; Triton's interpreter cuts."""
    builder: Any = interpreter.InterpreterBuilder
    cast = builder.cast_impl

    def rounded(self: Any, source: Any, kind: Any) -> Any:
        if kind.scalar != tl.bfloat16 or source.dtype.scalar != tl.float32:
            return cast(self, source, kind)
        short = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.int16)
        return interpreter.TensorHandle(short.numpy().view(np.uint16), tl.bfloat16)

    builder.cast_impl = rounded


@triton.jit
def four_words(counter: Any, key: Any, out: Any) -> None:
    """`kernels.words` reads the first two words of a counter as one index."""
    index = tl.load(counter + tl.arange(0, 1))
    third, stream = tl.load(counter + 1).to(tl.uint32), tl.load(counter + 2).to(tl.uint32)
    found = kernels.words(index, third, stream, tl.load(key), 4)
    tl.store(out + tl.arange(0, 4)[None, :], found.to(tl.int64))


def known_answers() -> None:
    """Philox in kernels has the answers of Random123."""
    for counter, key, answer in RANDOM123.values():
        words = np.array([*counter[:2], counter[2], 0, counter[3], 0], np.uint32).view(np.int64)
        out = torch.zeros(4, dtype=torch.int64)
        both = torch.from_numpy(np.array(key, np.uint32).view(np.int64))
        four_words[(1,)](torch.from_numpy(words), both, out)
        assert tuple(out.tolist()) == answer


def samples(k: int, factor: float = 4.0, c: float = 1.0, **settings: Any) -> Callable[[], None]:
    """Draws are those of eager: the uniform numbers are the same, and so is the inverse CDF in float64."""

    def check() -> None:
        given = {"shape": (12, 9), "tables": "stored", **settings}
        ours, right = (layer(name, k, **given) for name in (NAME, "eager"))
        for machine in (ours, right):
            spread_latents(machine, factor)
            first_weight(machine).line.c = c
        for number in (0, 2**32 - 1):
            one, two = drawn(ours, number), drawn(right, number)
            if not torch.equal(one, two):
                raise DifferenceError(f"draw {number} differs in {int((one != two).sum())} connections")
            assert k == 1 or len(two.unique()) > 1
        for machine in (ours, right):
            machine.spin()
        assert first_weight(ours).changed == first_weight(right).changed

    return check


def trains(run: Run) -> Callable[[], None]:
    """`mutants.steps`, by tables: the interpreter takes most of its time for random bits."""
    return steps(run, NAME, "stored")


def reels(run: Run) -> Callable[[], None]:
    """Options and scores that kernels make are those of `slotkit.reel`: so are the first choice and its bounds."""

    def check() -> None:
        machines = [run.machine(CPU, "latent", name, "recomputed") for name in (NAME, "eager")]
        ours, right = (bits(machine) for machine in machines)
        for name, value in right.items():
            if not torch.equal(ours[name], value):
                raise DifferenceError(f"{name} differs")

    return check


def skipped() -> None:
    """A step that a GradScaler skips moves nothing."""
    for way in (DECAYED, ADAM):
        machine = replace(way, dtype=torch.float32).machine(CPU, "latent", NAME, "stored")
        optimizer: Any = way.optimizer(machine)
        for parameter in machine.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        before = bits(machine) | moments(optimizer)
        optimizer.found_inf = torch.ones(())
        optimizer.step()
        del optimizer.found_inf
        after = bits(machine) | moments(optimizer)
        wrong = [name for name, value in before.items() if not torch.equal(value, after[name])]
        if wrong:
            raise DifferenceError(f"{wrong[0]} has moved")


def moments(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Of the first weight under Adam, with its steps."""
    state = optimizer.state_dict()["state"][0]
    return {name: state[name].clone() for name in ("step", "exp_avg", "exp_avg_sq") if name in state}


def half_precision(dtype: torch.dtype) -> Callable[[], None]:
    """Weights of two bytes, whose latents are float32."""
    return trains(replace(QUICK, dtype=dtype))


def one_launch() -> None:
    """All tensors of a machine go into one launch, and so do those of two machines."""
    machine = PLAIN.machine(CPU, "latent", NAME)
    launches = []
    launch = engine.launch

    def counted(kernel: Any, arrays: Any, *rest: Any) -> None:
        launches.append(len(arrays))
        launch(kernel, arrays, *rest)

    engine.launch = counted
    try:
        next(PLAIN.train(machine))
        machine.spin(selection="probabilistic")
    finally:
        engine.launch = launch
    assert launches == [3, 3], launches


# docs/roofline.md: bytes a connection that the kernels move in a step without flips, and in a draw of the same
# weights. What looks whether gradients are finite is PyTorch's, and comes to these.
BYTES: dict[str, tuple[dict[str, Any], int, int]] = {
    "momentum": ({"lr": 1e-9, "momentum": 0.9}, 28, 8),
    "plain": ({"lr": 1e-9}, 20, 8),
    "adam": ({"lr": 1e-9}, 36, 8),
    "sampled": ({"lr": 1e-9, "momentum": 0.9}, 20, 8),
}


def bytes_moved(way: str) -> Callable[[], None]:
    """Of memory that has a number for each connection, with float32 state and weights, whatever K is."""
    settings, stepped, drawn = BYTES[way]

    def check() -> None:
        model = torch.nn.Linear(20, 10, bias=False)
        machine = slotify(model, 8, "PS" if way == "sampled" else "GS", engine=NAME)
        optimizer = SlotAdam(machine, **settings) if way == "adam" else machine.optimizer(**settings)
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
        moved = traffic(optimizer.step)
        assert moved == 200 * stepped, f"a step moves {moved / 200} bytes"
        with machine.using("PS", 3):
            moved = traffic(lambda: sample(list(machine.form.latents.values()), EVALUATION_DRAWS, 3))
        assert moved == 200 * drawn, f"a draw moves {moved / 200} bytes"

    return check


def traffic(launches: Callable[[], Any]) -> int:
    """Bytes that kernels load and store in tiles: what a program reads of the table is one number at a time."""
    builder: Any = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    moved = 0

    def count(data: Any, mask: Any) -> None:
        nonlocal moved
        if mask.size > 1:
            moved += int(np.broadcast_to(mask, data.shape).sum()) * data.itemsize

    def loaded(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        found = load(self, pointers, mask, *rest)
        count(found.data, mask.data)
        return found

    def stored(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        count(value.data, mask.data)
        return store(self, pointers, value, mask, *rest)

    builder.create_masked_load, builder.create_masked_store = loaded, stored
    try:
        launches()
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
    return moved


def refusals() -> None:
    reel = Reel("weight", (2, 2), 2)
    refusal = ENGINES[NAME].refusal
    assert refusal(CPU, torch.float32, reel, False) is None
    assert refusal(CPU, torch.int64, reel, False) == (
        "it works on float32, float64, bfloat16 and float16 and the weight is torch.int64"
    )
    own = Reel("weight", (2, 2), 2, init=Centred())
    assert "store the tables" in str(refusal(CPU, torch.float32, own, False))
    assert refusal(CPU, torch.float32, own, True) is None


def small_blocks(check: Callable[[], None]) -> Callable[[], None]:
    """Many programs a tensor, several groups each, the last of them not full."""

    def run() -> None:
        before = engine.BLOCK, engine.LANES
        engine.BLOCK, engine.LANES = 32, 8
        try:
            check()
        finally:
            engine.BLOCK, engine.LANES = before

    return run


PLAIN = Run("mlp", 8, lr=1.0, steps=7)
QUICK = replace(PLAIN, lr=3.0, steps=3)
CONV = Run("conv", 6, lr=3.0, steps=5)
DECAYED = replace(PLAIN, weight_decay=0.05, steps=8, lr=3.0)
ADAM = Run("mlp", 8, lr=0.2, betas=(0.9, 0.99), eps=1e-2, weight_decay=0.5, steps=5)
SWINGS = Run("mlp", 6, lr=50.0, period=0, weight_decay=2e-2, steps=8)  # c changes its sign
COARSE = replace(QUICK, init=Coarse())
SINGLE = replace(QUICK, dtype=torch.float32)

CHECKS: dict[str, Callable[[], None]] = {
    "known-answers": known_answers,
    "refusals": refusals,
    "skipped": skipped,
    "one-launch": one_launch,
    **{f"bytes-{way}": bytes_moved(way) for way in BYTES},
    **{f"k={k}": trains(replace(QUICK, k=k)) for k in (2, 3, 40)},
    "recomputed": steps(replace(QUICK, steps=2), NAME),
    "small-blocks": small_blocks(trains(replace(QUICK, steps=2))),
    "float32": trains(SINGLE),
    "bfloat16": half_precision(torch.bfloat16),
    "float16": half_precision(torch.float16),
    "decay": trains(DECAYED),
    "swings": trains(SWINGS),
    "nesterov": trains(replace(QUICK, nesterov=True)),
    "dampening": trains(replace(QUICK, dampening=0.5)),
    "without-momentum": trains(replace(QUICK, momentum=0.0)),
    "adam": trains(ADAM),
    "adam-maximizes": trains(replace(ADAM, maximize=True)),
    **{f"init-{init}": trains(replace(QUICK, init=init)) for init in (Coarse(), Centred(), Indifferent())},
    "init-scores": reels(replace(QUICK, init="glorot-deviation")),
    **{f"shared-{name}": reels(replace(CONV, sharing=name, symmetric=True)) for name in ("channel", "network")},
    "many-recomputed": reels(replace(QUICK, k=40)),
    "shared-layer": reels(replace(CONV, sharing="layer")),
    "pairs": reels(replace(QUICK, symmetric=True)),
    "draws": samples(8, tables="recomputed"),
    "draws-small-blocks": small_blocks(samples(8)),
    "draws-of-one": samples(1),
    "draws-of-many": samples(40, shape=(6, 5)),
    "draws-of-pairs": samples(6, symmetric=True, tables="recomputed"),
    "draws-by-tables": samples(6, tables="stored", init=Centred()),
    "draws-steep": samples(8, 60.0),
    "draws-turned": samples(8, 0.5, c=-30.0),
    "draws-without-scores": samples(8, 4.0, c=0.0),
    "draws-double": samples(8, dtype=torch.float64),
}  # fmt: skip


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


KERNELS = kernels


def verdict(check: Callable[[], None]) -> str:
    try:
        check()
    except AssertionError as fault:
        return f"{type(fault).__name__}: {fault}"
    except Exception:  # a broken kernel may also fail in the interpreter
        return traceback.format_exc()
    return ""


class Cases:
    """For pytest: of all that it collects the cases of this engine alone, and what became of each.

    Of a test with many cases the first, one in the middle and the last, unless `every` one is asked for.
    """

    def __init__(self, every: bool) -> None:
        self.every = every
        self.told: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        cases = [(item, item.callspec.params.get("engine")) for item in items if hasattr(item, "callspec")]
        ours: dict[str, list[pytest.Item]] = {}
        for item, name in cases:
            if name == NAME:
                ours.setdefault(item.nodeid.partition("[")[0], []).append(item)
        others = {item.nodeid.replace("eager", NAME) for item, name in cases if name == "eager"}
        absent = others - {item.nodeid for group in ours.values() for item in group}
        self.told |= dict.fromkeys(absent, "absent: eager has this case")
        items.clear()
        for group in ours.values():
            few = sorted({0, len(group) // 2, len(group) - 1})
            items += group if self.every else [group[i] for i in few]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            said = "" if report.passed else f"{report.outcome}: {report.longreprtext[-2000:]}"
            self.told[report.nodeid] = said


def suite() -> None:
    """The cases of the engine suite, with --every all of them, and what eager has that is not here."""
    prepare()
    engine.BLOCK, engine.LANES, engine.TILE = 512, 512, 1 << 20  # one program a tensor
    cases = Cases("--every" in sys.argv)
    tests = Path(__file__).parents[1]
    given = ["-p", "no:cacheprovider", "--durations=30", "-W", "ignore::RuntimeWarning"]
    given += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-c", str(tests.parent / "pyproject.toml")]
    given += [str(tests / "latent"), str(tests / "test_kinds.py")]
    with contextlib.redirect_stdout(sys.stderr):
        pytest.main(given + [each for each in sys.argv[1:] if each != "--every"], plugins=[cases])
    print(json.dumps(cases.told))


def prepare() -> None:
    """The interpreter, quick and with the roundings of devices."""
    torch.set_num_threads(1)
    patch_once()
    round_to_nearest()


def main() -> None:
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns of overflow where a device doesn't
    prepare()
    engine.BLOCK, engine.LANES, engine.TILE = 128, 64, 2048
    told: dict[str, str] = {}
    only = sys.argv[1:]
    for name, check in CHECKS.items():
        if not only or name in only:
            told[name] = timed(name, check)
    with tempfile.TemporaryDirectory() as folder:
        for name, (old, new, way) in MUTANTS.items():
            if not only or name in only:
                use(old, new, Path(folder))
                told[name] = timed(name, trains(way) if isinstance(way, Run) else way)
    print(json.dumps(told))


def timed(name: str, check: Callable[[], None]) -> str:
    started = time.process_time()
    said = verdict(check)
    print(f"{time.process_time() - started:6.2f} s {name} {said[-160:]!r}", file=sys.stderr, flush=True)
    return said


if __name__ == "__main__":
    main()
