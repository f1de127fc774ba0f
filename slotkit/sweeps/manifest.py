"""The manifest of a sweep, sweep.json: which runs are wanted, each by the key of its resolved configuration.

How far a run is stands in its own folder; the manifest has what no run folder can say: that a run is wanted,
under which name, and with which errors it failed. Only the process that trains the sweep writes it, and
whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from slotkit.data.identity import Identity
from slotkit.errors import is_text
from slotkit.files import write_text
from slotkit.runs.lock import LOCK
from slotkit.runs.schema import Count, Told, naming, read_json
from slotkit.settings import DataSettings
from slotkit.sweeps.plan import key_of
from slotkit.training.prepare import crops

MANIFEST = "sweep.json"

ADVICE = "Delete it: the same command writes it anew, and finds the runs that are there."

# Errors of a run that are kept, the newest.
KEPT_FAILURES = 10

# Bytes of a folder's name: with what is put around it while a parcel is unpacked, it has to stay below 255.
LONGEST_NAME = 200

# How deep lists and tables of a setting may lie in each other. Without a limit neither JSON nor tables for
# people can be written.
DEEPEST = 8


def _is_free(name: str) -> str:
    if name in (MANIFEST, LOCK):
        raise ValueError(f"{name} is a file of the sweep itself")
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"a folder's name has {LONGEST_NAME} bytes at most")
    return name


def _is_shallow(values: dict[str, Any]) -> dict[str, Any]:
    layer: list[Any] = [values]
    for _ in range(DEEPEST):
        layer = [inner for outer in layer for inner in (outer.values() if isinstance(outer, dict) else outer)]
        layer = [inner for inner in layer if isinstance(inner, dict | list)]
    if layer:
        raise ValueError(f"more than {DEEPEST} lists and tables lie in each other")
    return values


Key = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
FolderName = Annotated[str, Field(pattern=r"^[^./\\\x00][^/\\\x00]*$"), AfterValidator(_is_free)]


def _has_epochs(settings: dict[str, Any]) -> dict[str, Any]:
    epochs = settings.get("training.epochs", 1)
    if type(epochs) is not int or epochs < 1:
        raise ValueError(f"training.epochs of a run is {epochs!r:.60}, and no number of epochs")
    return settings


Values = Annotated[dict[str, Any], AfterValidator(_is_shallow)]


class _Record(Told):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Failure(_Record):
    """An attempt that failed.

    Attributes:
        when: the time (UTC).
        where: the machine and process.
        trace: the traceback of a fault that is no SlotkitError, or the last lines of a process that died.
    """

    when: str
    where: str
    error: str
    trace: str = ""


class Entry(_Record):
    """One run.

    Attributes:
        name: of its folder.
        settings: the resolved configuration, without what is at its default (`slotkit.sweeps.plan.deciding`).
        varied, seed: what tells it from the others, in words.
        wanted: whether the sweep still asks for it.
        peak: bytes that its process had at most.
    """

    name: FolderName
    settings: Annotated[Values, AfterValidator(_has_epochs)]
    varied: Values = Field({})
    seed: int | None = None
    wanted: bool = True
    failures: list[Failure] = Field([])
    peak: Count | None = None


class Manifest(_Record):
    """sweep.json.

    Attributes:
        id: another one for every sweep, by which machines know whether they see the same folder.
        source: where the runs were asked for.
        command: the one that asked for them, if it was one.
        data: what the data are, by name and picture size (`data_key`).
    """

    format: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    source: str
    command: str = ""
    runs: dict[Key, Entry]
    data: dict[str, Identity] = Field({})

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        for key, entry in self.runs.items():
            if key_of(entry.settings) != key:
                raise ValueError(f"the settings of {entry.name} are not those of its key {key}")
        names = [entry.name for entry in self.runs.values()]
        if len(set(names)) < len(names):
            raise ValueError("two of its runs have the same folder")
        return self


# Settings that decide the images of a run.
DECIDING = ("data.dataset", "data.size", "data.fit", "data.augment")


def data_key(settings: dict[str, Any]) -> str:
    """What decides the images of a run: dataset, picture size, and whether pictures are cropped to it."""
    told = {path.removeprefix("data."): settings[path] for path in DECIDING if path in settings}
    data = DataSettings.model_validate(told)
    size = "" if data.size is None else f" {data.size}"
    return f"{data.dataset}{size}{' crop' if crops(data) else ''}"


def read(place: Path) -> Manifest:
    """Raises SlotkitError if it is missing or damaged."""
    path = place / MANIFEST
    with naming(path, ADVICE):
        told = read_json(path)
        if not is_text(json.dumps(told, ensure_ascii=False)):
            raise ValueError("it has an escaped letter that is none (a surrogate)")
        return Manifest.model_validate(told)


def write(place: Path, manifest: Manifest) -> None:
    told = manifest.model_dump(mode="json")
    # Not pydantic's own JSON, in which numbers that are not finite become null: another key.
    write_text(place / MANIFEST, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
