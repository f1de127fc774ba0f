"""The factors are the settings in which the sources differ, and the ends are the sources themselves."""

from __future__ import annotations

from typing import Any

import pytest
from slotkit.analyses.gap.plan import Cell, Plan, plan

from slotkit import recipes
from slotkit.config import Overrides, resolve
from slotkit.errors import SlotkitError

LENET = {
    "update rule": ("selected", "all"),
    "momentum and learning rate": ("0 and 0.2", "0.9 and 0.1"),
    "L2 penalty": ("0", "0.0001"),
    "schedule": ("constant", "restarts"),
    "option bound": ("√(2/(in+out))", "√(6/(in+out))"),
    "score bound": ("√(2/(in+out)), dense 0.1 of it", "√(6/(in+out))"),
    "biases": ("PyTorch's, untrained", "none"),
    "pixel range": ("-1 to 1", "0 to 1"),
}


def settings(layers: list[Overrides]) -> dict[str, Any]:
    """What decides a run, besides how it is read and which seed it has."""
    values = {path: value for path, value, _ in resolve(layers).explain() if value is not None}
    values.setdefault("model.options.bias", False)
    return {
        path: value
        for path, value in values.items()
        if not path.startswith(("seeds.", "evaluation.", "recording.")) and value != {}
    }


def of_recipe(name: str) -> dict[str, Any]:
    return settings(recipes.load(name).overrides(8))


def test_the_factors_of_lenet() -> None:
    planned = plan()
    assert {f.name: (f.low_words, f.high_words) for f in planned.factors} == LENET
    assert [f.name for f in planned.factors if not f.between] == ["L2 penalty", "schedule"]
    assert {f.source for f in planned.factors if not f.between} == {"paper-lenet-greedy"}
    assert not planned.readings
    # 16 of the design, one of them the reproduction; the reference; two neighbours for each of 6 factors.
    assert len(planned.trained()) == 16 + 1 + 12


@pytest.mark.parametrize("model", ["conv2", "conv6"])
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_the_ends_are_the_recipes(model: str, selection: str) -> None:
    planned = plan(model=model, selection=selection)
    reference, reproduction = planned.ends
    assert settings(planned.layers(reference, 0)) == of_recipe(f"authors-{model}-{selection}") | {
        "model.options.bias": False
    }
    assert settings(planned.layers(reproduction, 0)) == of_recipe(f"ceng501-{model}-{selection}") | {
        "training.epochs": planned.epochs  # as many as the reference has
    }


def test_the_reference_for_lenet_is_the_recipe_and_the_reproduction_is_lent_by_conv2() -> None:
    planned = plan()
    reference, reproduction = planned.ends
    assert settings(planned.layers(reference, 0)) == of_recipe("authors-lenet-greedy") | {
        "model.options.bias": False
    }
    config = resolve(planned.layers(reproduction, 5)).config
    assert planned.reproduction == "ceng501-conv2-greedy for lenet"
    assert (config.slots.update, config.slots.init, config.slots.others) == (
        "selected",
        "glorot-deviation",
        "kept",
    )
    assert (config.training.momentum, config.training.lr) == (0, 0.2)
    assert (config.data.mean, config.data.std) == ((0.5,), (0.5,))
    assert config.model.options == {"bias": True}
    assert (config.seeds.reels, config.seeds.data, config.seeds.training) == (5, 5, 5)


def test_every_level_reaches_its_setting() -> None:
    planned = plan()
    low: Cell = (-1,) * len(planned.factors)
    before = settings(planned.layers(low, 0))
    for index, factor in enumerate(planned.factors):
        high = tuple(1 if i == index else -1 for i in range(len(low)))
        after = settings(planned.layers(high, 0))
        changed = {path for path, value in after.items() if before.get(path) != value}
        own = {path for path in factor.high if factor.high[path] != factor.low.get(path)}
        assert changed == {"slots.init" if path.endswith(" bound") else path for path in own}


def test_the_bounds_of_options_and_scores_are_apart() -> None:
    planned = plan(factors=["option bound", "score bound"])
    inits = [resolve(planned.layers(cell, 0)).config.slots.init for cell in planned.trained()]
    assert inits == [
        "glorot-deviation",
        "deviation-options-uniform-scores",
        "uniform-options-deviation-scores",
        "glorot-uniform",
    ]


def test_convolutional_networks_have_more_factors_and_one_of_reading() -> None:
    planned = plan(model="conv2")
    more = {f.name for f in planned.factors} - set(LENET)
    assert more == {"padding", "place of dropout", "augmentation"}
    assert [f.name for f in planned.readings] == ["dropout in evaluation"]
    sampled = plan(model="conv2", selection="PS")
    assert [f.name for f in sampled.readings] == ["dropout in evaluation", "PS evaluation"]


def test_what_is_set_for_all_is_no_factor() -> None:
    planned = plan(layers=[Overrides("--set", {"training.lr": 0.3, "slots.update": "all"})])
    names = [f.name for f in planned.factors]
    assert "momentum" in names
    assert "update rule" not in names
    assert {resolve(planned.layers(cell, 0)).config.training.lr for cell in planned.trained()} == {0.3}


def test_factors_left_out_stay_at_the_reference() -> None:
    planned = plan(factors=["update rule"], k=4, epochs=3, dataset="digits")
    assert planned.held == tuple(
        name for name in LENET if name not in ("update rule", "L2 penalty", "schedule")
    )
    for cell in planned.trained():
        config = resolve(planned.layers(cell, 0)).config
        assert (config.slots.init, config.slots.k, config.training.epochs) == ("glorot-uniform", 4, 3)
        assert config.data.dataset == "digits"


def test_large_k_has_the_learning_rates_that_the_recipes_give_it() -> None:
    momentum = plan(k=64).factors[1]
    assert (momentum.low_words, momentum.high_words) == ("0 and 0.1", "0.9 and 0.01")


def test_other_recipes_can_be_the_ends() -> None:
    planned = plan(reference="paper-literal-lenet-greedy", reproduction="authors-lenet-greedy")
    assert {f.name for f in planned.factors if f.between} == {
        *("learning rate", "L2 penalty", "schedule", "option bound", "score bound")
    }


def test_a_plan_survives_its_file() -> None:
    planned = plan(model="conv2", seeds=(0, 3))
    assert Plan.from_dict(planned.as_dict()) == planned


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"factors": ["update"]},
            "There is no factor 'update' here. Did you mean 'update rule'? The sources",
        ),
        ({"model": "resnet"}, "There is no recipe 'authors-resnet-greedy'."),
        (
            {"reproduction": "authors-lenet-greedy", "reference": "authors-lenet-greedy", "factors": []},
            "authors-lenet-greedy and authors-lenet-greedy differ in no setting of training that is varied.",
        ),
    ],
)
def test_what_can_be_put_right(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SlotkitError) as fault:
        plan(**given)
    assert sentence in str(fault.value)
