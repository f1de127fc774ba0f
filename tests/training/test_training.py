"""The loop and the readings, on images made here."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from slotkit.config import Config, Overrides, resolve
from slotkit.data.images import ImageSet
from slotkit.errors import DivergedError, SlotkitError
from slotkit.models import NETWORKS
from slotkit.training.deaths import Deaths
from slotkit.training.evaluation import evaluation_mode, read, reading_kinds, selecting_kind
from slotkit.training.loop import Epoch, Event, Note, Step, fit
from slotkit.training.trainee import Trainee, build, find_device

IMAGE = (1, 8, 8)


def stripes(n: int, image: tuple[int, int, int] = IMAGE, classes: int = 2) -> ImageSet:
    """Images that are bright in one of `classes` horizontal bands, with noise: easy, but not constant."""
    channels, height, width = image
    noise = torch.Generator().manual_seed(n)
    images = torch.randint(0, 60, (n, channels, height, width), generator=noise)
    labels = torch.arange(n) % classes
    band = height // classes
    for index, label in enumerate(labels.tolist()):
        images[index, :, label * band : (label + 1) * band] += 150
    return ImageSet(images.to(torch.uint8), labels)


def configure(**values: Any) -> Config:
    settings = {"training.device": "cpu", "training.batch_size": 16, "training.epochs": 2}
    settings |= {path.replace("__", "."): value for path, value in values.items()}
    return resolve([Overrides("test", settings)]).config


def train(config: Config, image: tuple[int, int, int] = IMAGE, n: int = 64) -> tuple[Trainee, list[Event]]:
    trainee = build(config, image, 2)
    return trainee, list(fit(trainee, stripes(n, image), stripes(20, image), config))


def epochs(events: list[Event]) -> list[Epoch]:
    return [event for event in events if isinstance(event, Epoch)]


@pytest.mark.parametrize(
    ("network", "method", "selection"),
    [
        *product([*NETWORKS, "timm/test_resnet"], ["slot"], ["greedy", "probabilistic"]),
        *product(NETWORKS, ["learned"], ["greedy"]),
        ("timm/test_vit", "slot", "greedy"),
    ],
)
def test_one_epoch_of_each_network(network: str, method: str, selection: str, narrow_networks: None) -> None:
    size = {"timm/test_vit": 160, "vgg-d": 32}.get(network, 16)
    image = (3, size, size)
    config = configure(
        model__name=network, method=method, slots__selection=selection, slots__k=2, training__epochs=1
    )
    trainee, events = train(config, image, n=20)
    assert len([event for event in events if isinstance(event, Step)]) == 2
    (epoch,) = epochs(events)
    assert 0 <= epoch.validation.accuracy <= 1
    assert (trainee.machine is None) == (method == "learned")


def test_a_model_that_refuses_the_images_is_a_sentence() -> None:
    """Before a run has begun: timm's say so in their forward only."""
    with pytest.raises(SlotkitError) as refused:
        build(configure(model__name="timm/test_vit"), IMAGE, 2)
    assert str(refused.value) == (
        "timm/test_vit can't take images of 1 x 8 x 8 (channels x height x width): Input height (8) should "
        "be divisible by patch size (16). Stretch them with data.size, or build the model for their size if "
        "it has an option for that (model.options.img_size)."
    )


