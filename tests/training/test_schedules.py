"""Learning rates against closed forms written here."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slotkit.config import Overrides, resolve
from slotkit.errors import SlotkitError
from slotkit.settings import TrainingSettings
from slotkit.training.checks import check_settings
from slotkit.training.schedules import check_rates, schedule


def rates(settings: TrainingSettings, steps_per_epoch: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr)
    scheduler = schedule(optimizer, settings, steps_per_epoch)
    seen = []
    for _ in range(settings.epochs * steps_per_epoch):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def cosine(lr: float, min_lr: float, part: float) -> float:
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * part)) / 2


def test_constant() -> None:
    assert rates(TrainingSettings(epochs=3, lr=0.3), 4) == [0.3] * 12


def test_multistep_multiplies_at_epochs() -> None:
    settings = TrainingSettings(epochs=4, lr=1.0, schedule="multistep", milestones=(1, 3), gamma=0.5)
    assert rates(settings, 2) == pytest.approx([1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25])


@given(epochs=st.integers(1, 6), per_epoch=st.integers(1, 5), min_lr=st.floats(0, 0.1))
def test_cosine_falls_over_the_whole_training(epochs: int, per_epoch: int, min_lr: float) -> None:
    settings = TrainingSettings(epochs=epochs, lr=0.7, schedule="cosine", min_lr=min_lr)
    total = epochs * per_epoch
    assert rates(settings, per_epoch) == pytest.approx([cosine(0.7, min_lr, t / total) for t in range(total)])


@given(
    edges=st.sets(st.integers(1, 12), min_size=1, max_size=4),
    epochs=st.integers(1, 10),
    per_epoch=st.integers(1, 4),
)
def test_restarts_begin_a_new_cosine_at_each_chosen_epoch(
    edges: set[int], epochs: int, per_epoch: int
) -> None:
    settings = TrainingSettings(
        epochs=epochs, lr=0.2, schedule="restarts", restart_epochs=tuple(sorted(edges)), min_lr=0.01
    )
    expected = []
    for step in range(epochs * per_epoch):
        epoch = step / per_epoch
        start = max([0, *(edge for edge in edges if edge <= epoch)])
        end = min([epochs, *(edge for edge in edges if epoch < edge < epochs)])
        expected.append(cosine(0.2, 0.01, (epoch - start) / (end - start)))
    assert rates(settings, per_epoch) == pytest.approx(expected)


def test_restarts_without_epochs_are_refused() -> None:
    with pytest.raises(SlotkitError, match=r"training.restart_epochs is empty. Give e.g. \[25, 75\]."):
        rates(TrainingSettings(schedule="restarts"), 3)


def test_multistep_without_milestones_is_refused() -> None:
    """It would be a constant learning rate under another name."""
    with pytest.raises(SlotkitError) as refused:
        rates(TrainingSettings(schedule="multistep"), 3)
    assert str(refused.value) == (
        "training.schedule is multistep, but training.milestones is empty. Give e.g. [60, 80], or choose "
        "constant."
    )


@pytest.mark.parametrize("kind", ["cosine", "restarts"])
def test_a_cosine_that_would_rise_is_refused(kind: str) -> None:
    values = {"training.schedule": kind, "training.lr": 0.1, "training.restart_epochs": [1]}
    with pytest.raises(SlotkitError) as fault:
        check_settings(resolve([Overrides("test", values | {"training.min_lr": 0.2})]).config)
    assert str(fault.value) == (
        "training.min_lr is 0.2, above training.lr, 0.1: with training.schedule "
        f"{kind} the learning rate falls from lr to min_lr. Give a min_lr of at most lr."
    )
    check_rates(TrainingSettings(lr=0.1, min_lr=0.1, schedule=kind))  # type: ignore[arg-type]
    check_rates(TrainingSettings(lr=0.1, min_lr=0.2))  # which has no cosine
