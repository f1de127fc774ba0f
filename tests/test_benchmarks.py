"""The scripts that the documentation's figures come from run, and the one that claims something holds."""

from __future__ import annotations

import io
import json
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from forks import Forks

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


def test_what_freed_memory_costs_is_told() -> None:
    told = run("freed_memory.py", "--model", "lenet", "--rounds", "1", "--steps", "2").splitlines()
    assert told[0] == "lenet, fp32, 2 steps, n = 1 rounds"
    assert [line[:14].strip() for line in told[1:]] == ["freed memory", "given back", "kept"]


def test_what_a_gpu_has_to_prove_runs_without_one(
    tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Triton's interpreter, with tiny sizes: on the day only the device is new."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    arguments = ("--out", "results", "--tiny")
    # The interpreter is switched on before Triton is imported.
    program = "import runpy; from latent.interpreted import prepare; prepare()"
    program += f"; runpy.run_path({str(BENCHMARKS / 'gpu.py')!r}, run_name='__main__')"
    forks.start(program, *arguments, cwd=tmp_path).checked()
    rows = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert list(rows) == ["conditions", "device tests", "exactness", "bandwidth", "ratios", "training"]
    assert not [row for part in rows.values() for row in part.values() if "error" in row]
    trained = rows["exactness"]["tiny, K = 8"]
    assert trained["flips"] > 5
    assert (trained["from dense"], trained["from the CPU"]) == (0, 0)
    assert rows["exactness"]["tiny, draws"] == {"draws": 2, "from the CPU": 0}
    assert rows["device tests"]["philox"]["exit code"] == 0
    assert all(row["ratio"] > 0 for row in rows["ratios"].values())
    tables = (tmp_path / "results" / "gpu.md").read_text()
    assert re.findall("^## (.*)$", tables, flags=re.MULTILINE) == list(rows)
    assert rows["training"]["digits"]["exit code"] == 0
    assert run("gpu.py", *arguments).startswith("\n## conditions"), "every row was there already"