@pytest.mark.parametrize("method", ["slot", "learned"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_learns_the_stripes(method: str, precision: str) -> None:
    config = configure(method=method, training__epochs=8, training__precision=precision)
    _, events = train(config)
    assert epochs(events)[-1].loss < 0.5 * epochs(events)[0].loss
    assert epochs(events)[-1].validation.accuracy == 1.0


def test_the_same_seeds_give_the_same_bits_whatever_happened_before(narrow_networks: None) -> None:
    config = configure(model__name="conv2", data__augment="flip-crop", slots__selection="PS")
    first, events = train(config)
    torch.rand(17)
    second, again = train(config)
    assert [event.loss for event in epochs(events)] == [event.loss for event in epochs(again)]
    assert first.machine is not None
    assert second.machine is not None
    for name in first.machine.reels:
        assert torch.equal(first.machine.scores(name), second.machine.scores(name))


@pytest.mark.parametrize("path", ["seeds__reels", "seeds__data", "seeds__training"])
def test_each_seed_changes_the_run(path: str, narrow_networks: None) -> None:
    _, events = train(configure(model__name="conv2"))
    _, others = train(configure(model__name="conv2", **{path: 1}))
    assert epochs(events)[-1].loss != epochs(others)[-1].loss


def test_learned_weights_start_among_the_options_of_the_slot_machine() -> None:
    machine = build(configure(slots__k=4), IMAGE, 2).machine
    assert machine is not None
    twin = build(configure(slots__k=4, method="learned"), IMAGE, 2).model
    for name in machine.reels:
        weight = twin.get_parameter(name)
        assert (machine.options(name) == weight.unsqueeze(-1)).any(dim=-1).all()
    own = build(configure(method="learned", learned_init="torch"), IMAGE, 2).model
    assert not torch.equal(own.get_parameter("fc1.weight"), twin.get_parameter("fc1.weight"))


def test_training_stops_early_and_says_so() -> None:
    config = configure(training__epochs=50, training__patience=2, training__lr=1e-9)
    _, events = train(config)
    assert len(epochs(events)) == 3
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes[-1] == "Stopped early: no better validation accuracy than that of epoch 1 in 2 epochs."


def test_the_first_of_equally_good_epochs_is_the_best() -> None:
    _, events = train(configure(training__epochs=4, training__lr=1e-9))
    assert [event.best for event in epochs(events)] == [True, False, False, False]


def test_an_epoch_can_be_limited_and_losses_are_told_at_intervals() -> None:
    _, events = train(configure(training__limit_batches=3, training__log_every=2))
    steps = [event for event in events if isinstance(event, Step)]
    assert [event.step for event in steps] == [1, 2, 3, 4, 5, 6]
    assert [event.loss is not None for event in steps] == [True, True, False, True, False, True]


def test_a_loss_that_is_not_finite_stops_training_with_a_sentence() -> None:
    config = configure(method="learned", training__lr=1e30, training__log_every=1)
    with pytest.raises(
        DivergedError, match=r"The training loss became (nan|inf) in epoch 1, by step \d+, at learning"
    ):
        train(config)


def test_a_last_step_that_ruins_the_network_is_no_result() -> None:
    """No training loss is taken after it; the run would be finished, with the accuracy of one class."""
    config = configure(method="learned", training__lr=1e38, training__epochs=1, training__limit_batches=1)
    with pytest.raises(DivergedError) as diverged:
        train(config)
    assert str(diverged.value) == (
        "The validation loss became nan in epoch 1, by step 1, at learning rate 1e+38. Lower --lr and start "
        "again."
    )


def test_dead_layers_are_told_once_with_what_to_do() -> None:
    config = configure(slots__sharing="layer", slots__k=1)
    told = []
    for seed in range(6):  # one negative value for every connection of a layer: some of six seeds have it
        _, events = train(
            config.model_copy(update={"seeds": config.seeds.model_copy(update={"reels": seed})})
        )
        notes = [event.text for event in events if isinstance(event, Note)]
        told.append([note for note in notes if "dead layers, all of whose outputs are zero" in note])
    assert any(told)
    assert max(map(len, told)) == 1  # each training has two epochs and stays dead
    (note,) = next(filter(None, told))
    assert note.startswith("Epoch 1 starts with dead layers")
    assert "slots.symmetric=true pairs the shared options as +v, -v, which avoids it." in note


def test_layers_that_come_to_life_or_die_are_told() -> None:
    trainee = build(configure(method="learned"), IMAGE, 2)
    weights = {name: value.clone() for name, value in trainee.model.state_dict().items()}
    deaths = Deaths(trainee)
    inputs = torch.rand(4, *IMAGE, generator=torch.Generator().manual_seed(0))
    assert deaths.look(inputs, 1) is None
    with torch.no_grad():
        for weight in trainee.model.parameters():
            weight.fill_(0.0)
    assert str(deaths.look(inputs, 2)).endswith("Try a smaller learning rate.")
    assert deaths.look(inputs, 3) is None
    trainee.model.load_state_dict(weights)
    assert deaths.look(inputs, 4) == "Epoch 4 starts without dead layers."


def test_evaluation_mode_turns_dropout_off_and_restores_the_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())
    with evaluation_mode(model, keep_dropout=True):
        assert [module.training for module in model] == [True, False]
    assert all(module.training for module in model.modules())


def test_dropout_left_on_lowers_the_reading_as_in_ceng501(narrow_networks: None) -> None:
    config = configure(model__name="conv2", model__options__dropout=0.9, training__epochs=20)
    trainee, _ = train(config)
    left_on = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"keep_dropout": True})}
    )
    images = stripes(200)
    torch.manual_seed(0)
    assert (
        read(trainee, images, "greedy", left_on).accuracy < read(trainee, images, "greedy", config).accuracy
    )


def test_dropout_left_on_is_a_function_of_the_seed(narrow_networks: None) -> None:
    """And of nothing that was drawn before, so that a run's numbers are those of `slotkit evaluate`."""
    config = configure(model__name="conv2", model__options__dropout=0.5, evaluation__keep_dropout=True)
    trainee, _ = train(config)
    images = stripes(200)
    torch.manual_seed(0)
    one = read(trainee, images, "greedy", config)
    torch.manual_seed(1)
    assert read(trainee, images, "greedy", config) == one
    other = config.model_copy(update={"seeds": config.seeds.model_copy(update={"training": 5})})
    assert read(trainee, images, "greedy", other).loss != one.loss


def test_ps_has_three_readings_and_the_chosen_one_selects() -> None:
    config = configure(slots__selection="PS", evaluation__draws=4, evaluation__ps="last")
    trainee, events = train(config)
    assert reading_kinds(config) == ("greedy", "sample", "last")
    assert selecting_kind(config) == "last"
    assert epochs(events)[-1].validation.kind == "last"
    machine = trainee.machine
    assert machine is not None
    before = {name: machine.selected(name).clone() for name in machine.reels}
    sampled = read(trainee, stripes(50), "sample", config)
    assert len(sampled.accuracies) == 4
    assert sampled.spread is not None
    assert sampled == read(trainee, stripes(50), "sample", config)
    assert read(trainee, stripes(50), "greedy", config).spread is None
    for name, selected in before.items():
        assert torch.equal(machine.selected(name), selected)
    assert reading_kinds(configure(slots__selection="PS")) == ("greedy", "sample")
    assert reading_kinds(configure()) == ("greedy",)
    assert reading_kinds(configure(method="learned")) == ("learned",)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("banana", "There is no device 'banana'. Choose auto, cpu, cuda, cuda:N or mps."),
        ("meta", "slotkit doesn't train on 'meta'. Choose auto, cpu, cuda, cuda:N or mps."),
        ("cuda:99", r"The device cuda:99 was asked for, but this PyTorch sees \d+ of its kind."),
    ],
)
def test_a_device_that_is_not_there_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(SlotkitError, match=sentence):
        find_device(name)
