"""What the command imports, which decides how soon it starts, and what it says while it compiles."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import pytest
import torch
from forks import Forks
from torch import nn

from slotkit.latent.engines import cpu_compiling
from slotkit.making import slotify
from slotkit.uncompiled import AdamW, Optimizer

# Top-level packages and modules that take a tenth of a second and more, and that training doesn't need.
HEAVY = {
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "torch.onnx",
    "sympy",
    "torchvision",
    "timm",
    "sklearn",
    "scipy.sparse",
    "pandas",
    "matplotlib",
    "seaborn",
    "PIL",
    "rich",
}

PROGRAM = """
import json, sys
from slotkit.cli.main import main
sys.argv = ["slotkit", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    assert not stop.code
finally:
    print("imported:", json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def started(place: Path, *arguments: str, program: str = PROGRAM, **variables: str) -> tuple[str, set[str]]:
    """stderr of a command of its own, and the modules that it had imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env=os.environ | variables,
    )
    assert done.returncode == 0, done.stderr
    told, _, imported = done.stderr.partition("imported: ")
    return told, set(json.loads(imported))


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    _, imported = started(tmp_path, "--help")
    assert (HEAVY | {"torch", "numba", "numpy", "logging", "pydantic"}) & imported == set()


def test_an_optimizer_without_torchs_compiler_is_torchs_own(tmp_path: Path, forks: Forks) -> None:
    """In a process of its own, where the compiler isn't imported: the same bits, and still no compiler."""
    program = """
import sys, torch
from slotkit.uncompiled import SGD, AdamW
for ours, theirs in ((SGD, torch.optim.SGD), (AdamW, torch.optim.AdamW)):
    assert "torch._dynamo" not in sys.modules
    mine = torch.ones(3, requires_grad=True)
    optimizer = ours([mine], lr=0.1)
    optimizer.add_param_group({"params": [torch.zeros(2, requires_grad=True)], "lr": 0.5})
    mine.square().sum().backward()
    optimizer.zero_grad()
    assert mine.grad is None
    optimizer.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    assert isinstance(optimizer, theirs)
    assert "torch._dynamo" not in sys.modules
    try:
        optimizer.add_param_group({"params": [mine]})
    except ValueError as fault:
        assert "more than one parameter group" in str(fault)
    else:
        raise AssertionError("torch's own checks are made")
import torch._dynamo
calls = []
torch.optim.Optimizer.zero_grad.__wrapped__.__dict__["__dynamo_disable"] = lambda *given: calls.append(given)
optimizer.zero_grad()
assert len(calls) == 1, "with the compiler there, torch's decorated method is called"
"""
    forks.start(program, cwd=tmp_path).checked()


def test_methods_that_torch_decorates_no_longer_are_called_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another version of torch may have nothing to unwrap."""
    from slotkit.uncompiled import _plain

    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", lambda self, *given: ("plain", *given))
    method = _plain("zero_grad")
    assert method(AdamW([torch.zeros(1)]), False) == ("plain", False)


def test_slot_optimizers_need_no_compiler_and_can_be_compiled() -> None:
    """A compiled function may still zero gradients, as with torch's own optimizers."""
    machine = slotify(nn.Linear(3, 2, bias=False), 4)
    optimizer = machine.optimizer(lr=0.1)
    assert isinstance(optimizer, Optimizer)
    machine.model(torch.ones(1, 3)).sum().backward()

    @torch.compile(backend="eager")
    def cleared(values: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        return values + 1

    assert cleared(torch.ones(2)).tolist() == [2, 2]
    assert machine.model.weight.grad is None


# ---------------------------------------------------------------------------------------------------
# The first start compiles.

WORDS = "compiling the CPU engine, once: this takes half a minute, and the next start finds it in "


def test_a_first_start_says_that_it_compiles_and_no_start_imports_what_is_heavy(tmp_path: Path) -> None:
    """Once, though several loops are compiled, and before the first epoch; the second start says nothing."""
    cache = tmp_path / "cache"
    variables = {"NUMBA_CACHE_DIR": str(cache)}
    told, imported = zip(
        *(started(tmp_path, "train", "--epochs", "1", **variables) for _ in range(2)), strict=True
    )
    for modules in imported:
        assert {"torch", "numba"} <= modules
        assert HEAVY & modules == set()
    first, second = told
    assert first.count("compiling") == 1
    lines = first.splitlines()
    (line,) = (line for line in lines if line.startswith(f"{WORDS}{cache}"))
    assert lines.index(line) < next(i for i, text in enumerate(lines) if text.startswith("epoch 1/1"))
    assert "compiling" not in second


class Dispatcher(SimpleNamespace):
    """As much of numba's as the announcement looks at."""


def event_of(module: str) -> Any:
    function = SimpleNamespace(__module__=module)
    stats = SimpleNamespace(cache_path="/cache")
    return SimpleNamespace(data={"dispatcher": Dispatcher(py_func=function, stats=stats)})


def test_a_library_user_gets_it_from_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """At INFO, of the engine's own loops only, and once."""
    announcement = cpu_compiling._Announcement()
    with caplog.at_level(logging.INFO, logger="slotkit"):
        announcement.on_start(event_of("somebody.elses"))
        assert caplog.records == []
        for _ in range(2):
            announcement.on_start(event_of("slotkit.latent.engines.cpu_choose"))
        announcement.on_end(event_of("slotkit.latent.engines.cpu_choose"))
    assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == [
        ("slotkit", logging.INFO, f"{WORDS}/cache")
    ]


def test_numba_tells_when_it_compiles(caplog: pytest.LogCaptureFixture) -> None:
    def loop(x: int) -> int:
        return x + 1

    loop.__module__ = "slotkit.latent.engines.cpu_of_a_test"
    compiled = numba.njit(loop)
    announcement = cpu_compiling._Announcement()
    numba.core.event.register("numba:compile", announcement)
    try:
        with caplog.at_level(logging.INFO, logger="slotkit"):
            assert compiled(1) == 2
            assert compiled(2) == 3
    finally:
        numba.core.event.unregister("numba:compile", announcement)
    assert len([record for record in caplog.records if record.name == "slotkit"]) >= 1
