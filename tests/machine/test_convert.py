"""From one form to the other: exact where the scores are on the line, refused with the reason elsewhere."""

from __future__ import annotations

import re

import pytest
import torch
from latent.trajectories import Run, conv, mlp, normal
from small_networks import equal, weights
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.latent.line import fit_line
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.selection import greedy, take

CPU = torch.device("cpu")


def trained(run: Run, form: str) -> SlotMachine:
    machine = run.machine(CPU, form)
    for _ in run.train(machine):
        pass
    return machine


@pytest.mark.parametrize("tables", ["stored", "recomputed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("k", [1, 2, 8], ids="k={}".format)
def test_there_and_back(k: int, dtype: torch.dtype, tables: str) -> None:
    run = Run("conv", k, steps=60, dtype=dtype)
    latent = trained(run, "latent")
    dense, back = run.machine(CPU, "dense"), run.machine(CPU, "latent", tables=tables)
    dense.copy_scores(latent)
    back.copy_scores(dense)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for name in latent.reels:
        scores = latent.scores(name)
        assert torch.equal(dense.scores(name), scores)
        assert torch.equal(dense.selected(name), greedy(scores))
        assert (back.scores(name) - scores).abs().max() <= tolerance * scores.abs().max()
        assert torch.equal(back.selected(name), latent.selected(name))


def test_training_goes_on_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without momentum nothing is lost: dense for 100 steps, then each form for 100."""
    run = Run("mlp", 8, momentum=0.0, steps=100)
    dense = trained(run, "dense")
    latent = run.machine(CPU, "latent")
    latent.copy_scores(dense)
    for _ in zip(run.train(dense), run.train(latent), strict=True):
        for name in dense.reels:
            assert torch.equal(dense.selected(name), latent.selected(name))


def test_sampled_machines() -> None:
    one, two = (slotify(mlp(), 4, "PS", seed=2, form=form) for form in ("dense", "latent"))
    with torch.no_grad():
        for name, parameter in zip(one.reels, one.parameters(), strict=True):
            parameter.copy_(0.5 * one.scores(name) + 3 * one.options(name))
    two.copy_scores(one)
    assert all((two.scores(name) - one.scores(name)).abs().max() < 1e-5 for name in one.reels)
    assert two.draws == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("selection", ["greedy", "PS"])
def test_a_machine_that_was_cast_since_takes_scores(selection: str, dtype: torch.dtype) -> None:
    """The engine of before may not know the new type."""
    latent = trained(Run("mlp", 4, steps=5, dtype=torch.float32), "latent")
    cast = slotify(mlp(), 4, selection, seed=latent.reels["0.weight"].seed)
    cast.model.to(dtype)
    cast.copy_scores(latent)
    cast.spin("greedy")
    for name in latent.reels:
        chosen = take(cast.reels[name].options(), latent.selected(name))
        assert torch.equal(cast.model.get_parameter(name), chosen.to(dtype))


def refused(message: str, latent: SlotMachine, other: SlotMachine) -> None:
    before = weights(latent)
    with pytest.raises(SlotkitError, match=message):
        latent.copy_scores(other)
    assert equal(weights(latent), before)


OFF_THE_LINE = (
    r"The scores of 0\.weight are not c \* S \+ A \* W of initial scores S and options W: they are up to \S+ "
    r"of the largest score away, and rounding explains 1e-0[39]\. SGD on all K scores keeps them there; "
    r"Adam, update='selected' and scores set by hand do not\. Keep the dense form for them\."
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_adam_leaves_the_line(dtype: torch.dtype) -> None:
    run = Run("mlp", 4, steps=5, dtype=dtype)
    dense, latent = run.machine(CPU, "dense"), run.machine(CPU, "latent")
    optimizer = torch.optim.Adam(dense.parameters(), 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        dense.model(normal(6, 12, seed=1, dtype=dtype)).square().sum().backward()
        optimizer.step()
    refused(OFF_THE_LINE, latent, dense)


def test_the_rule_of_selected_leaves_the_line() -> None:
    dense = slotify(mlp(), 4, form="dense", update="selected", seed=5)
    optimizer = dense.optimizer(1.0)
    for _ in range(5):
        optimizer.zero_grad()
        dense.model(normal(6, 12, seed=1, dtype=torch.float32)).square().sum().backward()
        optimizer.step()
    refused(OFF_THE_LINE, slotify(mlp(), 4, seed=5), dense)


def test_scores_that_are_no_numbers_are_refused() -> None:
    dense = slotify(mlp(), 4, form="dense")
    with torch.no_grad():
        next(dense.parameters())[0, 0, 0] = float("nan")
    refused("they are up to nan of the largest score away", slotify(mlp(), 4), dense)


@pytest.mark.parametrize("other", [{"seed": 6}, {"k": 5}, {"init": "glorot-deviation"}, {"symmetric": True}])
def test_other_reels_are_refused(other: dict[str, int | str | bool]) -> None:
    told = re.escape(
        "The other machine has other reels. Slotify the same model with the same k, seed, init, sharing and "
        "symmetric."
    )
    settings = {"k": 4, "seed": 5} | other
    refused(told, slotify(conv(), 4, seed=5), slotify(conv(), form="dense", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("c", [1.0, -0.25, 1e-8])
def test_fit_line_finds_the_line(c: float) -> None:
    options, initial, latent = normal(50, 6, seed=1), normal(50, 6, seed=2).abs(), normal(50, seed=3)
    scores: Tensor = c * initial + latent.unsqueeze(-1) * options
    found, positions, error = fit_line(options, initial, scores)
    assert found == pytest.approx(c, abs=1e-14)
    assert torch.allclose(positions, latent, rtol=0, atol=1e-12)
    assert error < 1e-14
    _, _, error = fit_line(options, initial, scores + 1e-3 * normal(50, 6, seed=4))
    assert 1e-4 < error < 1e-2
