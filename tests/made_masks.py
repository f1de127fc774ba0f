"""Searches and a population of masks, small: two searches, six masks of them trained for a few steps."""

from __future__ import annotations

from pathlib import Path

from commands import invoke


def made_searches(place: Path) -> None:
    """`both` and `random` in that folder, of a few draws on digits."""
    for accept in ("both", "random"):
        done = invoke(
            *("masks", "search", "--density", "0.1", "--batches", "1", "--first-batches", "2"),
            *("--draws", "8", "--save-every", "2", "--accept", accept, "--name", accept, "--device", "cpu"),
            *("--set", "training.batch_size=16", "--runs-dir", str(place)),
        )
        assert done.exit_code == 0


def made_population(place: Path) -> Path:
    """The folder of the masks of both searches, trained, with one kind of control."""
    made_searches(place)
    done = invoke(
        *("masks", "train", "both", "random", "--controls", "shuffled", "--epochs", "1", "--name", "trained"),
        *("--set", "training.limit_batches=2", "--device", "cpu", "--executor", "inline"),
        *("--runs-dir", str(place), "--json"),
    )
    assert done.exit_code == 0
    return place / "trained"
