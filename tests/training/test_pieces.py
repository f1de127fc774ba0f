"""A step that takes its batch in pieces, in one process: gradient, loss, dropout and batch norm."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from slotkit.config import Config, Overrides, resolve
from slotkit.data.images import ImageSet
from slotkit.errors import SlotkitError
from slotkit.models.registry import own_network
from slotkit.training import gradients
from slotkit.training.checks import check_settings
from slotkit.training.evaluation import read
from slotkit.training.experiment import resume, run
from slotkit.training.gradients import Gradients, PairwiseSum, pieces_for, pieces_of, with_pieces
from slotkit.training.loop import fit
from slotkit.training.processes import Processes
from slotkit.training.state import TrainingState
from slotkit.training.trainee import Trainee, build

pytestmark = pytest.mark.usefixtures("one_thread")

# Five batches an epoch, the last of 3 images.
N, BATCH, STEPS = 35, 8, 60


def images(n: int = N) -> ImageSet:
    random = torch.Generator().manual_seed(n)
    pixels = torch.randint(0, 256, (n, 1, 4, 4), generator=random, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(n) % 3)


def configure(**values: Any) -> Config:
    given = {
        "model.name": "own",
        "training.device": "cpu",
        "training.batch_size": BATCH,
        "training.epochs": STEPS // 5,
        "training.lr": 0.5,
        "training.precision": "fp64",
        "slots.k": 4,
        "slots.engine": "eager",
    }
    given |= {path.replace("__", "."): value for path, value in values.items()}
    return resolve([Overrides("test", given)]).config


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def noisy_network() -> nn.Module:
    """With a dropout mask and statistics of the batch."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.ReLU(), nn.Linear(12, 3)
    )


def build_own(config: Config, make: Any = network) -> Trainee:
    with torch.random.fork_rng(), own_network(make):
        return build(config, (1, 4, 4), 3)


def course(**values: Any) -> tuple[list[Tensor], list[float]]:
    """What is selected after each epoch of a training, and the losses."""
    config = configure(**values)
    trainee = build_own(config)
    selected, losses = [], []
    for event in fit(trainee, images(), images(20), config):
        if hasattr(event, "validation"):
            assert trainee.machine is not None
            machine = trainee.machine
            selected.append(torch.cat([machine.selected(name).reshape(-1) for name in machine.reels]))
            losses.append(event.loss)
    return selected, losses


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("pieces", [2, 3])
def test_pieces_select_what_the_whole_batch_selects(selection: str, pieces: int) -> None:
    """In float64: the order of a sum changes the last of 16 digits, and no threshold lies there."""
    whole = course(slots__selection=selection)
    parts = course(slots__selection=selection, training__accumulate=pieces)
    assert len(whole[0]) == STEPS // 5
    assert len({tuple(one.tolist()) for one in whole[0]}) > 5, "the training changes what is selected"
    assert all(torch.equal(one, two) for one, two in zip(whole[0], parts[0], strict=True))
    assert whole[1] == pytest.approx(parts[1], rel=1e-12)


def summed(images: int, count: int) -> list[tuple[slice, float]]:
    """The gradient of the sum over pieces, where the mean is wanted."""
    return [(rows, 1.0) for rows, _ in pieces_of(images, count)]


def mean_of_means(images: int, count: int) -> list[tuple[slice, float]]:
    """Wrong only where pieces differ in length: in the last batch of an epoch."""
    return [(rows, 1 / count) for rows, _ in pieces_of(images, count)]


def first_only(images: int, count: int) -> list[tuple[slice, float]]:
    """The other pieces are forgotten."""
    return [(rows, share * (number == 0)) for number, (rows, share) in enumerate(pieces_of(images, count))]


