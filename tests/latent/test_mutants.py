"""Every rule of the compiled loops matters: with one broken, the engine suite's checks fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from latent.mutants import DRAWS, HARMLESS, STEPS

TESTS = Path(__file__).parent.parent

Judge = Callable[..., str]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """What the checks say of a mutant, from one uncompiled process: its start takes longer than a mutant."""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(
        [sys.executable, "-m", "latent.mutants"],
        cwd=TESTS,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        questions, answers = process.stdin, process.stdout

        def ask(name: str, every: bool = False) -> str:
            print(json.dumps([name, every]), file=questions, flush=True)
            answer = answers.readline()
            assert answer, "the process of the mutants has ended: its stderr says why"
            told: str = json.loads(answer)
            return told

        yield ask


@pytest.mark.parametrize("name", [*STEPS, *DRAWS])
def test_a_broken_rule_is_noticed(name: str, judge: Judge) -> None:
    assert judge(name), f"the suite's checks pass with {name}"


HALF_AND_ALL = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])


@HALF_AND_ALL
def test_the_rules_as_they_are_pass(every: bool, judge: Judge) -> None:
    assert judge("none", every) == ""


@HALF_AND_ALL
@pytest.mark.parametrize("name", HARMLESS)
def test_what_costs_attempts_alone_changes_no_distribution(name: str, every: bool, judge: Judge) -> None:
    assert judge(name, every) == ""
