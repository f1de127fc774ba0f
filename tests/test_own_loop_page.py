"""docs/own-loop.md: killed, resumed, analysed, exported, finetuned, reloaded in a fresh process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_shows_code_of_the_program() -> None:
    """Every line of its Python blocks stands in own_loop.py, or is one of the few that only explain."""
    program = (DOCS / "own_loop.py").read_text(encoding="utf-8")
    known = {re.sub(r"\s*#.*", "", line).strip() for line in program.splitlines()}
    explained = {
        'with slotkit.record(machine, optimizer, "runs/mine", trace="full", resume=True) as run:',
        'with slotkit.record(machine, optimizer, "runs/mine", trace="full", every=10, resume=True) as run:',
        "while run.step < 200:",
        "...",
        "from slotkit.analyses import flips",
        'slotkit.save("mine.slot.safetensors", machine)',
        'slotkit.load("mine.slot.safetensors", into=ResNet18())',
    }
    page = (DOCS / "own-loop.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        lines = {re.sub(r"\s*#.*", "", line).strip() for line in block.splitlines()}
        assert lines <= known | explained | {""}


def test_killed_resumed_finished_and_reloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the selections of a loop that was never stopped."""
    monkeypatch.syspath_prepend(str(DOCS))
    import own_loop  # type: ignore[import-not-found]

    folder = tmp_path / "mine"
    program = [sys.executable, str(DOCS / "own_loop.py"), str(folder)]
    quiet = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=quiet) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("step 64:"):
                running.send_signal(signal.SIGKILL)
    assert not (folder / "mine.slot.safetensors").exists()
    whole, _ = own_loop.train(tmp_path / "whole")
    machine, model = own_loop.train(folder)
    assert all(torch.equal(whole.selected(name), machine.selected(name)) for name in machine.reels)
    own_loop.analyse(machine, folder)
    assert (folder / "analyses" / "flips.png").stat().st_size > 10_000
    selected = {name: value.clone() for name, value in model.state_dict().items()}
    own_loop.finish(machine, model, folder)
    assert not torch.equal(model.head.weight, selected["head.weight"])
    torch.save(selected, tmp_path / "selected.pt")
    again = (
        "import sys, torch, own_loop; model = own_loop.reload(sys.argv[1]); told = torch.load(sys.argv[2]); "
        "print(all(torch.equal(value, told[name]) for name, value in model.state_dict().items()))"
    )
    fresh = [
        sys.executable,
        "-c",
        again,
        str(folder / "mine.slot.safetensors"),
        str(tmp_path / "selected.pt"),
    ]
    done = subprocess.run(fresh, cwd=DOCS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert (folder / "mine.slot.safetensors").stat().st_size < (
        folder / "analyses" / "flips.png"
    ).stat().st_size
