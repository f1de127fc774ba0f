"""slotkit masks: scores of mask files and of runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import invoke, refuse

from slotkit.masks import file as mask_file
from slotkit.masks.file import About, Start
from slotkit.masks.scores import NetworkScores, score_network
from slotkit.slotfile.architecture import architecture

NETWORK = architecture("lenet", (1, 8, 8), 10)


def masks_of(about: About) -> dict[str, torch.Tensor]:
    assert about.network is not None
    chance = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=chance) < 0.1
        for name, value in about.network.build().named_parameters()
    }


def same(told: Any, scores: NetworkScores) -> bool:
    """What a command told, up to rounding."""
    wanted = scores.as_dict()
    assert math.isclose(told["spectrum"], wanted["spectrum"], rel_tol=1e-6)
    for one, two in zip(told["layers"], wanted["layers"], strict=True):
        assert (one["layer"], one["shape"], one["edges"]) == (two["layer"], list(two["shape"]), two["edges"])
        assert math.isclose(one["norm"], two["norm"], rel_tol=1e-6)
        assert math.isclose(one["imsg"], two["imsg"], rel_tol=1e-6)
    return True


def test_scores_of_a_mask_file_fit_80_columns() -> None:
    about = About(method="random", network=NETWORK, start=Start(init="glorot-uniform", seed=1))
    masks = masks_of(about)
    mask_file.save(Path("x.mask"), masks, about)
    told = invoke("masks", "score", "x.mask").stdout
    assert max(map(len, told.splitlines())) <= 80
    assert told.startswith("x.mask: random, initial weights glorot-uniform of seed 1\n")
    found = json.loads(invoke("masks", "score", "x.mask", "--json").stdout)
    weights = {name: value.detach().numpy() for name, value in about.build().named_parameters()}
    wanted = score_network({name: mask.numpy() for name, mask in masks.items()}, weights)
    assert found["of"] == "x.mask: random, initial weights glorot-uniform of seed 1"
    assert same(found, wanted)
    kin = json.loads(invoke("masks", "score", "x.mask", "--rules", "kin", "--json").stdout)
    assert kin["rules"] == "kin"
    assert kin["imdb"] != found["imdb"]


def test_a_file_without_initial_weights_is_scored_with_ones() -> None:
    about = About(method="random", network=NETWORK)
    mask_file.save(Path("x.mask"), masks_of(about), about)
    found = json.loads(invoke("masks", "score", "x.mask", "--json").stdout)
    assert found["of"] == "x.mask: random, all weights 1"
    assert all(layer["sigma_1"] == layer["weighted_sigma_1"] for layer in found["layers"])


@pytest.mark.parametrize("settings", [(), ("--selection", "PS"), ("--set", "slots.form=dense")], ids=str)
def test_scores_of_a_run_are_those_of_its_selected_weights(settings: tuple[str, ...]) -> None:
    from safetensors.torch import load_file

    invoke("train", "--epochs", "1", "--name", "one", "--set", "training.limit_batches=3", *settings)
    invoke("export", "one")
    weights = {
        name: value.numpy() for name, value in load_file("runs/one/export/weights.safetensors").items()
    }
    wanted = score_network({name: value != 0 for name, value in weights.items()}, weights)
    found = json.loads(invoke("masks", "score", "one", "--json").stdout)
    assert found["of"] == "one, best checkpoint: selected weights"
    assert same(found, wanted)


def test_scores_of_learned_weights() -> None:
    invoke(
        "train", "--method", "learned", "--epochs", "1", "--name", "one", "--set", "training.limit_batches=3"
    )
    found = json.loads(invoke("masks", "score", "one", "--json").stdout)
    assert found["of"] == "one: learned weights"
    assert [layer["layer"] for layer in found["layers"]] == ["fc1.weight", "fc2.weight", "fc3.weight"]


def test_refusals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x").write_text("no mask", encoding="utf-8")
    told = refuse(monkeypatch, capsys, "masks", "score", "x")
    assert "x can't be read as a mask file: its header claims" in told
    assert "There are no rules 'y'." in refuse(monkeypatch, capsys, "masks", "score", "x", "--rules", "y")
    assert "none" in refuse(monkeypatch, capsys, "masks", "score", "none")
    about = About(method="random", network=NETWORK, start=Start(init="glorot-uniform", seed=1))
    mask_file.save(Path("other"), {"fc9.weight": torch.ones(2, 2, dtype=torch.bool)}, about)
    assert refuse(monkeypatch, capsys, "masks", "score", "other", "--checkpoint", "best") == (
        "Error: --checkpoint best is of a run, and other is a mask file. Leave it out.\n"
    )
    assert "a mask of fc9.weight, which is no weight of lenet." in refuse(
        monkeypatch, capsys, "masks", "score", "other"
    )


MAKE = ("masks", "make", "--density", "0.05", "--json")


def test_a_mask_is_made_scored_and_compared_with_its_controls() -> None:
    made = json.loads(invoke(*MAKE, "--method", "snip", "--batches", "2", "--seed", "3").stdout)
    path = Path(made["file"])
    assert path.name == "snip-lenet-0.05-batches-2-mode-train-seed-3.mask.safetensors"
    masks, about = mask_file.load(path)
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.05 * 50_200)
    assert about.start == Start(init="glorot-uniform", seed=3)
    assert about.network == NETWORK
    assert made["layers"][0] == {
        "layer": "fc1.weight",
        "kept": int(masks["fc1.weight"].sum()),
        "connections": 19200,
    }
    assert "lambda" in invoke("masks", "score", str(path)).stdout
    for kind in ("shuffled", "reinitialised", "erk-random"):
        told = invoke("masks", "control", str(path), "--kind", kind, "--out", kind).stdout
        assert told.splitlines()[-1] == f"next: slotkit masks score {kind}"
        assert max(map(len, told.splitlines())) <= 80
        assert mask_file.load(Path(kind))[1].method == f"{kind} snip"
    assert "shuffled" in invoke("masks", "methods").stdout


def test_no_mask_takes_the_place_of_another_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = (*MAKE, "--method", "random", "--seed", "3")
    name = json.loads(invoke(*drawn).stdout)["file"]
    whole = Path(name).read_bytes()
    assert json.loads(invoke(*drawn).stdout)["file"] == name  # the same mask once more
    told = refuse(monkeypatch, capsys, *drawn, "--set", "slots.init=kaiming-normal")
    assert told == (
        f"Error: {name} is there already, and is not the mask that was asked for. Name another file with "
        "--out, or delete that one.\n"
    )
    Path(name).write_text("a note", encoding="utf-8")
    assert "is there already" in refuse(monkeypatch, capsys, *drawn)
    Path(name).write_bytes(whole)
    assert invoke(*drawn, "--set", "slots.init=kaiming-normal", "--out", name).exit_code == 0


def test_controls_of_two_draws_have_two_names() -> None:
    about = About(method="snip search", network=NETWORK, start=Start(init="glorot-uniform", seed=0))
    names = []
    for draw in (0, 10):
        mask_file.save(Path("x"), masks_of(about), about.model_copy(update={"settings": {"draw": draw}}))
        names.append(json.loads(invoke("masks", "control", "x", "--json").stdout)["file"])
    assert names == [
        f"shuffled-snip-search-lenet-draw-{draw}-control-seed-1.mask.safetensors" for draw in (0, 10)
    ]


@pytest.mark.parametrize("method", ["../../x", "/x", ".x", "x" * 240, "ä b"])
def test_a_control_of_a_strangers_file_stays_in_the_folder(method: str) -> None:
    about = About(method=method, settings={"mode": "../y"})
    masks = {"w": torch.ones(2, 3, dtype=torch.bool)}
    mask_file.save(Path("stranger"), masks, about)
    name = json.loads(invoke("masks", "control", "stranger", "--json").stdout)["file"]
    assert {path.name for path in Path().iterdir()} == {"stranger", name}
    assert name.startswith("shuffled-")
    assert mask_file.load(Path(name))[1].method == f"shuffled {method}"


def test_the_next_command_can_be_typed_for_any_name() -> None:
    told = invoke(*MAKE[:-1], "--method", "magnitude", "--out", "my mask").stdout
    assert told.splitlines()[-1] == "next: slotkit masks score 'my mask'"


def test_seeds_of_initial_weights_and_of_batches_are_apart() -> None:
    def masks(*settings: str) -> list[bool]:
        invoke(*MAKE, "--out", "x", *settings)
        return torch.cat([mask.flatten() for mask in mask_file.load(Path("x"))[0].values()]).tolist()  # type: ignore[no-any-return]

    first = masks()
    assert masks("--seed", "0") == first
    assert masks("--set", "seeds.data=1") != first
    assert masks("--set", "seeds.reels=1") != first
    assert masks("--mode", "eval") == first  # LeNet has no norm and no dropout


def test_a_layer_without_connections_is_told() -> None:
    done = invoke("masks", "make", "--method", "synflow", "--rounds", "1", "--density", "0.02")
    assert "No connection is left in fc2.weight: nothing passes" in done.stderr
    assert "-rounds-1-" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--method", "x"), "There is no method 'x' of making a mask."),
        (("--density", "0"), "The density is 0.0. Give a share"),
        (("--mode", "x"), "There is no mode 'x'."),
        (("--batches", "-1"), "-1 batches were asked for. Give 1 or more, or 0 for all training images."),
        (
            ("--batches", "13"),
            "13 batches were asked for, and the 1221 training images make 10 of 128. Give 10 or fewer, 0 for "
            "all training images, or a smaller training.batch_size.",
        ),
        (
            ("--method", "random", "--batches", "2"),
            "--batches says nothing to random, which looks at no data. Leave it out, or choose snip, "
            "iter-snip or grasp.",
        ),
        (
            ("--method", "synflow", "--mode", "eval"),
            "--mode says nothing to synflow, which looks at no data.",
        ),
        (
            ("--set", "slots.where=['fc1*']"),
            "slots.where (from --set slots.where) is ['fc1*'], and has to be left open: masks are made for "
            "learned weights that a seed alone makes. Leave it out.",
        ),
        (("--set", "slots.k=8"), "slots.k (from --set slots.k) is 8, and has to be 1: masks are made for"),
        *(
            (
                ("--set", f"training.precision={precision}"),
                f"training.precision (from --set training.precision) is '{precision}', and has to be 'fp32': "
                "saliency is measured in float32. Leave it out.",
            )
            for precision in ("fp64", "bf16")
        ),
        (("--model", "own"), "A mask file names its network, and this one is one's own."),
    ],
)
def test_what_make_refuses(
    arguments: tuple[str, ...], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert text in refuse(monkeypatch, capsys, "masks", "make", *arguments)
    assert not list(Path().iterdir())
