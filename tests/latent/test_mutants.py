"""Every rule of the compiled loops matters: with one broken, the engine suite's checks fail."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from latent.mutants import DRAWS, HARMLESS, STEPS

TESTS = Path(__file__).parent.parent


@functools.cache
def verdicts() -> dict[str, str]:
    """What the program says, run once, uncompiled."""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(TESTS)}
    program = [sys.executable, "-m", "latent.mutants"]
    ran = subprocess.run(program, cwd=TESTS, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, str] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("name", [*STEPS, *DRAWS])
def test_a_broken_rule_is_noticed(name: str) -> None:
    assert verdicts()[name], f"the suite's checks pass with {name}"


def test_the_rules_as_they_are_pass() -> None:
    assert verdicts()["none"] == ""


@pytest.mark.parametrize("name", HARMLESS)
def test_what_costs_attempts_alone_changes_no_distribution(name: str) -> None:
    assert verdicts()[name] == ""
