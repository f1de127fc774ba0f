"""Compiled loops on the disk: after an update of slotkit none of them is a mixture of old and new."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from numba.core.dispatcher import Dispatcher

from slotkit import philox_cpu
from slotkit.latent.engines import cpu, cpu_choose, cpu_compiling, cpu_proposals, cpu_sample

MODULES = [cpu, cpu_choose, cpu_proposals, cpu_sample, philox_cpu]


def loops(module: ModuleType) -> list[Any]:
    return [one for one in vars(module).values() if isinstance(one, Dispatcher)]


def is_inlined(loop: Any) -> bool:
    return loop.targetoptions.get("inline") == "always"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_what_is_compiled_stands_in_a_file_of_the_digest(module: ModuleType) -> None:
    assert loops(module)
    for loop in loops(module):
        assert Path(loop.py_func.__code__.co_filename) in cpu_compiling.SOURCES, loop


@pytest.mark.parametrize("module", [cpu_choose, cpu_proposals, cpu_sample], ids=lambda one: one.__name__)
def test_constants_come_from_files_of_the_digest(module: ModuleType) -> None:
    """A loop holds the constants of its module, and those that the module has imported."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {str(node.module) for node in froms}
    names |= {f"{node.module}.{name.name}" for node in froms for name in node.names}
    imported = [sys.modules[name] for name in names if name in sys.modules and name.startswith("slotkit.")]
    files = {Path(str(one.__file__)) for one in imported if Path(str(one.__file__)).name != "__init__.py"}
    assert files
    assert files <= set(cpu_compiling.SOURCES)


@pytest.mark.parametrize("module", [cpu, cpu_choose, cpu_proposals, cpu_sample], ids=lambda one: one.__name__)
def test_loops_are_kept_under_the_digest(module: ModuleType) -> None:
    kept = [loop for loop in loops(module) if not is_inlined(loop)]
    assert kept
    for loop in kept:
        if loop.py_func.__module__ != philox_cpu.__name__:  # it takes no function from another file
            assert loop.py_func.__qualname__.endswith(cpu_compiling.DIGEST), loop


def test_the_digest_changes_with_every_file(tmp_path: Path) -> None:
    copies = []
    for path in cpu_compiling.SOURCES:
        copies.append(tmp_path / path.name)
        copies[-1].write_bytes(path.read_bytes())
    assert cpu_compiling.digest(copies) == cpu_compiling.DIGEST
    for copy in copies:
        text = copy.read_bytes()
        copy.write_bytes(text + b"#")
        assert cpu_compiling.digest(copies) != cpu_compiling.DIGEST, copy
        copy.write_bytes(text)


def test_a_loop_on_one_thread_is_kept_beside_the_other() -> None:
    names = {loop.py_func.__qualname__ for loop in loops(cpu)}
    assert {f"{name}-{cpu_compiling.DIGEST}" for name in ("step_tensor", "serial_step_tensor")} <= names
