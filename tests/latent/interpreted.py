"""The Triton engine without a GPU: programs that run its kernels in Triton's interpreter.

TRITON_INTERPRET=1 is read when Triton is imported, so each is a process of its own. Prints one line of JSON.
`main`: check or mutant -> what was said of it, "" if nothing. `suite`: the same of every case of the engine
suite.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from latent.kernel_checks import CHECKS, NAME, trains
from latent.kernel_mutants import MUTANTS, use
from latent.trajectories import Run
from triton.runtime import interpreter

from slotkit.latent.engines import triton as engine


def patch_once() -> None:
    """Triton's interpreter replaces its language at every call of a kernel by a kernel, and makes a table of
    all types for every number: most of its time. Once for each function is enough.
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


def leave_out() -> None:
    """What the interpreter works out and nobody reads.

    A sum or product of integers is made again with 64 bits, for an assertion that is left out unless kernels
    are debugged. Types of blocks are made anew for each value, and so is the shape that a value tells.
    """
    options: Any = interpreter.interpreter_builder.options  # type: ignore[attr-defined]
    assert not options.debug, "the assertion would be made"
    interpreter.interpreter_builder.options = dataclasses.replace(  # type: ignore[attr-defined]
        options, sanitize_overflow=False
    )
    begin_type: Any = tl.block_type.__init__
    kept: dict[Any, dict[str, Any]] = {}

    def block_type(self: Any, element: Any, shape: Any) -> None:
        key = id(element), tuple(int(size) for size in shape)
        if key not in kept:
            begin_type(self, element, shape)
            kept[key] = dict(vars(self))  # holds the element too, so that no other gets its id
        vars(self).update(kept[key])

    shapes: dict[Any, tuple[Any, Any]] = {}

    def tensor(self: Any, handle: Any, kind: Any) -> None:
        sizes = tuple(kind.shape) if kind.is_block() else ()
        if sizes not in shapes:
            shapes[sizes] = tl.constexpr(math.prod(sizes)), tl.tuple([tl.constexpr(size) for size in sizes])
        self.numel, self.shape = shapes[sizes]
        self.handle, self.type, self.dtype = handle, kind, kind.scalar

    tl.block_type.__init__ = block_type  # type: ignore[method-assign]
    tl.tensor.__init__ = tensor  # type: ignore[method-assign]


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
    leave_out()
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
