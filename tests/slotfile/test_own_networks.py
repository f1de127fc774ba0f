"""Slot files of classes that no registry knows: what is saved is what is loaded into another of them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from slotfile.made import Case, Own, OwnNet, bits
from slotfile.page_reader import read
from torch import Tensor, nn

import slotkit
from slotkit import slotfile
from slotkit.errors import SlotkitError

PAIRS = {"k": 4, "symmetric": True, "sharing": "channel"}
CASES = [
    Own({"k": 8}),
    Own({"k": 3, "others": "trained"}),
    Own({"k": 1}),
    Own({"k": 1100, "where": "conv.weight"}),
    Own({"k": 8, "form": "dense", "others": "kept"}),
    Own({"k": 4, "selection": "PS", "form": "dense", "sharing": "network"}),
    Own({"k": 4, "selection": "PS", "sharing": "network"}),
    *(
        Own(PAIRS | {"form": form}, dtype)
        for form in ("latent", "dense")
        for dtype in (torch.float64, torch.bfloat16)
    ),
    Own({"k": 8}, torch.float16),
]


def learned(machine: slotkit.SlotMachine) -> nn.Module:
    """The ordinary network that it ends as, of a copy."""
    _, machine = copy.deepcopy((machine.model, machine))
    return machine.to_learned()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_network_of_ones_own_comes_back(case: Own, tmp_path: Path) -> None:
    machine = case.trained()
    slotkit.save(tmp_path / "x", machine)
    wanted = learned(machine)
    torch.manual_seed(9)
    into = OwnNet().to(case.dtype)
    into.passing.fill_(7)
    parameters = list(into.parameters())
    assert slotkit.load(tmp_path / "x", into=into) is into
    assert list(into.state_dict()) == list(wanted.state_dict())
    assert bits(into.state_dict()) == bits(wanted.state_dict())
    assert into.tied.weight is into.full.weight
    assert all(new is old for new, old in zip(into.parameters(), parameters, strict=True))
    assert into.passing.tolist() == [7, 7, 7]
    assert not any(module.training for module in into.modules())
    x = torch.randn(3, 2, 5, 5, dtype=case.dtype)
    assert torch.equal(into(x), wanted.eval()(x))


def test_the_cases_have_both_codings_and_moved(tmp_path: Path) -> None:
    codings, moved = set(), 0
    for case in CASES[:3]:
        machine = case.trained()
        moved += sum(
            int((machine.selected(n) != r.scores().argmax(-1)).sum()) for n, r in machine.reels.items()
        )
        slotkit.save(tmp_path / "x", machine)
        about = slotfile.describe(tmp_path / "x")
        codings |= {record["coding"] for record in about["reels"]}
        assert about["format"] == 2
        assert "architecture" not in about
        assert about["ties"] == {"tied.weight": "full.weight"}
    assert codings == {"packed", "entropy"}
    assert moved > 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_reader_written_from_the_page_reads_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    machine = Own({"k": 8, "others": "kept"}, dtype).trained()
    slotkit.save(tmp_path / "x", machine)
    found, about = read((tmp_path / "x").read_bytes()), slotfile.describe(tmp_path / "x")
    state = machine.model.state_dict()
    told = {*found, *about["zeros"], *about["ones"], *about["ties"]}
    assert told == set(state)
    for name, values in found.items():
        assert values == state[name].reshape(-1).tolist(), name
    for name, entry in about["entries"].items():
        assert entry["shape"] == list(state[name].shape), name
    assert {entry["dtype"] for entry in about["entries"].values()} >= {"BOOL", "I64"}


def test_the_reading_in_use_is_the_sample(tmp_path: Path) -> None:
    machine = Own({"k": 8, "selection": "PS"}).trained()
    sample = bits(machine.model.state_dict())
    slotkit.save(tmp_path / "x", machine, reading="in use")
    assert bits(machine.model.state_dict()) == sample
    assert bits(slotkit.load(tmp_path / "x", into=OwnNet()).state_dict()) == sample
    slotkit.save(tmp_path / "x", machine)
    assert bits(slotkit.load(tmp_path / "x", into=OwnNet()).state_dict()) != sample


def test_a_greedy_machine_that_holds_a_sample_is_written_greedily(tmp_path: Path) -> None:
    for form in ("latent", "dense"):
        machine = Own({"k": 8, "form": form}).trained()
        wanted = bits(learned(machine).state_dict())
        machine.spin("probabilistic")
        slotkit.save(tmp_path / "x", machine)
        assert bits(slotkit.load(tmp_path / "x", into=OwnNet()).state_dict()) == wanted


def test_layouts_do_not_matter(tmp_path: Path) -> None:
    machine = Own({"k": 8}).trained()
    machine.model.to(memory_format=torch.channels_last)
    slotkit.save(tmp_path / "x", machine)
    into = OwnNet().to(memory_format=torch.channels_last)
    slotkit.load(tmp_path / "x", into=into)
    assert into.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert bits(into.state_dict()) == bits(machine.model.state_dict())


class Compiled(nn.Module):
    """The names that torch.compile gives, without its compiler."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