@pytest.mark.parametrize("wrong", [summed, mean_of_means, first_only])
def test_a_wrong_share_is_seen(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = course()
    monkeypatch.setattr(gradients, "pieces_of", wrong)
    parts = course(training__accumulate=2)
    assert not all(torch.equal(one, two) for one, two in zip(whole[0], parts[0], strict=True))


@given(images=st.integers(1, 40), count=st.integers(1, 12))
def test_pieces_have_every_image_once(images: int, count: int) -> None:
    parts = pieces_of(images, count)
    assert len(parts) == count
    assert sum(share for _, share in parts) == pytest.approx(1)
    rows = [range(images)[rows] for rows, _ in parts]
    assert [row for own, (_, share) in zip(rows, parts, strict=True) if share for row in own] == [
        *range(images)
    ]
    assert all(len(own) == 1 for own, (_, share) in zip(rows, parts, strict=True) if not share)
    lengths = [round(share * images) for _, share in parts]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
def test_sums_are_taken_in_pairs(count: int) -> None:
    """So that processes, which add in pairs, give the bits of one that has all pieces."""
    vectors = torch.randn(count, 50, generator=torch.Generator().manual_seed(count)).unbind()
    total = PairwiseSum()
    for vector in vectors:
        total.add(vector)
    assert torch.allclose(total.total(), torch.stack(vectors).sum(dim=0), atol=1e-5)
    if count == 4:
        assert torch.equal(total.total(), (vectors[0] + vectors[1]) + (vectors[2] + vectors[3]))
    if count == 8:
        halves = []
        for half in (vectors[:4], vectors[4:]):
            own = PairwiseSum()
            for vector in half:
                own.add(vector)
            halves.append(own.total())
        assert torch.equal(total.total(), halves[0] + halves[1])


def test_running_statistics_are_the_mean_of_what_the_pieces_make_of_them() -> None:
    config = configure(training__accumulate=2)
    trainee = build_own(config, noisy_network)
    state = TrainingState(trainee, config.training, 5)
    norm: Any = trainee.model[2]  # type: ignore[index]
    seen: list[Tensor] = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    pixels = torch.rand(6, 1, 4, 4, dtype=torch.float64)
    Gradients(trainee, state.optimizer, config.training, 0).of(pixels, torch.arange(6) % 3, 0, 6)
    assert [len(one) for one in seen] == [3, 3]
    means, variances = ([f(one, dim=0) for one in seen] for f in (torch.mean, torch.var))
    assert torch.allclose(norm.running_mean, 0.1 * (means[0] + means[1]) / 2)
    assert torch.allclose(norm.running_var, 0.9 + 0.1 * (variances[0] + variances[1]) / 2)
    assert norm.num_batches_tracked == 1


def counting_network() -> nn.Module:
    """With batch norm, and a module that changes its own buffer in every forward."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen: Tensor
            self.seen += len(x)
            return x

    return nn.Sequential(nn.Flatten(), Counting(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("last", "pieces", "words"),
    [
        (5, 4, "has 5 images in 4 pieces (training.accumulate), and batch norm can't take a piece"),
        (1, 1, "has 1 image, and batch norm can't take a piece"),
        (8, 4, None),
    ],
)
def test_a_piece_of_one_image_is_refused_before_the_first_step(
    last: int, pieces: int, words: str | None
) -> None:
    config = configure(training__accumulate=pieces)
    trainee = build_own(config, counting_network)
    optimizer = TrainingState(trainee, config.training, 5).optimizer
    gradients = Gradients(trainee, optimizer, config.training, 0)
    before = {name: value.clone() for name, value in trainee.model.state_dict().items()}
    image = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    if words is None:
        gradients.check_smallest_piece(image, last)
        return
    with pytest.raises(SlotkitError) as told:
        gradients.check_smallest_piece(image, last)
    assert words in str(told.value)
    assert "Choose a training.batch_size that leaves more for the last batch" in str(told.value)
    assert all(torch.equal(value, before[name]) for name, value in trainee.model.state_dict().items())


def test_a_last_batch_that_is_left_out_is_no_reason_to_refuse() -> None:
    """9 images in batches of 8: training.limit_batches=1 never comes to the one that is left."""
    for limit, ends in ((None, pytest.raises(SlotkitError, match="has 1 image")), (1, nullcontext())):
        config = configure(training__limit_batches=limit, training__epochs=1)
        with ends:
            list(fit(build_own(config, counting_network), images(BATCH + 1), images(20), config))


def test_each_piece_has_a_dropout_mask_of_its_own_and_the_same_one_again() -> None:
    config = configure(training__accumulate=2, method="learned", learned_init="torch")
    masks: list[Tensor] = []
    for _ in range(2):
        trainee = build_own(config, lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3)))
        state, dropout = TrainingState(trainee, config.training, 5), list(trainee.model.modules())[2]
        dropout.register_forward_hook(lambda module, inputs, output: masks.append(output != 0))
        Gradients(trainee, state.optimizer, config.training, 0).of(
            torch.ones(8, 1, 4, 4, dtype=torch.float64), torch.arange(8) % 3, 7, 8
        )
    first, second, *again = masks
    assert not torch.equal(first, second)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])


def test_parameters_without_a_gradient_stay_without() -> None:
    """An optimizer lets them rest, momentum and all, as after the whole batch."""
    trainee = build_own(configure(training__accumulate=2, method="learned"))
    trainee.model.register_parameter("unused", nn.Parameter(torch.zeros(2)))
    state = TrainingState(trainee, configure().training, 5)
    config = configure(training__accumulate=2)
    Gradients(trainee, state.optimizer, config.training, 0).of(
        torch.rand(4, 1, 4, 4, dtype=torch.float64), torch.arange(4) % 3, 0, 4
    )
    without = [name for name, parameter in trainee.model.named_parameters() if parameter.grad is None]
    assert without == ["unused"]


class Apart(Processes):
    """One of several processes, of which nobody adds up what they have."""

    def __init__(self, rank: int, count: int) -> None:
        super().__init__(rank, count)
        self.sums: list[Tensor] = []

    def sum(self, numbers: Tensor) -> None:
        self.sums.append(numbers.clone())


@pytest.mark.parametrize("count", [2, 3, 5])
def test_no_image_is_evaluated_twice(count: int) -> None:
    """Nor left out: the processes' counts and losses are those of one process, to the bit."""
    config = configure(evaluation__batch_size=8)
    trainee, times = build_own(config), []
    one = Apart(0, 1)
    trainee.processes = one
    read(trainee, images(), "greedy", config)
    parts = [Apart(rank, count) for rank in range(count)]
    for part in parts:
        trainee.processes, waits = part, [0]

        def between(waits: list[int] = waits) -> None:
            waits[0] += 1

        read(trainee, images(), "greedy", config, between)
        times.append(waits[0])
    for number, whole in enumerate(one.sums):
        assert torch.equal(sum(part.sums[number] for part in parts), whole)  # type: ignore[arg-type]
    assert len(set(times)) == 1, "all are as often between two batches"


def test_the_number_of_pieces_is_one_that_the_processes_can_share() -> None:
    assert [pieces_for(4, count) for count in (1, 2, 3, 4, 8)] == [4, 4, 12, 4, 8]
    resolved = resolve([Overrides("test", {"training.lr": 0.3})])
    assert with_pieces(resolved, 1) is resolved
    shared = with_pieces(resolved, 2)
    assert shared.config.training.accumulate == 2
    assert shared.config.training.lr == 0.3
    assert dict(shared.origins) == {"training.lr": "test", "training.accumulate": "2 processes"}


def test_more_pieces_than_images_are_refused() -> None:
    with pytest.raises(SlotkitError) as refused:
        check_settings(configure(model__name="lenet", training__accumulate=9))
    assert str(refused.value) == (
        "training.accumulate is 9, and a step has 8 images (training.batch_size). Take at most as many "
        "pieces as images."
    )


A_STEP_HAS = "and a step has 64 images (training.batch_size)."


@pytest.mark.parametrize(
    ("accumulate", "processes", "text"),
    [
        (200, 1, f"training.accumulate is 200, {A_STEP_HAS} Take at most as many pieces as images."),
        (1, 65, f"65 processes train together, {A_STEP_HAS} Take at most as many processes as images."),
        (
            8,
            9,
            "training.accumulate is 8, and 9 processes train together: they would share 72 pieces, "
            f"{A_STEP_HAS} Choose numbers whose least common multiple is at most that.",
        ),
    ],
)
def test_a_run_begins_and_goes_on_with_as_many_images_as_pieces(
    accumulate: int, processes: int, text: str, tmp_path: Path
) -> None:
    values = {"training.device": "cpu", "training.batch_size": 64, "recording.trace": "off"}
    values |= {"slots.engine": "eager", "training.epochs": 1, "training.limit_batches": 1}
    wanted = resolve([Overrides("test", values | {"training.accumulate": accumulate})])
    with pytest.raises(SlotkitError) as refused:
        run(wanted, tmp_path, "new", processes=Processes(0, processes))
    assert str(refused.value) == text
    assert not list(tmp_path.iterdir())
    folder = run(resolve([Overrides("test", values)]), tmp_path, "begun")
    changes = [Overrides("--set", {"training.accumulate": accumulate, "training.epochs": 2})]
    before = folder.tables()
    with pytest.raises(SlotkitError) as refused:
        resume(folder, changes, processes=Processes(0, processes))
    assert str(refused.value) == text
    assert folder.tables() == before
