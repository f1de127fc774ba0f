"""What a run leaves for others: ordinary weights, the portable slot file, ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from slotkit import slotfile
from slotkit.config import Config, Overrides, resolve
from slotkit.errors import SlotkitError
from slotkit.files import unwritable, write_whole
from slotkit.models import OWN, create
from slotkit.recording.replay import channel_dims_of
from slotkit.runs.fingerprint import load
from slotkit.runs.folder import RunFolder
from slotkit.runs.schema import naming
from slotkit.slotfile.architecture import ordinary_state, outline_of
from slotkit.slotfile.writing import refusal
from slotkit.standin import stand_in
from slotkit.training.prepare import fill_from_source, own_mask, own_settings, reopen
from slotkit.training.trainee import Trainee, build

WEIGHTS, SLOT_FILE, ONNX = "weights.safetensors", "model.slot.safetensors", "model.onnx"

_LEARNED = "learned weights are not selected from a seed's options."

# What tells of the network in the headers of the first and the last.
KEY = "slotkit_network"


@dataclass(frozen=True)
class Export:
    """The files written.

    Attributes:
        folder: where they lie.
        files: name -> bytes.
        dense_bytes: the ordinary tensors alone, to compare with.
        connections: weights selected among options; for learned weights, all parameters (of a network of
            one's own, buffers of floating point too).
        index_bytes: the coded indices in the slot file; None where there is none.
        reading: "greedy" or "learned".
        network: what the headers of weights.safetensors and model.onnx say: the network's name, options,
            image shape and number of classes, "mean" and "std" of its inputs, and "class_names", None where
            the dataset has none. None of a network of one's own.
        earlier: files of an earlier export that lie in the folder still; this one has not written them.
        into: whether the slot file names no network, so that `slotkit.load` needs one to load it into.
        without: why there is no slot file; None if there is one.
    """

    folder: Path
    files: Mapping[str, int]
    dense_bytes: int
    connections: int
    index_bytes: int | None
    reading: str
    network: Mapping[str, Any] | None = None
    earlier: tuple[str, ...] = ()
    into: bool = False
    without: str | None = None

    @property
    def inputs(self) -> str:
        """What the network takes, in words; empty for a network of one's own."""
        if self.network is None:
            return ""
        mean, std = (_numbers(self.network[name]) for name in ("mean", "std"))
        return "pixels / 255" + (f", minus {mean}, divided by {std}" if mean and std else "")

    def bits(self, name: str) -> float:
        """Bits a connection of a whole file."""
        return 8 * self.files[name] / self.connections

    def ratio(self, name: str) -> float:
        """How many times smaller a file is than the ordinary tensors."""
        return self.dense_bytes / self.files[name]

    def as_dict(self) -> dict[str, Any]:
        """For a script."""
        files = {
            name: {"bytes": size, "bits_per_connection": self.bits(name), "ratio": self.ratio(name)}
            for name, size in self.files.items()
        }
        return {
            "folder": str(self.folder),
            "reading": self.reading,
            "connections": self.connections,
            "dense_bytes": self.dense_bytes,
            "index_bytes": self.index_bytes,
            "network": self.network,
            "files": files,
            "earlier": list(self.earlier),
        }


def export(
    folder: RunFolder,
    which: str = "best",
    out: Path | None = None,
    onnx: bool = False,
    data_dir: str | None = None,
    report: slotfile.Share = slotfile.silent,
) -> Export:
    """Write the network of a checkpoint ("best" or "last") into RUN/export, or into `out`.

    weights.safetensors is the ordinary state_dict, for plain PyTorch. model.slot.safetensors is the
    seed and the selected indices, for `slotkit.load`; learned weights have none, and neither have options
    that no file can tell (`Export.without` says why). Under probabilistic
    selection it is the greedy reading in every file. model.onnx, if asked for, takes images
    (n, channels, height, width) and gives logits (n, classes), n free.

    The data are not needed: the run's data.json says what the network takes and gives.

    Args:
        data_dir: where the data of a run from before there was a data.json lie now.
        report: called with the share of the slot file that is coded, 0 to 1.

    Raises:
        SlotkitError: no such checkpoint, a data folder that is not needed or lacks the data, a network that
            can't be written down, the packages of ONNX missing, or a folder that can't be written.
    """
    if folder.config().model.name == OWN:
        return _export_own(folder, which, out, onnx, report)
    if onnx:
        _check_onnx()
    of = _rebuild(folder, which, data_dir)
    place = _made(folder, out)
    trainee, image, classes, config = of.trainee, of.image, of.classes, of.config.model
    with torch.device("meta"):
        outline = outline_of(config.name, create(config.name, image, classes, **config.options))
    with nullcontext() if trainee.machine is None else trainee.machine.using("greedy"):
        state = ordinary_state(trainee.model, outline)
    about = _about(of)
    header = {"format": "pt", KEY: json.dumps(about)}
    write_whole(place / WEIGHTS, lambda path: save_file(state, path, metadata=header))
    dense = sum(value.numel() * value.element_size() for name, value in state.items() if name in outline.own)
    connections, index_bytes = sum(p.numel() for p in trainee.model.parameters()), None
    names, into = [WEIGHTS], False
    without = _LEARNED if trainee.machine is None else refusal(trainee.machine)
    if trainee.machine is not None and without is None:
        described = _described(of)
        into = described is None
        sizes = slotfile.save(place / SLOT_FILE, trainee.machine, described, report=report)
        connections, index_bytes = sizes.connections, sizes.index_bytes
        names.append(SLOT_FILE)
    if onnx:
        network = create(config.name, image, classes, **config.options).to(trainee.dtype)
        write_whole(place / ONNX, lambda path: _write_onnx(network, state, about, path))
        names.append(ONNX)
    files = {name: (place / name).stat().st_size for name in names}
    reading = "learned" if trainee.machine is None else "greedy"
    made = place, files, dense, connections, index_bytes, reading, about
    return Export(*made, earlier=_earlier(place, names), into=into, without=without)


def _described(of: _Rebuilt) -> slotfile.Architecture | None:
    """What a slot file says of the network. Without it the file is loaded into a network that is there: one
    of fp64, because a file with an architecture has float32 weights, or one of timm with options that a file
    may not name.
    """
    if of.trainee.dtype != torch.float32:
        return None
    try:
        return slotfile.architecture(of.config.model.name, of.image, of.classes, of.config.model.options)
    except SlotkitError:
        return None


def _about(of: _Rebuilt) -> dict[str, Any]:
    """What a program without slotkit has to know to use the network."""
    return {
        "model": of.config.model.name,
        "options": of.config.model.options,
        "image": list(of.image),
        "classes": of.classes,
        "mean": of.config.data.mean,
        "std": of.config.data.std,
        "class_names": of.names,
    }


def _numbers(values: Sequence[float] | None) -> str:
    return " ".join(f"{value:g}" for value in values or ())


def _earlier(place: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Files of other exports in the folder, which may be of another checkpoint or run."""
    return tuple(name for name in (WEIGHTS, SLOT_FILE, ONNX) if name not in names and (place / name).exists())


def _made(folder: RunFolder, out: Path | None) -> Path:
    place = out if out is not None else folder.path / "export"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise unwritable(place, fault) from fault
    return place


def _export_own(
    folder: RunFolder, which: str, out: Path | None, onnx: bool, report: slotfile.Share
) -> Export:
    """From the checkpoint alone: slotkit does not have the class of the network."""
    if onnx:
        raise SlotkitError(
            f"The network of {folder.name} is one's own, and --onnx needs the network itself. Load the slot "
            "file into it (slotkit.load(path, into=model)), and use torch.onnx.export."
        )
    state, _ = load(folder, which)
    if "settings" not in state:
        with naming(folder.checkpoint(which), "Use another one, or train again."):
            weights: dict[str, Tensor] = state["weights"]
        place = _made(folder, out)
        files = {WEIGHTS: _write_weights(place, weights)}
        dense = sum(value.numel() * value.element_size() for value in weights.values())
        count = sum(value.numel() for value in weights.values() if value.is_floating_point())
        earlier = _earlier(place, [WEIGHTS])
        return Export(place, files, dense, count, None, "learned", earlier=earlier, without=_LEARNED)
    with naming(folder.checkpoint(which), "Use another one, or record again."):
        machine = stand_in(state, channel_dims_of(folder))
    place = _made(folder, out)
    sizes = slotfile.save(place / SLOT_FILE, machine, report=report)
    size = _write_weights(place, machine.to_learned().state_dict())
    files = {WEIGHTS: size, SLOT_FILE: (place / SLOT_FILE).stat().st_size}
    made = sizes.dense_bytes, sizes.connections, sizes.index_bytes, "greedy"
    return Export(place, files, *made, earlier=_earlier(place, list(files)), into=True)


def _write_weights(place: Path, state: Mapping[str, Tensor]) -> int:
    """Write an ordinary state_dict; the size of the file. A file has no ties: each name has its own copy."""
    ordinary = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    write_whole(place / WEIGHTS, lambda path: save_file(ordinary, path, metadata={"format": "pt"}))
    return (place / WEIGHTS).stat().st_size


@dataclass(frozen=True)
class _Rebuilt:
    """A run's network with the state of a checkpoint, on the CPU, and what its data were.

    Attributes:
        image: channels, height, width.
        classes: how many; names: theirs, None where the dataset has none.
    """

    config: Config
    trainee: Trainee
    image: tuple[int, int, int]
    classes: int
    names: list[str] | None


def _rebuild(folder: RunFolder, which: str, data_dir: str | None) -> _Rebuilt:
    here = Overrides("slotkit export", {"training.device": "cpu", "slots.engine": "auto"})
    resolved, data = resolve([own_settings(folder), here]), folder.data()
    state, _ = load(folder, which)
    if data is not None and data_dir is not None:
        raise SlotkitError(
            f"The run {folder.name} has a data.json, so its export needs no data. Leave --data-dir out."
        )
    if data is None:
        place = [] if data_dir is None else [Overrides("--data-dir", {"data.dir": data_dir})]
        prepared = reopen(folder, resolve([own_settings(folder), here, *place]))
        resolved, data, trainee = prepared.resolved, prepared.identity, prepared.trainee
    else:
        resolved = fill_from_source(resolved)
        trainee = build(resolved.config, data.shape, data.class_count, own_mask(folder))
    with naming(folder.checkpoint(which), "Use another one, or train again."):
        trainee.load(state)
    return _Rebuilt(resolved.config, trainee, data.shape, data.class_count, data.classes)


def _check_onnx() -> None:
    missing = [package for package in ("onnx", "onnxscript") if find_spec(package) is None]
    if missing:
        raise SlotkitError(
            f"--onnx needs {' and '.join(missing)}, which this Python doesn't have. Install with "
            "`pip install slotkit[onnx]`, or leave --onnx out."
        )


def _write_onnx(
    network: nn.Module, state: Mapping[str, Tensor], about: Mapping[str, Any], path: Path
) -> None:
    network.load_state_dict(state)
    program = torch.onnx.export(
        network.eval(),
        (torch.zeros(2, *about["image"], dtype=next(network.parameters()).dtype),),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[KEY] = json.dumps(about)
    program.save(path, external_data=False)  # one file
