"""What the text files of a run have to look like. Keys that are not known here may be there, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slotkit.errors import SlotkitError
from slotkit.reel import ReelSettings
from slotkit.slotfile.architecture import first_reason

# No text of a run but metrics.jsonl grows with the training.
LARGEST_TEXT = 64 << 20


class Told(BaseModel):
    """No conversions; a number is finite where nothing else is said."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Reading(Told):
    """`slotkit.training.evaluation.Reading.as_dict`. The loss may be infinite or no number."""

    accuracy: Finite
    spread: Finite | None = None
    n: Positive = 1
    loss: float = 0.0


class Row(Told):
    """One network of a comparison."""

    network: str
    slot_epochs: Count
    epochs: Count
    validation: Reading
    test: Reading


class Sparse(Told):
    """What became of a mask that changes: how often it was updated, and R_s."""

    density: Fraction
    updates: Count
    explored: Fraction


class Summary(Told):
    """summary.json of a run or of a comparison."""

    status: Annotated[str, Field(pattern=r"^[a-z]+$", max_length=40)]
    kind: str | None = None
    name: str | None = None
    reason: str | None = None
    epochs: Count = 0
    steps: Count = 0
    logged: dict[str, float] = {}
    best_epoch: Count | None = None
    seconds: Seconds = 0.0
    sparse: Sparse | None = None
    validation: dict[str, Reading] = {}
    test: dict[str, dict[str, Reading]] = {}
    table: list[Row] = []

    @model_validator(mode="after")
    def _finished_is_whole(self) -> Self:
        if self.status == "finished" and self.kind != "recorded" and not self.test.get("best"):
            raise ValueError("a finished run has a reading of its best network")
        return self


class Environment(Told):
    """Where a run was made: plain values, by name."""

    __pydantic_extra__: dict[str, str | int | float | bool]


class RecordedTable(Told):
    """What `slotkit.record` was told of a loop that is not slotkit's own."""

    network: str
    optimizer: str
    init: str
    channel_dims: dict[str, Annotated[int, Field(ge=0, le=1)]]
    config: dict[str, Any] = {}


class Tables(BaseModel):
    """What config.toml has beside the settings."""

    model_config = ConfigDict(strict=True, extra="ignore")

    origins: dict[str, str] = {}
    environment: Environment = Environment()
    parent: dict[str, str | int | list[str] | list[int]] | None = None
    recorded: RecordedTable | None = None


class StepEntry(Told):
    """A line of metrics.jsonl: one step."""

    kind: Literal["step"]
    epoch: Positive = 1
    step: Positive = 1
    lr: float = 0.0
    loss: float = 0.0


class Validation(Reading):
    """A reading that says which."""

    reading: str


class EpochEntry(Told):
    """A line of metrics.jsonl: one epoch."""

    kind: Literal["epoch"]
    epoch: Positive
    step: Positive
    lr: float
    loss: float
    validation: Validation
    best: bool


class MaskEntry(Told):
    """A line of metrics.jsonl: an update of a mask that changes."""

    kind: Literal["mask"]
    epoch: Positive
    step: Positive
    rate: Fraction
    dropped: Count
    new: Count
    explored: Fraction


class LogEntry(Told):
    """A line of metrics.jsonl: numbers that a loop of one's own has logged."""

    kind: Literal["log"]
    step: Count
    values: dict[str, float]


ENTRIES: dict[str, type[StepEntry] | type[EpochEntry] | type[MaskEntry] | type[LogEntry]] = {
    "step": StepEntry,
    "epoch": EpochEntry,
    "mask": MaskEntry,
    "log": LogEntry,
}


class Header(Told):
    """What a checkpoint has in its header: the tree is a JSON text, and the checksum covers it."""

    format: int
    checksum: str
    tree: str


class Best(Told):
    """Which best network belongs to a checkpoint."""

    epoch: Positive
    checksum: Checksum


