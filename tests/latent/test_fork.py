"""A forked child of a process that has trained: GNU OpenMP would kill it in the compiled loops."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from forks import Forks

PROGRAM = """
import multiprocessing, sys
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from slotkit import slotify

def steps(count):
    x = torch.linspace(-1, 1, 4 * 300).reshape(4, 300)
    for _ in range(count):
        machine.model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in machine.model.parameters()]

class Steps(Dataset):
    def __len__(self):
        return 1
    def __getitem__(self, index):
        return steps(3)

for selection in ("greedy", "probabilistic"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 40), nn.ReLU(), nn.Linear(40, 10))
    machine = slotify(model, 4, selection, engine=sys.argv[1])
    optimizer = machine.optimizer(0.5, 0.9)
    steps(2)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pooled = pool.apply_async(steps, (3,)).get(100)
    loader = DataLoader(Steps(), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=100)
    (loaded,) = loader
    expected = steps(3)
    assert all(torch.equal(*pair) for pair in zip(pooled, expected, strict=True)), "pool"
    assert all(torch.equal(*pair) for pair in zip(loaded, expected, strict=True)), "loader"
    print(selection, "has the same bits")
"""


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system has no fork")
@pytest.mark.parametrize("name", ["numba", "eager"])  # CUDA can't be used in a forked child
def test_a_forked_child_trains_on_with_the_same_bits(name: str, tmp_path: Path, forks: Forks) -> None:
    """With one thread, as plain PyTorch needs it too."""
    told = forks.start(PROGRAM, name, cwd=tmp_path).checked()
    assert told == "greedy has the same bits\nprobabilistic has the same bits\n"
