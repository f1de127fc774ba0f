"""Mask files: what is written is read, and a damaged file is an error in a sentence."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from slotkit import files
from slotkit.errors import SlotkitError
from slotkit.masks import file as mask_file
from slotkit.masks.file import CHECKSUM_KEY, KEY, About, Masks, Start
from slotkit.slotfile.architecture import Architecture, architecture

ABOUT = About(
    method="random",
    density=0.25,
    settings={"seed": 3, "mode": "train", "noise": None},
    network=architecture("lenet", (1, 2, 2), 5),
    start=Start(init="glorot-uniform", seed=7),
)


def some_masks(seed: int = 0, shapes: tuple[tuple[int, ...], ...] = ((3, 5), (2, 3, 3, 3), (8, 1))) -> Masks:
    chance = torch.Generator().manual_seed(seed)
    return {f"layer{i}.weight": torch.rand(shape, generator=chance) < 0.3 for i, shape in enumerate(shapes)}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


@settings(max_examples=15)
@given(
    st.integers(0, 99), st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=4), min_size=1, max_size=3)
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, seed: int, shapes: Any) -> None:
    path = tmp_path_factory.mktemp("masks") / "x.mask.safetensors"
    masks = some_masks(seed, tuple(map(tuple, shapes)))
    mask_file.save(path, masks, ABOUT)
    again, about = mask_file.load(path)
    assert equal(again, masks)
    assert about == ABOUT


def test_a_connection_takes_a_bit(tmp_path: Path) -> None:
    sizes = []
    for name, number in (("small", 8), ("large", 80_008)):
        mask_file.save(tmp_path / name, {"w": torch.ones(1, number, dtype=torch.bool)}, ABOUT)
        sizes.append(sum(value.numel() for value in load_file(tmp_path / name).values()))
    assert sizes == [1, 10_001]


def test_network_and_initial_weights_are_made_again() -> None:
    one, two = (dict(ABOUT.build().named_parameters()) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = About(method="x", network=ABOUT.network, start=Start(init="glorot-uniform", seed=8)).build()
    assert not torch.equal(dict(other.named_parameters())["fc1.weight"], one["fc1.weight"])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"network": None}, "it doesn't say which network it was made for."),
        ({"start": None}, "it doesn't say which initial weights it was made for."),
        ({"start": Start(init="he", seed=0)}, "there is no init 'he'; this slotkit has glorot-uniform, "),
        (
            {"network": Architecture(model="lenett", image=(1, 8, 8), classes=10)},
            "There is no model 'lenett'. Did you mean lenet? ",
        ),
    ],
)
def test_a_file_whose_network_can_not_be_made_is_named(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(SlotkitError) as caught:
        mask_file.network_of(Path("x"), ABOUT.model_copy(update=changed))
    assert str(caught.value).startswith(f"The network of x can't be made: {told}")
    assert str(caught.value).endswith("Use another one, or make it again with `slotkit masks make`.")


def refusal(path: Path) -> str:
    with pytest.raises(SlotkitError) as caught:
        mask_file.load(path)
    told = str(caught.value)
    assert told.startswith(f"{path} can't be read as a mask file: ")
    assert told.endswith("Use another one, or make it again with `slotkit masks make`.")
    return told


def header_of(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return dict(json.loads(file.read(length))["__metadata__"])


def rewritten(path: Path, change: Any, sign: bool = True) -> Path:
    """A file whose JSON or entries are changed, and whose checksum is right again."""
    entries, header = load_file(path), json.loads(header_of(path)[KEY])
    change(header, entries)
    text = header if isinstance(header, str) else json.dumps(header)
    told = {KEY: text, CHECKSUM_KEY: mask_file._checksum(text, entries) if sign else "0" * 32}
    save_file(entries, path, metadata=told)
    return path


def _newer(header: Any, entries: Any) -> None:
    header["format"] = 2


def _stray(header: Any, entries: Any) -> None:
    entries["masks/other"] = torch.zeros(1, dtype=torch.uint8)


def _short(header: Any, entries: Any) -> None:
    entries["masks/layer0.weight"] = entries["masks/layer0.weight"][:1]


def _beyond(header: Any, entries: Any) -> None:
    entries["masks/layer0.weight"][-1] |= 128


def _huge(header: Any, entries: Any) -> None:
    header["layers"][0]["shape"] = [2**31, 2**31]


def _twice(header: Any, entries: Any) -> None:
    header["layers"].append(header["layers"][0])


def _key(header: Any, entries: Any) -> None:
    header["about"]["pickle"] = "x"


FAULTS = {
    _newer: "format is 2: input should be 1",
    _stray: "its entries and its metadata name different layers",
    _short: "the mask of layer0.weight is U8 of shape [1], where 2 bytes are due",
    _beyond: "the mask of layer0.weight has bits beyond its end",
    _huge: "where 576460752303423488 bytes are due",
    _twice: "its entries and its metadata name different layers",
    _key: "about.pickle is 'x': extra inputs are not permitted",
}


@pytest.mark.parametrize("change", FAULTS, ids=lambda change: change.__name__[1:])
def test_each_fault_is_told(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "x"
    mask_file.save(path, some_masks(), ABOUT)
    assert FAULTS[change] in refusal(rewritten(path, change))


def test_a_wrong_checksum_a_missing_file_and_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert "there is no such file" in refusal(path)
    mask_file.save(path, some_masks(), ABOUT)
    assert "its checksum is wrong" in refusal(rewritten(path, lambda header, entries: None, sign=False))
    save_file({"a": torch.zeros(2)}, path)
    assert "its header has no 'slotkit_masks', so it is a file of another kind" in refusal(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """Flipped bits, cut ends, spliced bytes: a sentence, or the same masks (a bit of the padding)."""
    path, chance = tmp_path / "x", random.Random(0)
    masks = some_masks()
    mask_file.save(path, masks, ABOUT)
    whole, refused = path.read_bytes(), 0
    for number in range(300):
        changed = bytearray(whole)
        at = chance.randrange(len(whole))
        if number % 3 == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif number % 3 == 1:
            del changed[at:]
        else:
            changed[at : at + chance.randrange(9)] = chance.randbytes(chance.randrange(1, 9))
        path.write_bytes(bytes(changed))
        try:
            assert equal(mask_file.load(path)[0], masks)
        except SlotkitError:
            refused += 1
    assert refused > 280


def test_a_failing_disk_leaves_the_file_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(files.Disk):
        def rename(self, path: Path, to: Path) -> None:
            raise OSError(28, "No space left on device")

    path = tmp_path / "x"
    mask_file.save(path, some_masks(1), ABOUT)
    monkeypatch.setattr(files, "disk", Full())
    with pytest.raises(SlotkitError, match="could not be written"):
        mask_file.save(path, some_masks(2), ABOUT)
    assert equal(mask_file.load(path)[0], some_masks(1))
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_what_is_no_mask_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(SlotkitError) as caught:
        mask_file.save(tmp_path / "x", {"w": torch.ones(2, 3)}, ABOUT)
    assert str(caught.value) == (
        "The mask of w is torch.float32 of shape (2, 3). Give bool tensors with at least one connection."
    )
    with pytest.raises(SlotkitError, match="These masks can't be written down: layers is"):
        mask_file.save(tmp_path / "x", {}, ABOUT)
    # A file that could not be read again, such as a control of a control of a control of ...
    long = ABOUT.model_copy(update={"method": "shuffled " * 40})
    with pytest.raises(SlotkitError, match=r"These masks can't be written down: about\.method is"):
        mask_file.save(tmp_path / "x", {"w": torch.ones(2, 3, dtype=torch.bool)}, long)
    assert not list(tmp_path.iterdir())
