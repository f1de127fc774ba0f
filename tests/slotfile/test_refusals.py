"""What can't be written is said before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from slotfile.made import Case

import slotkit
from slotkit import slotfile
from slotkit.errors import SlotkitError
from slotkit.models import create
from slotkit.reel import UniformInit

LENET = Case("lenet", (1, 2, 2), {}, {"k": 2})


def refused(case: Case, path: Path, **changes: object) -> str:
    _, machine = case.trained(1)
    with pytest.raises(SlotkitError) as fault:
        slotfile.save(path, machine, case.architecture, **changes)  # type: ignore[arg-type]
    assert not path.exists()
    return str(fault.value)


def test_an_init_object_has_no_name(tmp_path: Path) -> None:
    case = Case("lenet", (1, 2, 2), {}, {"k": 2, "init": UniformInit(3.0)})
    told = refused(case, tmp_path / "x")
    assert "an object, which a file can't hold. Only the inits glorot-uniform and glorot-deviation" in told


def test_a_mixed_init_is_none_of_the_format(tmp_path: Path) -> None:
    case = Case("lenet", (1, 2, 2), {}, {"k": 2, "init": "deviation-options-uniform-scores"})
    told = refused(case, tmp_path / "x")
    assert (
        "has the init 'deviation-options-uniform-scores', not one of spec 1, which a file can't hold. Only"
        in told
    )


def test_weights_are_float32(tmp_path: Path) -> None:
    model = create("lenet", (1, 2, 2), 5).double()
    machine = slotkit.slotify(model, k=2)
    with pytest.raises(
        SlotkitError, match=r"fc1\.weight is of type torch\.float64\. A slot file with an architecture"
    ):
        slotfile.save(tmp_path / "x", machine, LENET.architecture)


def test_another_architecture_or_machine_is_noticed(tmp_path: Path) -> None:
    model, machine = LENET.trained(1)
    other = slotfile.architecture("lenet", (1, 2, 3), 5)
    with pytest.raises(
        SlotkitError, match=r"shape \(300, 4\) in the model and \(300, 6\) in the architecture"
    ):
        slotfile.save(tmp_path / "x", machine, other)
    with pytest.raises(
        SlotkitError, match="takes the slot machine that slotify returned, and Sequential came"
    ):
        slotkit.save(tmp_path / "x", model)  # type: ignore[arg-type]
    with pytest.raises(SlotkitError, match=r"The architecture given has no tensor fc1\.weight"):
        slotfile.save(tmp_path / "x", machine, slotfile.architecture("vgg19", (1, 16, 16), 5))


def test_weights_that_someone_wrote_are_noticed(tmp_path: Path) -> None:
    model, machine = LENET.trained(1)
    with torch.no_grad():
        model.get_parameter("fc2.weight")[0, 0] += 1
    with pytest.raises(SlotkitError, match=r"The weights of fc2\.weight are not the selected options"):
        slotfile.save(tmp_path / "x", machine, LENET.architecture, reading="in use")


def test_a_reading_and_an_architecture_have_names(tmp_path: Path) -> None:
    assert "There is no reading 'best'. Choose one of greedy, in use." in refused(
        LENET, tmp_path / "x", reading="best"
    )
    with pytest.raises(
        SlotkitError, match=r"This network can't be written down: image\.0 is 0: input should"
    ):
        slotfile.architecture("lenet", (0, 2, 2), 5)
    with pytest.raises(SlotkitError, match="patch_size='16'; a slot file takes a int from 1 to 1024 there"):
        slotfile.architecture("timm/vit_tiny_patch16_224", (3, 32, 32), 5, {"patch_size": "16"})
    assert slotfile.architecture("timm/resnet18", (3, 32, 32), 5, {"drop_rate": 0}).options == {
        "drop_rate": 0
    }
