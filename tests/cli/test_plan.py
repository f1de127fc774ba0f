from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import invoke, refuse

NETWORK = """
from torch import nn


def make(image, classes):
    width = image[1] * image[2]
    return nn.Sequential(nn.Flatten(2), nn.Linear(width, 8), nn.TransformerEncoderLayer(8, 2, 8),
                         nn.Flatten(), nn.Linear(8 * image[0], classes))
"""


@pytest.mark.parametrize("model", ["timm/vit_tiny_patch16_224", "timm/resnet18"])
def test_a_plan_fits_a_terminal(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = invoke("plan", "--model", model, "--k", "8").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(lines)
    assert text.startswith(f"{model}, images of 3x224x224, 10 classes, K = 8, greedy selection ")
    assert " at batch 128: an estimate. " in text
    assert " parameters become reels (9" in text


def test_a_network_of_ones_own_is_planned(tmp_path: Path) -> None:
    Path("plannednets.py").write_text(NETWORK)
    done = invoke(
        "plan", "--model-factory", "plannednets:make", "--image", "3x6x6", "--classes", "4", "--every"
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "plannednets:make, images of 3x6x6, 4 classes, K = 8, greedy selection"
    (attention,) = (line for line in lines if line.startswith("2.self_attn.in_proj_weight"))
    assert attention.split() == [
        *("2.self_attn.in_proj_weight", "1", "24x8", "8", "24"),
        *("MultiheadAttention:", "queries,", "keys,", "values"),
    ]


def test_options_of_the_network() -> None:
    done = invoke(
        *("plan", "--model", "timm/vit_tiny_patch16_224", "--image", "3x32x32"),
        *("--option", "img_size=32", "--option", "patch_size=8", "--json"),
    )
    tensors = {tensor["name"]: tensor["shape"] for tensor in json.loads(done.stdout)["tensors"]}
    assert tensors["patch_embed.proj.weight"] == [192, 3, 8, 8]
    assert tensors["pos_embed"] == [1, 17, 192]


def test_a_plan_as_json() -> None:
    told = json.loads(invoke("plan", "--model", "lenet", "--k", "64", "--json").stdout)
    assert (told["connections"], told["parameters"], told["k"]) == (266_200, 266_200, 64)
    assert told["memory"][1] == {
        "form": "latent form",
        "weights": 1_064_800,
        "gradients": 1_064_800,
        "state": 4_259_200,
    }
    assert told["tensors"][0]["fans"] == {"fan_in": 784, "fan_out": 300, "convolution": False}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "Give --model NAME, such as timm/resnet18, or --model-factory package.module:function."),
        (["--model", "timm/resnt18"], "timm has no model 'resnt18'. Near it: resnet18"),
        (["--model", "lenet5"], "There is no model 'lenet5'. Did you mean lenet?"),
        (
            ["--model", "lenet", "--image", "3x3"],
            "--image 3x3 is not the shape of an image, such as 3x224x224.",
        ),
        (
            ["--model", "lenet", "--option", "bias"],
            "--option bias is not of the form a=value, such as patch_size=8.",
        ),
        (["--model", "lenet", "--option", "hats=3"], "hats"),
        (["--model", "lenet", "--where", "fc9*"], "`where` names 'fc9*', which matches no parameter."),
    ],
)
def test_what_cannot_be_planned(
    arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert text in refuse(monkeypatch, capsys, "plan", *arguments)
