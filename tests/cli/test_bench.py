"""slotkit bench: every contender once; what it says of memory, ratios and training is so."""

from __future__ import annotations

import json

import pytest
import torch
from commands import invoke, refuse

from slotkit.benchmark import RATES, Images, Network, contenders, images_of, measure
from slotkit.errors import SlotkitError

ORDINARY = ["ordinary SGD, foreach", "ordinary SGD, fused", "ordinary AdamW, fused"]
BOTH = ("greedy", "probabilistic")


def test_a_table_of_every_form_engine_selection_and_optimizer() -> None:
    done = invoke("bench", "--k", "2,5", "--steps", "3", "--batch", "4", "--json")
    told = json.loads(done.stdout)
    assert (told["images"], told["after"]) == ("random", 0)
    rows = {(row["contender"], row["k"], row["selection"]): row for row in told["rows"]}
    kinds = ["dense form", "latent, numba", "latent, eager", "SlotAdam, numba", "SlotAdam, eager"]
    assert list(rows) == [(name, 0, "") for name in ORDINARY] + [
        (kind, k, selection)
        for k in (2, 5)
        for selection in BOTH
        for kind in (kinds[0], kinds[1], kinds[3], kinds[2], kinds[4])
    ]
    fastest = min(rows[name, 0, ""]["step"] for name in ORDINARY[:2])
    for row in told["rows"]:
        assert row["ratio"] == pytest.approx(row["step"] / fastest)
        assert 0 < row["optimizer"] < row["step"]
        assert (row["draw"] is not None) == (row["selection"] == "probabilistic")
        assert row["loss"] > 0
    # Beside weight and gradient: momentum, or the two moments of Adam; A, B and the interval (and moments); K
    # options, K scores and their momentum.
    for (name, k, selection), expected in {
        ("ordinary SGD, fused", 0, ""): 4,
        ("ordinary AdamW, fused", 0, ""): 8,
        ("latent, eager", 5, "greedy"): 16,
        ("latent, numba", 2, "greedy"): 16,
        ("SlotAdam, numba", 2, "greedy"): 24,
        ("latent, eager", 2, "probabilistic"): 16 + 8 * 2,  # and the tables, to draw from
        ("latent, numba", 2, "probabilistic"): 16 + 13,  # and the proposals of draws
    }.items():
        assert rows[name, k, selection]["state_bytes"] == expected
    assert rows["dense form", 5, "probabilistic"]["state_bytes"] == pytest.approx(60, rel=1e-3)


def test_one_selection_alone() -> None:
    done = invoke(
        "bench", *("--k", "2", "--selection", "PS", "--engines", "numba"), "--steps", "3", "--batch", "4"
    )
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        *ORDINARY,
        "dense form",
        "latent, numba",
        "SlotAdam, numba",
    ]
    assert all(" probabilistic " in line for line in lines[4:])
    assert "images random, batch 4, after 0, steps 3, threads" in done.stderr


def test_engines_are_chosen() -> None:
    found = [(contender.name, contender.k) for contender in contenders([8, 1024], ["greedy"], 64, ["numba"])]
    kinds = ("latent, numba", "SlotAdam, numba")
    assert found == [
        *((name, 0) for name in ORDINARY),
        ("dense form", 8),
        *((n, k) for k in (8, 1024) for n in kinds),
    ]
    with pytest.raises(SlotkitError) as caught:
        measure("lenet", [2], engines=["tritn"])
    assert str(caught.value) == "There is no engine 'tritn'. Choose some of numba, triton, eager."
    with pytest.raises(SlotkitError, match="There is no selection 'best'"):
        measure("lenet", [2], ["best"])


def test_steps_before_train_on_the_dataset() -> None:
    """After a hundred steps on digits every network learnt, at the rate of its selection and optimizer."""
    options = (
        "--k",
        "4",
        "--engines",
        "numba",
        "--steps",
        "3",
        "--batch",
        "64",
        "--dataset",
        "digits",
        "--json",
    )
    fresh, trained = (
        [row["loss"] for row in json.loads(invoke("bench", *options, "--after", after).stdout)["rows"]]
        for after in ("0", "100")
    )
    assert len(fresh) == len(trained) == 9
    assert all(after < 0.95 * before for before, after in zip(fresh, trained, strict=True)), (fresh, trained)


def test_so_many_steps_are_trained_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every contender takes the same batches in turns: `after` of them, then those that are timed."""
    taken: dict[int, list[int]] = {}
    step = Network.step

    def noted(self: Network, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
        taken.setdefault(id(self), []).append(int(images[0, 0, 0, 0]))
        return step(self, images, labels)

    monkeypatch.setattr(Network, "step", noted)
    numbered = Images(
        "numbered",
        (1, 2, 2),
        3,
        lambda: ((torch.full((2, 1, 2, 2), float(i)), torch.tensor([0, 2])) for i in range(1000)),
    )
    for after, first in ((0, 5), (3, 5), (11, 11)):
        taken.clear()
        measure("lenet", [2], ["GS"], steps=4, engines=["numba"], after=after, images=numbered)
        assert list(taken.values()) == [list(range(first + 4))] * 6


def test_a_step_under_ps_includes_its_draw() -> None:
    (contender,) = (c for c in contenders([4], ["PS"], 0, ["numba"]) if c.name == "latent, numba")
    network = Network(contender, "lenet", (1, 4, 4), 10)
    assert network.machine is not None
    first = network.machine.draws
    for number in range(3):
        network.step(torch.rand(4, 1, 4, 4), torch.randint(10, (4,)))
        assert network.machine.draws == first + number + 1


def test_every_contender_has_a_rate() -> None:
    assert {(c.selection, c.optimizer) for c in contenders([2], BOTH, 64, ["numba"])} == set(RATES)


def test_images_of_a_dataset() -> None:
    digits = images_of("digits", None, 100)
    assert (digits.image, digits.classes) == ((1, 8, 8), 10)
    stream = digits.batches()
    assert sum(len(next(stream)[1]) for _ in range(15)) == 1437  # an epoch, whose last batch is smaller
    assert next(stream)[0].shape == (100, 1, 8, 8)


def test_a_folder_without_a_dataset_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refuse(monkeypatch, capsys, "bench", "--data-dir", "x") == (
        "Error: --data-dir says where a dataset lies. Say which one, too, such as --dataset mnist.\n"
    )
