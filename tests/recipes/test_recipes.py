"""Recipes: one for every row of the sources, and each of them can be built."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from slotkit import recipes
from slotkit.config import Overrides, flatten, resolve
from slotkit.errors import SlotkitError
from slotkit.masks.samplers import find_sampler
from slotkit.masks.search_settings import search_settings
from slotkit.optim import SlotAdam
from slotkit.training.checks import check_settings
from slotkit.training.trainee import build

METHODS = ("greedy", "probabilistic", "learned")
NETWORKS = ("lenet", "conv2", "conv4", "conv6", "vgg19")
FINETUNING = {"-".join(row) for row in product(("finetune",), ("paper", "authors"), NETWORKS)}
OURS = {"slotkit-lenet-adam", "slotkit-conv2-adam"}
# Of the log's lines, those of which something is known: nothing is of v5.
MASKS = {f"masks-lth-v{line}" for line in (1, 2, 3, 4, 6, 7)}
ITOP = {"itop-v1", "itop-v2", "itop-v4-vanilla", "itop-v4-ramanujan"}
PAPER = ("paper", "paper-literal")
ROWS = {"-".join(row) for row in product((*PAPER, "authors"), NETWORKS, METHODS)} | {
    "-".join(row) for row in product(("ceng501",), ("conv2", "conv4", "conv6"), METHODS)
}


SHARED = {"-".join(row) for row in product(("paper",), NETWORKS[:4], ("shared",), ("layer", "network"))}


def test_there_is_a_recipe_for_every_row_of_the_sources() -> None:
    assert set(recipes.names()) == ROWS | SHARED | OURS | FINETUNING | MASKS | ITOP


@pytest.mark.parametrize("name", sorted(SHARED))
def test_a_recipe_with_sharing_is_the_greedy_one_with_shared_options(
    name: str, narrow_networks: None
) -> None:
    _, network, _, sharing = name.split("-")
    assert "with its sharing as readers report it" in recipes.load(name).source
    greedy = resolve(recipes.load(f"paper-{network}-greedy").overrides(64)).config
    config = resolve(recipes.load(name).overrides()).config
    slots = greedy.slots.model_copy(update={"sharing": sharing, "k": 64})
    assert config == greedy.model_copy(update={"slots": slots})
    device = config.training.model_copy(update={"device": "cpu"})
    image = (1, 28, 28) if network == "lenet" else (3, 32, 32)
    trainee = build(config.model_copy(update={"training": device}), image, 10)
    assert trainee.forward(torch.zeros(2, *image)).shape == (2, 10)


@pytest.mark.parametrize("name", sorted(MASKS))
def test_a_recipe_of_a_search_says_what_is_certain_and_what_is_read(name: str) -> None:
    recipe = recipes.load(name, "masks search")
    for words in ("Certain: ", "Our reading: ", "k - 1", "n + 2", "column 1", "test set", "sampler"):
        assert words in recipe.differences.replace("\n", " ")
    wanted = search_settings(name, recipe.search, {"draws": 7})
    assert (wanted.draws, wanted.density, wanted.mode) == (7, 0.01, "eval")
    find_sampler(wanted.sampler)
    config = resolve(recipe.overrides()).config
    assert config.model.name == ("vgg-c" if name[-1] in "12" else "vgg-d")
    assert (config.training.epochs, config.data.validation) == (250, 0.1)
    with pytest.raises(
        SlotkitError, match=rf"The recipe {name} is for `slotkit masks search`, not for `slotk"
    ):
        recipes.load(name, "train")


def test_the_lines_differ_in_what_the_log_says() -> None:
    told = {name[-2:]: search_settings(name, recipes.load(name).search, {}) for name in MASKS}
    assert (told["v1"].batches, told["v1"].batch_size) == (1, 25)
    assert (told["v3"].draws, told["v4"].draws) == (200, 2000)
    assert [line for line, one in sorted(told.items()) if one.until_converged] == ["v4", "v6", "v7"]
    assert {line: one.sampler for line, one in told.items() if one.sampler != "random"} == {
        "v2": "uniform",
        "v6": "representative",
    }
    assert [line for line, one in told.items() if one.repair] == ["v7"]


def test_settings_that_a_search_does_not_have_are_refused() -> None:
    with pytest.raises(SlotkitError, match=r"^Recipe x: a search has no setting 'speed'. It has density, "):
        search_settings("x", {"speed": 1}, {})
    with pytest.raises(SlotkitError, match=r"^Recipe x: search.draws is 'many', and no int.$"):
        search_settings("x", {"draws": "many"}, {})


@pytest.mark.parametrize("name", sorted(FINETUNING))
def test_a_recipe_for_finetuning_says_only_how_weights_are_trained(name: str) -> None:
    recipe = recipes.load(name, "finetune")
    _, source, _ = name.split("-")
    assert {"paper": "The paper", "authors": "The authors' released code"}[source] in recipe.source
    assert recipe.differences
    assert recipe.expected
    assert all(path.startswith(("training.", "learned_")) for path in recipe.settings)
    assert resolve(recipe.overrides()).config.training.lr == 0.01
    with pytest.raises(SlotkitError, match=rf"The recipe {name} is for `slotkit finetune`, not for `slotkit"):
        recipes.load(name, "train")


def test_a_recipe_for_training_is_not_one_for_finetuning() -> None:
    with pytest.raises(
        SlotkitError, match=r"paper-lenet-greedy is for `slotkit train`, not for `slotkit fine"
    ):
        recipes.load("paper-lenet-greedy", "finetune")


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_own_recipes_train_the_latents_with_adam(name: str, narrow_networks: None) -> None:
    config = resolve([*recipes.load(name).overrides(), Overrides("test", {"training.device": "cpu"})]).config
    trainee = build(config, (1, 28, 28) if "lenet" in name else (3, 32, 32), 10)
    assert isinstance(trainee.optimizer(config.training), SlotAdam)
    assert "Beyond the paper" in recipes.load(name).differences


def test_recipes_of_the_log_differ_in_what_its_lines_say() -> None:
    told = {}
    for name in ITOP:
        recipe = recipes.load(name)
        assert "Certain: " in recipe.differences
        assert "Our reading: " in recipe.differences
        config = resolve(recipe.overrides()).config
        check_settings(config, here=False)
        told[name] = dict(flatten(config.model_dump()))
    first = told.pop("itop-v1")
    assert {n: {p: v for p, v in own.items() if v != first[p]} for n, own in told.items()} == {
        "itop-v2": {"sparse.grown": "initial"},
        "itop-v4-vanilla": {"sparse.hold_lr": True},
        "itop-v4-ramanujan": {"sparse.proposals": 3},
    }
    assert (first["sparse.density"], first["sparse.interval"], first["sparse.until"]) == (0.01, 1500, 1.0)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_recipe_loads_tells_its_source_and_builds(name: str, narrow_networks: None) -> None:
    recipe = recipes.load(name)
    source, network, method = name.rsplit("-", 2)
    assert recipe.source
    assert recipe.differences
    assert recipe.expected
    assert {"ceng501": "CENG501"}.get(source, source.partition("-")[0]) in recipe.source
    config = resolve([*recipe.overrides(), Overrides("test", {"training.device": "cpu"})]).config
    assert config.model.name == network
    assert config.method == ("learned" if method == "learned" else "slot")
    if method != "learned":
        assert config.slots.selection == method
    image = (1, 28, 28) if network == "lenet" else (3, 32, 32)
    trainee = build(config, image, 10)
    assert (trainee.machine is None) == (method == "learned")
    assert trainee.forward(torch.zeros(2, *image)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "k", "lr"),
    [
        ("paper-conv2-greedy", 8, 0.2),
        ("paper-conv2-greedy", 16, 0.1),
        ("authors-lenet-greedy", 8, 0.1),
        ("authors-lenet-greedy", 64, 0.01),
        ("ceng501-conv6-greedy", 64, 0.1),
        ("authors-conv6-probabilistic", 64, 25.0),
        ("authors-conv4-probabilistic", 8, 50.0),
    ],
)
def test_the_learning_rate_follows_k_as_in_the_sources(name: str, k: int, lr: float) -> None:
    assert resolve(recipes.load(name).overrides(k)).config.training.lr == lr


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_paper_and_its_literal_reading_differ_in_the_init_and_under_ps_in_l2(
    network: str, method: str
) -> None:
    ours, literal = (
        dict(flatten(resolve(recipes.load(f"{source}-{network}-{method}").overrides()).config.model_dump()))
        for source in PAPER
    )
    different = {path: (ours[path], literal[path]) for path in ours if ours[path] != literal[path]}
    l2 = {"training.weight_decay": (0.0, 1e-4)} if method == "probabilistic" else {}
    assert different == {"slots.init": ("glorot-uniform", "glorot-deviation"), **l2}


def test_a_flag_wins_over_what_a_recipe_says_for_large_k() -> None:
    given = [*recipes.load("paper-conv2-greedy").overrides(64), Overrides("--lr", {"training.lr": 3.0})]
    resolved = resolve(given)
    assert resolved.config.training.lr == 3.0
    assert resolved.origins["training.momentum"] == "recipe paper-conv2-greedy"


def test_ceng501_recipes_have_the_settings_that_set_them_apart() -> None:
    config = resolve(recipes.load("ceng501-conv4-probabilistic").overrides()).config
    assert (config.slots.update, config.slots.others, config.training.momentum) == ("selected", "kept", 0.0)
    assert config.evaluation.keep_dropout
    assert config.evaluation.ps == "sample"
    assert config.model.options == {"padding": "same", "dropout": 0.5, "dropout_at": "after", "bias": True}


def test_an_unknown_recipe_brings_the_nearest_names() -> None:
    with pytest.raises(SlotkitError, match=r"no recipe 'paper-lenet-gredy'. Did you mean paper-lenet-greedy"):
        recipes.load("paper-lenet-gredy")
