"""Freed memory that a process keeps: who does it, and that it saves the pages."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from slotkit.memory_policy import POLICIES, is_decided, keep_freed_memory

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc, which has the setting")

# How many pages does the system give out for pieces as large as activations, allocated and freed again? The
# median of many rounds: now and then a small piece takes the freed place of a large one, which needs others.
PROGRAM = """
import os, resource, statistics, sys, torch
from slotkit.cli import main
from slotkit.memory_policy import keep_freed_memory
from slotkit.sweeps import worker

def touch():
    for _ in range(3):
        torch.ones(1 << 23)  # 32 MB

def given():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def pages():
    touch()
    counts = [given()]
    for _ in range(21):
        touch()
        counts.append(given())
    rounds = [after - before for before, after in zip(counts, counts[1:])]
    print(statistics.median(rounds), file=sys.stderr)

match sys.argv[1]:
    case "nobody":
        pages()
    case "caller":
        assert keep_freed_memory(os.environ)
        pages()
    case "command":
        main.app = pages
        main.main()
    case "worker":
        worker.main(1, None)
        pages()
"""


def pages(place: Path, who: str, **environment: str) -> int:
    """New pages a round of a process in which `who` has seen to it that memory is kept."""
    (place / "program.py").write_text(PROGRAM)
    own = {name: value for name, value in os.environ.items() if name not in POLICIES}
    done = subprocess.run(
        [sys.executable, "program.py", who],
        cwd=place,
        env=own | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stderr)


@needs_glibc
def test_kept_memory_needs_no_new_pages(tmp_path: Path) -> None:
    anew = pages(tmp_path, "nobody")
    for who in ("caller", "command", "worker"):
        assert pages(tmp_path, who) < anew / 20, who


@needs_glibc
def test_a_decision_of_the_user_is_left_alone(tmp_path: Path) -> None:
    anew = pages(tmp_path, "nobody")
    for who in ("command", "worker"):
        assert pages(tmp_path, who, MALLOC_TRIM_THRESHOLD_="131072") > anew / 2, who


@pytest.mark.parametrize("name", POLICIES)
def test_every_way_to_decide_is_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("memory is kept though somebody has decided"))
    assert is_decided({name: "1"})
    assert not keep_freed_memory({name: "1"})


@pytest.mark.parametrize("lacks", ["gnu_get_libc_version", "mallopt"])
def test_another_c_library_is_told(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = {"gnu_get_libc_version": None, "mallopt": lambda parameter, value: 1}
    del functions[lacks]
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(**functions))
    assert not keep_freed_memory({})


def test_a_system_without_one_library_for_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: None) -> None:
        raise TypeError("a name is needed")  # as on Windows

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert not keep_freed_memory({})


@pytest.mark.parametrize("answers", [(0, 1), (1, 0), (1, 1)])
def test_a_refusal_of_the_library_is_told(answers: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter(answers)
    functions = {"gnu_get_libc_version": None, "mallopt": lambda parameter, value: next(left)}
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(**functions))
    assert keep_freed_memory({}) == all(answers)