def test_wrappers_of_either_side_do_not_matter(tmp_path: Path) -> None:
    wrapped = nn.DataParallel(OwnNet())
    machine = slotkit.slotify(wrapped, k=8)
    slotkit.save(tmp_path / "x", machine)
    assert "module.conv.weight" in machine.reels
    own = bits(wrapped.module.state_dict())
    for into in (
        OwnNet(),
        nn.DataParallel(OwnNet()),
        Compiled(OwnNet()),
        nn.DataParallel(Compiled(OwnNet())),
    ):
        slotkit.load(tmp_path / "x", into=into)
        found = into
        while not isinstance(found, OwnNet):
            found = next(found.children())
        assert bits(found.state_dict()) == own


def test_a_part_named_module_is_no_wrapper(tmp_path: Path) -> None:
    model = nn.ModuleDict({"module": nn.Linear(3, 3), "weight": nn.Identity()})
    slotkit.save(tmp_path / "x", slotkit.slotify(model, k=2))
    with pytest.raises(
        SlotkitError, match=r"ModuleDict lacks module\.weight, module\.bias; the file lacks modul\.weight"
    ):
        slotkit.load(tmp_path / "x", into=nn.ModuleDict({"modul": nn.Linear(3, 3)}))


def test_a_layer_built_by_hand_is_an_ordinary_one_in_the_file(tmp_path: Path) -> None:
    layer = slotkit.SlotLinear(6, 4, k=4, seed=2, bias=True)
    slotkit.save(tmp_path / "x", layer.machine)
    into = slotkit.load(tmp_path / "x", into=nn.Linear(6, 4))
    assert bits(into.state_dict()) == {
        name: bits({name: value})[name] for name, value in (("weight", layer.weight), ("bias", layer.bias))
    }


def test_two_machines_in_a_network(tmp_path: Path) -> None:
    for form in ("latent", "dense"):
        model = OwnNet()
        first = slotkit.slotify(model, k=4, where="conv.weight", form=form)
        second = slotkit.slotify(model, k=4, form=form, seed=1)
        slotkit.save(tmp_path / "x", first)
        found = bits(slotkit.load(tmp_path / "x", into=OwnNet()).state_dict())
        second.to_learned()
        assert found == bits(first.to_learned().state_dict())


def test_a_named_file_is_loaded_into_a_network_too(tmp_path: Path) -> None:
    case = Case("lenet", (1, 2, 2), {"bias": True}, {"k": 3, "others": "trained"})
    case.write(tmp_path / "x")
    built = slotkit.load(tmp_path / "x")
    into = case.architecture.build()
    assert slotkit.load(tmp_path / "x", into=into) is into
    assert bits(into.state_dict()) == bits(built.state_dict())


def test_a_larger_limit_is_needed_for_built_networks_only(tmp_path: Path) -> None:
    Own({"k": 2}).write(tmp_path / "x")
    slotkit.load(tmp_path / "x", into=OwnNet(), limit=1)


def changed(**parts: nn.Module) -> OwnNet:
    model = OwnNet()
    for name, part in parts.items():
        setattr(model, name, part)
    return model


def untied() -> OwnNet:
    model = OwnNet()
    model.tied = nn.Linear(6, 6, bias=False)
    return model


def test_an_untied_network_gets_copies(tmp_path: Path) -> None:
    machine = Own({"k": 8}).trained()
    slotkit.save(tmp_path / "x", machine)
    into = untied()
    slotkit.load(tmp_path / "x", into=into)
    assert torch.equal(into.tied.weight, into.full.weight)
    assert torch.equal(into.tied.weight, machine.model.get_parameter("full.weight"))


