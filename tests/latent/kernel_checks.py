"""What holds of the Triton engine: checks that need its kernels to run, so Triton's interpreter or a GPU.

A check is called, and raises AssertionError. `latent.interpreted` runs them, also on the broken kernels of
`latent.kernel_mutants`. The interpreter takes a tenth of a second for a small step, so networks and runs are
tiny.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from latent.drawing import drawn, layer, spread_latents
from latent.mutants import DifferenceError, steps
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
    """Options and scores that kernels make are those of `slotkit.reel`, and so are the first choice and its
    bounds."""

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


# docs/roofline.md: bytes a connection that the kernels move in a step without flips, and in a draw of the
# same weights. What looks whether gradients are finite is PyTorch's, and comes to these.
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
    """Bytes that kernels load and store in tiles: a program reads the table one number at a time."""
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
    "shared-channel": reels(replace(CONV, sharing="channel", symmetric=True)),
    "shared-network": reels(replace(CONV, sharing="network", symmetric=True)),
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
