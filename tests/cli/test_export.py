"""slotkit export: plain PyTorch reads what it writes, slotkit.load reads the seed and indices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import invoke, refuse
from safetensors import safe_open
from safetensors.torch import load_file

import slotkit
from slotkit import export as exports
from slotkit import slotfile
from slotkit.config import resolve
from slotkit.data import sources
from slotkit.models import create
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import evaluate
from slotkit.training.prepare import own_settings, reopen

SLOTS = {
    "greedy": [],
    "ps": ["--selection", "PS"],
    "dense": ["--set", "slots.update=selected"],
    "shared": ["--set", "slots.sharing=channel", "--set", "slots.symmetric=true", "--k", "64"],
    "network": ["--set", "slots.sharing=network", "--set", "slots.symmetric=true", "--k", "64"],
    "biased": ["--set", "model.options.bias=true", "--set", "slots.others=trained"],
}


@pytest.mark.parametrize("settings", SLOTS.values(), ids=SLOTS)
def test_both_files_are_the_network_that_was_evaluated(settings: list[str]) -> None:
    invoke("train", "--epochs", "1", "--name", "one", *settings)
    done = json.loads(invoke("export", "one", "--json").stdout)
    place = Path("runs/one/export")
    assert done["folder"] == str(place)
    assert set(done["files"]) == {"weights.safetensors", "model.slot.safetensors"}
    biased = settings == SLOTS["biased"]
    plain = create("lenet", (1, 8, 8), 10, bias=biased)
    plain.load_state_dict(load_file(place / "weights.safetensors"), strict=True)
    loaded = slotkit.load(place / "model.slot.safetensors")
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    # The same accuracy as `slotkit evaluate` reads from the checkpoint, on the same images.
    folder = RunFolder.open("one", Path("runs"))
    prepared = reopen(folder, resolve([own_settings(folder)]))
    prepared.trainee.model, prepared.trainee.machine = loaded, None
    from slotkit.training.evaluation import read

    found = read(prepared.trainee, prepared.images("test"), "learned", prepared.config)
    expected = evaluate(folder, "best", "test")["greedy"]
    assert found.accuracies == expected.accuracies


def test_people_read_a_table() -> None:
    invoke("train", "--epochs", "1", "--name", "one")
    invoke("export", "one")  # says so where it is the first to compile the loops of slot files
    done = invoke("export", "one", "--checkpoint", "last", "--out", "there")
    lines = done.stdout.splitlines()
    assert lines[0] == "one, last checkpoint, greedy weights, in there"
    assert lines[1].split() == ["file", "bytes", "bits/connection", "fp32", "/", "file"]
    rows = {line.split()[0]: line.split() for line in lines[2:4]}
    for name, row in rows.items():
        assert int(row[1]) == Path("there", name).stat().st_size
    assert float(rows["weights.safetensors"][2]) >= 32
    assert float(rows["model.slot.safetensors"][2]) < 4
    assert float(rows["model.slot.safetensors"][3]) > 8
    assert lines[4] == (
        "inputs: pixels / 255, minus 0.3054, divided by 0.376; classes: '0', '1', '2', '3', '4' and 5 more"
    )
    assert lines[5].endswith("bits a connection instead of 32")
    assert 'slotkit.load("there/model.slot.safetensors")' in lines[6]
    assert not done.stderr
    about = slotfile.describe("there/model.slot.safetensors")
    assert about["architecture"] == {"model": "lenet", "options": {}, "image": [1, 8, 8], "classes": 10}
    assert about["reading"] == "greedy"


def test_learned_weights_have_only_ordinary_weights() -> None:
    invoke("train", "--method", "learned", "--epochs", "1", "--name", "twin")
    done = invoke("export", "twin")
    assert "No model.slot.safetensors: learned weights are not selected from a seed's options." in done.stderr
    assert [path.name for path in Path("runs/twin/export").iterdir()] == ["weights.safetensors"]
    plain = create("lenet", (1, 8, 8), 10)
    plain.load_state_dict(load_file("runs/twin/export/weights.safetensors"))
    with safe_open("runs/twin/export/weights.safetensors", "pt") as file:
        told = json.loads(file.metadata()["slotkit_network"])
    assert told == {
        "model": "lenet",
        "options": {},
        "image": [1, 8, 8],
        "classes": 10,
        "mean": [0.3054],
        "std": [0.376],
        "class_names": list("0123456789"),
    }


def test_a_run_in_fp64_is_exported_in_fp64() -> None:
    invoke("train", "--epochs", "1", "--precision", "fp64", "--name", "one")
    done = json.loads(invoke("export", "one", "--json").stdout)
    assert done["dense_bytes"] == 8 * 50_200
    told = 'next: slotkit.load("runs/one/export/model.slot.safetensors", into=model)'
    assert told in invoke("export", "one").stdout
    weights = load_file("runs/one/export/weights.safetensors")
    network = create("lenet", (1, 8, 8), 10).double()
    assert slotkit.load("runs/one/export/model.slot.safetensors", into=network) is network
    assert weights["fc1.weight"].dtype == torch.float64
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in weights.items())


def test_the_header_says_how_the_network_takes_pixels() -> None:
    """With nothing else the accuracy is that of the run."""
    invoke("train", "--epochs", "2", "--name", "one")
    invoke("export", "one")
    path = "runs/one/export/weights.safetensors"
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["slotkit_network"])
    network = create(told["model"], tuple(told["image"]), told["classes"], **told["options"]).eval()
    network.load_state_dict(load_file(path))
    test = sources.load("digits", None).test
    (pixels,) = test.read([torch.arange(len(test))])
    mean, std = (torch.tensor(told[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        right = network((pixels / 255 - mean) / std).argmax(1) == test.labels
        plain = network(pixels / 255).argmax(1) == test.labels
    expected = evaluate(RunFolder.open("one", Path("runs")), "best", "test")["greedy"]
    assert right.double().mean().item() == pytest.approx(expected.accuracy, abs=1e-12)
    assert plain.double().mean().item() < expected.accuracy


def test_a_network_whose_options_no_file_may_name_is_loaded_into_one() -> None:
    model = ("--model", "timm/test_resnet", "--set", "model.options.stem_width=16", "--set", "data.size=32")
    invoke("train", "--epochs", "1", "--name", "one", "--set", "training.limit_batches=1", *model)
    done = invoke("export", "one")
    assert done.exit_code == 0, done.stderr
    path = Path("runs/one/export/model.slot.safetensors")
    assert f'next: slotkit.load("{path}", into=model)' in done.stdout
    network = create("timm/test_resnet", (1, 32, 32), 10, stem_width=16)
    weights = load_file(path.with_name("weights.safetensors"))
    for name, value in slotkit.load(path, into=network).state_dict().items():
        assert torch.equal(value, weights[name])


def test_files_of_an_earlier_export_are_told() -> None:
    invoke("train", "--epochs", "1", "--name", "one")
    invoke("train", "--method", "learned", "--epochs", "1", "--name", "twin")
    invoke("export", "one", "--out", "there")
    Path("there/model.onnx").write_bytes(b"")
    assert "model.onnx in there: of an earlier export" in invoke("export", "one", "--out", "there").stderr
    done = invoke("export", "twin", "--out", "there")
    assert (
        "model.slot.safetensors and model.onnx in there: of an earlier export, maybe of another checkpoint "
        "or run. Delete what you don't need.\n" in done.stderr
    )
    told = json.loads(invoke("export", "twin", "--out", "there", "--json").stdout)
    assert told["earlier"] == ["model.slot.safetensors", "model.onnx"]


def test_missing_packages_are_named_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    invoke("train", "--epochs", "1", "--name", "one")
    monkeypatch.setattr(exports, "find_spec", lambda package: None)
    told = refuse(monkeypatch, capsys, "export", "one", "--onnx")
    assert "--onnx needs onnx and onnxscript, which this Python doesn't have. Install with" in told
    assert "`pip install slotkit[onnx]`" in told
    assert not Path("runs/one/export").exists()


@pytest.mark.filterwarnings("ignore")
def test_onnx_has_the_same_outputs() -> None:
    import numpy as np
    import onnx
    from onnx.reference import ReferenceEvaluator

    invoke("train", "--epochs", "1", "--name", "one")
    done = json.loads(invoke("export", "one", "--onnx", "--json").stdout)
    assert "model.onnx" in done["files"]
    network = slotkit.load("runs/one/export/model.slot.safetensors")
    x = torch.randn(3, 1, 8, 8)
    read = onnx.load("runs/one/export/model.onnx")
    model = ReferenceEvaluator(read)
    (found,) = model.run(None, {"images": x.numpy()})
    np.testing.assert_allclose(found, network(x).detach().numpy(), atol=1e-5)
    (entry,) = [entry for entry in read.metadata_props if entry.key == "slotkit_network"]
    told = json.loads(entry.value)
    assert told == done["network"]
    assert (told["mean"], told["std"], told["class_names"]) == ([0.3054], [0.376], list("0123456789"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["export", "nothing"], "There is no run 'nothing'"),
        (["export", "x", "--checkpoint", "first"], "--checkpoint is 'first'. Choose best or last."),
    ],
)
def test_bad_arguments_are_one_sentence(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in refuse(monkeypatch, capsys, *arguments)


def test_a_folder_that_can_not_be_made_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    invoke("train", "--epochs", "1", "--name", "one")
    Path("file").write_text("in the way")
    told = refuse(monkeypatch, capsys, "export", "one", "--out", "file/there")
    assert told.rstrip().endswith(
        "file/there could not be written: Not a directory. Free some space, or choose another folder, with "
        "--out where the command has it, else with --runs-dir."
    )


def test_options_that_no_slot_file_tells_have_ordinary_weights() -> None:
    masks = ("--k", "2", "--set", "slots.kind=mask", "--set", "slots.init=kaiming-constant")
    invoke("train", "--epochs", "1", "--name", "one", *masks)
    done = invoke("export", "one")
    assert done.exit_code == 0
    assert "No model.slot.safetensors: fc1.weight has the init 'kaiming-constant'" in done.stderr
    assert [path.name for path in Path("runs/one/export").iterdir()] == ["weights.safetensors"]
    weights = load_file("runs/one/export/weights.safetensors")
    assert weights["fc1.weight"].abs().unique().numel() == 2  # 0 and the constant
    assert json.loads(invoke("export", "one", "--json").stdout)["connections"] == 50_200