class About(Told):
    """What a checkpoint says about itself; those of before say less."""

    step: Count = 0
    epoch: Count = 0
    epochs: Count | None = None
    metrics_bytes: Count | None = None
    metrics_digest: Checksum | None = None
    best: Best | None = None
    settings: dict[str, Any] | None = None
    data: Checksum | None = None


class Recorded(Told):
    """What a checkpoint says of its trace: the chunks that are finished, and where the next begins."""

    first: Positive
    written: list[tuple[Positive, Count, Checksum]] | None = None


class TraceTensor(Told):
    """One tensor of a trace."""

    shape: list[Annotated[int, Field(ge=1, le=2**31)]] = Field(min_length=2, max_length=8)
    channel_dim: int = Field(0, ge=0, le=1)


class TraceAbout(Told):
    """trace/about.json."""

    format: Literal[1, 2, 3]
    levels: list[Fraction] = Field(min_length=1, max_length=1000)
    run: str = ""
    level: Literal["summary", "full"]
    selection: Literal["greedy", "probabilistic"]
    form: Literal["dense"] | None = None
    start: Checksum | None = None
    reading: Literal["greedy"] | None = None
    sample: Positive | None = None
    every: Positive
    k: int = Field(ge=1, le=2**24)
    reels: dict[str, Any] | None = None
    tensors: dict[str, TraceTensor] = Field(min_length=1, max_length=2**16)

    @model_validator(mode="after")
    def _reading_agrees(self) -> Self:
        if (self.form is not None) != (self.format == 3):
            raise ValueError(f"format {self.format} and the form {self.form} don't go together")
        if self.form is None and (self.reading is not None) != (self.format == 2):
            raise ValueError(f"format {self.format} and the reading {self.reading} don't go together")
        if self.reading is not None and self.selection == "greedy":
            raise ValueError("it has a reading, which greedy selection needs none of")
        if (self.sample is not None) != (self.reading is not None and self.level == "summary"):
            raise ValueError(f"{self.sample} as the sample of its reading does not go with its level")
        return self

    @model_validator(mode="after")
    def _reels_agree(self) -> Self:
        if self.reels is not None:
            told = self.reels
            if set(told) - {"kind"} != {"k", "seed", "init", "sharing", "symmetric"}:
                raise ValueError("reels has other names than the settings of reels")
            if told["k"] != self.k or type(told["k"]) is not int or type(told["seed"]) is not int:
                raise ValueError("k and seed of the reels are not its own")
            if not isinstance(told["init"], str) or not isinstance(told["symmetric"], bool):
                raise ValueError("the reels have no init by name, or symmetric is not true or false")
            # The sentences of ReelSettings say what else is wrong; an init of one's own is looked at later.
            ReelSettings(
                self.k, told["seed"], "glorot-uniform", told["sharing"], told["symmetric"], told.get("kind")
            )
        return self


@contextmanager
def naming(path: Path, advice: str, words: str = "can't be read") -> Iterator[None]:
    """Turn whatever goes wrong while `path` is read, damaged as it may be, into a sentence that names it.

    The sentence is "PATH WORDS: REASON. ADVICE"; an error that names the file already passes through.
    """
    try:
        yield
    except Exception as fault:
        if isinstance(fault, SlotkitError) and str(path) in str(fault):
            raise
        reason = first_reason(fault) if isinstance(fault, ValidationError) else str(fault)
        shown = " ".join(reason.split()).rstrip(".") or type(fault).__name__
        shown = shown if len(shown) <= 300 else shown[:300] + "..."
        raise SlotkitError(f"{path} {words}: {shown}. {advice}") from fault


def read_text(path: Path) -> str:
    """A whole text, if it is not absurdly long. Called where `naming` is."""
    size = path.stat().st_size
    if size > LARGEST_TEXT:
        raise ValueError(f"it has {size:,} bytes, and the most is {LARGEST_TEXT:,}")
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """A JSON file. Called where `naming` is."""
    return json.loads(read_text(path))
