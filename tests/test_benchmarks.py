"""The scripts that the documentation's figures come from run, and the one that claims something holds."""

from __future__ import annotations

import io
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from slotkit.wait_policy import COUNT

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(script: str, *arguments: str) -> str:
    """What it prints, run in this process."""
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told):
        patch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    return told.getvalue()


def test_full_lenet_selects_what_the_dense_form_selects() -> None:
    told = run("exactness.py", "--k", "2,8", "--steps", "60")
    found = re.findall(
        r"K = (\d): 60 steps, (\d+) flips, weights that differ: numba (\d+), eager (\d+)", told
    )
    assert [(k, numba, eager) for k, _, numba, eager in found] == [("2", "0", "0"), ("8", "0", "0")]
    assert all(int(flips) > 500 for _, flips, _, _ in found)


@pytest.mark.parametrize("asked", [[], ["--traces"], ["--optimizer", "adam"]], ids=" ".join)
def test_step_times_are_told(asked: list[str]) -> None:
    told = run("steps.py", "--k", "4", "--steps", "6", *asked)
    names = [line[:24].strip() for line in told.splitlines()[2:] if ", K =" not in line]
    extra = ["latent, trace summary", "latent, trace full"] if "--traces" in asked else []
    assert names == ["learned weights", "latent", *extra]


def test_waiting_on_a_shared_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in an environment of its own; what a process does there is done in this one."""
    environments = []

    def run_here(command: list[str], env: dict[str, str], **given: Any) -> Any:
        environments.append({name: env[name] for name in ("OMP_NUM_THREADS", COUNT) if name in env})
        assert command[:2] == [sys.executable, str(BENCHMARKS / "shared_machine.py")]
        return subprocess.CompletedProcess(command, 0, run("shared_machine.py", *command[2:]))

    monkeypatch.setattr(subprocess, "run", run_here)
    arguments = ("--busy", "1", "--rounds", "1", "--seconds", "0.1", "--ways", "one thread,1000")
    told = run("shared_machine.py", *arguments).splitlines()
    assert environments == [{"OMP_NUM_THREADS": "1"}, {COUNT: "1000"}]
    assert "1 busy processes, n = 1 rounds" in told[0]
    assert [line[:14].strip() for line in told[1:]] == ["ms a step", "one thread", "1000"]