def test_another_network_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    Own({"k": 8}).write(path)

    def refusal(into: nn.Module) -> str:
        before = bits(into.state_dict())
        with pytest.raises(SlotkitError) as fault:
            slotkit.load(path, into=into)
        assert bits(into.state_dict()) == before
        assert all(module.training for module in into.modules())
        return str(fault.value)

    end = (
        ". Nothing was changed. Build the network that was saved, with the same sizes and types, and load "
        "into that."
    )
    assert refusal(changed(conv=nn.Conv2d(2, 32, 5), norm=nn.Identity())) == (
        f"{path} is of another network than this OwnNet: OwnNet lacks norm.weight, norm.bias, "
        "norm.running_mean and 2 more; conv.weight is (32, 2, 3, 3) float32 in the file and (32, 2, 5, 5) "
        f"float32 in OwnNet{end}"
    )
    assert refusal(changed(more=nn.Linear(2, 2))) == (
        f"{path} is of another network than this OwnNet: the file lacks more.weight, more.bias" + end
    )
    assert "conv.weight is (32, 2, 3, 3) float32 in the file and (32, 2, 3, 3) bfloat16 in OwnNet" in refusal(
        OwnNet().bfloat16()
    )
    machine = slotkit.slotify(untied(), k=2)
    slotkit.save(path, machine)
    assert "full.weight and tied.weight are one tensor in OwnNet and two in the file" in refusal(OwnNet())


def test_what_can_not_be_loaded_into(tmp_path: Path) -> None:
    path = tmp_path / "x"
    Own({"k": 8}).write(path)
    with pytest.raises(SlotkitError) as fault:
        slotkit.load(path)
    assert str(fault.value) == (
        f"{path} is of a network of your own (conv.weight, full.weight, mask, ...), and a file "
        "holds no code. Build the network and give it: slotkit.load(path, into=model)."
    )
    for form in ("latent", "dense"):
        machine = slotkit.slotify(OwnNet(), k=8, form=form)
        with pytest.raises(
            SlotkitError, match="of this OwnNet belongs to a slot machine, whose weights can't be"
        ):
            slotkit.load(path, into=machine.model)
    with pytest.raises(
        SlotkitError, match=r"`into` is a SlotMachine\. Give a network, an nn\.Module: give its"
    ):
        slotkit.load(path, into=machine)  # type: ignore[arg-type]
    with pytest.raises(SlotkitError, match=r"`into` is a OrderedDict\. Give a network, an nn\.Module\."):
        slotkit.load(path, into=OwnNet().state_dict())  # type: ignore[arg-type]
    with torch.device("meta"):
        empty = OwnNet()
    with pytest.raises(
        SlotkitError, match=r"conv\.weight of this OwnNet has no memory yet\. Give the network"
    ):
        slotkit.load(path, into=empty)
    with pytest.raises(SlotkitError, match="has no memory yet"):
        slotkit.load(path, into=nn.LazyLinear(3))


class Odd(nn.Linear):
    def get_extra_state(self) -> str:
        return "words"

    def set_extra_state(self, state: str) -> None:
        pass


def test_what_can_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    model = OwnNet()
    model.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(
        SlotkitError, match=r"phase is of type torch\.complex64, which a slot file can't hold: it has"
    ):
        slotkit.save(path, slotkit.slotify(model, k=2))
    with pytest.raises(
        SlotkitError, match="Odd keeps _extra_state, which is no tensor, so it can't be written down"
    ):
        slotkit.save(path, slotkit.slotify(Odd(3, 3), k=2))
    deep: nn.Module = nn.ModuleDict({"a" * 300: nn.Linear(2, 2)})
    with pytest.raises(SlotkitError, match=r"This network can't be written down: reels\.0\.name is"):
        slotkit.save(path, slotkit.slotify(deep, k=2))
    for dtype in (torch.float32, torch.bfloat16):
        machine = slotkit.slotify(OwnNet().to(dtype), k=8)
        machine.model.get_parameter("full.weight").data[0, 0] += 1
        with pytest.raises(SlotkitError, match=r"The weights of full\.weight are not the selected options"):
            slotkit.save(path, machine, reading="in use")
    ended = slotkit.slotify(OwnNet(), k=8)
    ended.to_learned()
    with pytest.raises(SlotkitError, match="This slot machine has ended"):
        slotkit.save(path, ended)
    assert not path.exists()


def test_tensors_of_extra_state_are_kept(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        count = 0

        def get_extra_state(self) -> Tensor:
            return torch.tensor(self.count)

        def set_extra_state(self, state: Tensor) -> None:
            self.count = int(state)

    model = Counting(3, 3)
    model.count = 5
    slotkit.save(tmp_path / "x", slotkit.slotify(model, k=2))
    into = Counting(3, 3)
    slotkit.load(tmp_path / "x", into=into)
    assert into.count == 5
