"""Every setting of a run: its type, its default, what it means and, once resolved, where it came from.

Every setting has a default. A recipe overrides defaults; `--set` and flags override the recipe. Overrides
are a flat mapping from dotted paths ("training.lr") to values. `resolve` lays them over the defaults in
order, checks the result and keeps where each value came from.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from slotkit.errors import SlotkitError
from slotkit.masks.sparse_settings import SparseSettings
from slotkit.section import Section

# A range of more seeds than these is a slip of the hand.
MOST_SEEDS = 10_000

# Names of `slotkit train` that are not the end of their setting's path.
_FLAGS = {"model": "model.name"}


def _plain_selection(value: Any, accepted: ValidatorFunctionWrapHandler) -> Any:
    """The paper writes GS and PS; the settings hold the plain names."""
    try:
        return accepted(value)
    except ValidationError as fault:
        from slotkit.selection import find_selection  # late, because it imports torch

        try:
            return find_selection(str(value))
        except SlotkitError:
            raise fault from None


def _joined(value: Any) -> Any:
    """A list of names is the same as these names with + between them."""
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return "+".join(value)
    return value


def _plain_init(value: Any) -> Any:
    """Runs of before have the former names of inits."""
    from slotkit.inits import plain_init  # late, because it imports numpy

    return plain_init(value)


class ModelSettings(Section):
    """The network."""

    name: str = Field(
        "lenet", description="network: lenet, conv2, conv4, conv6, vgg19, vgg-c, ... or timm/NAME"
    )
    options: dict[str, Any] = Field({}, description="options of that network, such as padding or bias")


class DataSettings(Section):
    """The dataset, and what is done to its images."""

    dataset: str = Field(
        "digits", description="dataset: digits, mnist, cifar10, ..., imagefolder:DIR, parquet:DIR"
    )
    dir: str | None = Field(None, description="where the datasets lie; default SLOTKIT_DATA, else ./data")
    download: bool = Field(False, description="fetch the dataset if it is missing")
    size: int | None = Field(None, ge=1, description="resize images to size x size pixels")
    validation: float | None = Field(
        None, ge=0.01, lt=1, description="share of the training images held out; default by dataset"
    )
    augment: Annotated[str, BeforeValidator(_joined)] = Field(
        "none",
        description="augmentation of training images: none, or names with + between them: resized-crop, "
        "randaugment, flip, flip-crop, mixup",
    )
    fit: Literal["auto", "stretch", "crop"] = Field(
        "auto",
        description="with data.size, pictures of one's own are stretched, or their middle is taken (crop); "
        "auto: crop where training takes a resized-crop",
    )
    memory: float = Field(
        1.0,
        ge=0,
        description="GiB that decoded pictures of one's own may take; more are read while they are used",
    )
    workers: int | None = Field(
        None, ge=0, le=256, description="processes that read pictures ahead then; default by cores"
    )
    mean: tuple[float, ...] | None = Field(None, description="subtracted per channel (pixels in 0..1)")
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(None, description="divided by, per channel")


class SlotSettings(Section):
    """The slot machine."""

    k: int = Field(8, ge=1, description="options a connection")
    selection: Annotated[Literal["greedy", "probabilistic"], WrapValidator(_plain_selection)] = Field(
        "greedy", description="greedy (GS) or probabilistic (PS)"
    )
    sharing: Literal["none", "layer", "channel", "network"] = Field(
        "none", description="which connections share K options"
    )
    symmetric: bool = Field(False, description="options in pairs +v, -v (even K)")
    kind: str | None = Field(None, description="kind of options: mask has 0 and K - 1 values; see kinds.py")
    share: float | None = Field(
        None, gt=0, le=1, description="kind mask: share of each tensor that is not 0 (edge-popup)"
    )
    init: Annotated[
        Literal[
            "glorot-uniform",
            "glorot-deviation",
            "deviation-options-uniform-scores",
            "uniform-options-deviation-scores",
            "kaiming-uniform",
            "kaiming-normal",
            "kaiming-constant",
        ],
        BeforeValidator(_plain_init),
    ] = Field("glorot-uniform", description="distribution of options and initial scores")
    update: Literal["all", "selected"] = Field(
        "all", description="scores that get a gradient: all K, or the selected"
    )
    form: Literal["auto", "latent", "dense"] = Field(
        "auto",
        description="latent: one number a connection; dense: K scores; auto: dense if it has to be",
    )
    engine: str = Field("auto", description="engine of the latent form: auto, or its name")
    tables: Literal["auto", "stored", "recomputed"] = Field(
        "auto", description="latent form: keep options and scores, or recompute them when needed"
    )
    others: Literal["frozen", "trained", "kept"] = Field(
        "frozen", description="what becomes of the non-slot parameters (biases, norms)"
    )
    where: tuple[str, ...] | None = Field(
        None, description="names or patterns of the weights that become reels"
    )


class TrainingSettings(Section):
    """How it is trained."""

    epochs: int = Field(30, ge=1, description="epochs of training")
    batch_size: int = Field(128, ge=1, description="images a step, of all processes together")
    accumulate: int = Field(
        1,
        ge=1,
        description="pieces in which a step takes its batch, one after the other or by several processes",
    )
    lr: float = Field(0.1, gt=0, description="learning rate, per step")
    optimizer: Literal["sgd", "adam"] = Field(
        "sgd", description="adam: Adam on the latents (beyond the paper), AdamW on learned weights"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD; Adam has its own")
    nesterov: bool = Field(False, description="Nesterov's form of momentum, of SGD")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty; in a slot machine it acts on the scores")
    schedule: Literal["constant", "multistep", "cosine", "restarts"] = Field(
        "constant", description="learning rate over time"
    )
    milestones: tuple[int, ...] = Field(
        (), description="multistep: epochs at which lr is multiplied by gamma"
    )
    gamma: float = Field(0.1, gt=0, description="multistep: the factor")
    restart_epochs: tuple[int, ...] = Field(
        (), description="restarts: epochs at which the cosine starts anew (SGDR)"
    )
    min_lr: float = Field(0.0, ge=0, description="cosine and restarts: where each cosine ends")
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a better validation"
    )
    precision: Literal["fp32", "bf16", "fp64"] = Field(
        "fp32", description="bf16: autocast, and channels_last for images; fp64: for comparisons"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    deterministic: bool = Field(False, description="refuse operations without a deterministic form")
    limit_batches: int | None = Field(None, ge=1, description="end every epoch after so many batches")
    log_every: int = Field(50, ge=1, description="steps between two loss entries of metrics.jsonl")

    @field_validator("milestones", "restart_epochs")
    @classmethod
    def _epochs_rise(cls, epochs: tuple[int, ...]) -> tuple[int, ...]:
        if list(epochs) != sorted(set(epochs)) or any(epoch < 1 for epoch in epochs):
            raise ValueError("it should be epochs from 1 up in rising order")
        return epochs


class RecordingSettings(Section):
    """What a run keeps."""

    trace: Literal["summary", "full", "off"] = Field(
        "summary", description="flight recorder: counts and statistics, every flip too, or nothing"
    )
    every: int = Field(100, ge=2, description="steps between two statistics of the latents in the trace")
    checkpoint_epochs: int = Field(1, ge=1, description="epochs between two checkpoints to resume from")
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="minutes after which a checkpoint is also written within an epoch"
    )
    keep_last: int = Field(
        2,
        ge=1,
        le=100,
        description="checkpoints to resume from that are kept, the newest included",
    )
    keep_epochs: tuple[int, ...] = Field((), description="epochs whose checkpoints are kept")
    loggers: tuple[str, ...] = Field(
        (), description="where the numbers go beside the run folder: tensorboard, wandb, mlflow"
    )


class SeedSettings(Section):
    """From which all random numbers are computed."""

    reels: int = Field(0, ge=0, lt=2**63, description="options, initial scores and draws")
    data: int = Field(0, ge=0, lt=2**63, description="validation split, order and augmentation of images")
    training: int = Field(0, ge=0, lt=2**63, description="dropout, and PyTorch's own initial weights")


class EvaluationSettings(Section):
    """How a network is evaluated."""

    ps: Literal["greedy", "sample", "last"] = Field(
        "greedy", description="PS: which reading of the network selects the best checkpoint"
    )
    draws: int = Field(5, ge=1, description="PS: networks drawn for the sampled reading")
    keep_dropout: bool = Field(False, description="leave dropout on in evaluation (the CENG501 code does)")
    batch_size: int | None = Field(
        None,
        ge=1,
        description="images at once; default 512, of large images as many as a piece of a step has",
    )


class Config(Section):
    """All settings of a run: config.toml."""

    method: Literal["slot", "learned"] = Field(
        "slot", description="slot machine, or ordinary learned weights"
    )
    learned_init: Literal["reels", "torch"] = Field(
        "reels", description="learned weights start as one of the K options each, or as PyTorch has it"
    )
    learned_others: Literal["trained", "frozen", "kept"] = Field(
        "trained", description="learned weights: what becomes of biases and norms beside them"
    )
    mask: str | None = Field(
        None, description="learned weights: a mask file; connections outside of it are 0 and stay so"
    )
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    slots: SlotSettings = SlotSettings()
    sparse: SparseSettings = SparseSettings()
    training: TrainingSettings = TrainingSettings()
    seeds: SeedSettings = SeedSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    recording: RecordingSettings = RecordingSettings()

    @property
    def form(self) -> str:
        """The form of a slot machine, with "auto" decided."""
        if self.slots.form != "auto":
            return self.slots.form
        dense = self.slots.update == "selected" or self.slots.share is not None
        return "dense" if dense else "latent"

    @property
    def probabilistic(self) -> bool:
        """Whether training samples its weights."""
        return self.method == "slot" and self.slots.selection == "probabilistic"


@dataclass(frozen=True)
class Overrides:
    """Some settings and where they come from ("recipe paper-lenet-greedy", "--lr")."""

    origin: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """A checked configuration and the origin of every value that is not a default."""

    config: Config
    origins: Mapping[str, str]

    def explain(self) -> list[tuple[str, Any, str]]:
        """Every setting as (path, value, origin)."""
        return [
            (path, value, self.origins.get(path, "default"))
            for path, value in flatten(self.config.model_dump())
        ]


def flatten(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables -> (dotted path, value)."""
    for key, value in tables.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and (value or path != "model.options"):
            yield from flatten(value, f"{path}.")
        elif not isinstance(value, Mapping):
            yield path, value


def resolve(overrides: Sequence[Overrides]) -> Resolved:
    """Lay `overrides` over the defaults, later ones over earlier ones, and check the result.

    Raises SlotkitError with one sentence for the first setting that is wrong, naming its origin.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for given in overrides:
        for path, value in given.values.items():
            check_path(path, given.origin)
            values[path], origins[path] = value, given.origin
    try:
        return Resolved(Config.model_validate(nest(values)), origins)
    except ValidationError as fault:
        raise SlotkitError(_sentence(fault, origins)) from None


def parse_assignment(
    text: str, flag: str = "--set", example: str = "a.b=value, such as training.lr=0.2"
) -> Overrides:
    """ "training.lr=0.2" -> overrides; the value is read as TOML, and as plain text where it is none."""
    import tomllib

    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise SlotkitError(f"{flag} {text} is not of the form {example}.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return Overrides(f"{flag} {path.strip()}", {path.strip(): parsed})


def parse_seeds(text: str) -> list[int]:
    """ "0,1,2" and "0-2" -> the seeds of repetitions."""
    try:
        seeds = [seed for part in text.split(",") for seed in _seeds_in(part)]
    except ValueError:
        raise SlotkitError(
            f"--seeds {text} is not a list of integers such as 0,1,2, or a range such as 0-4."
        ) from None
    if len(set(seeds)) < len(seeds):
        raise SlotkitError(f"--seeds {text} has a seed twice: the runs would be equal.")
    return seeds


def _seeds_in(part: str) -> Sequence[int]:
    """One seed, or those from the first of a range to its last."""
    first, dash, last = part.partition("-")
    if not dash:
        return [int(part)]
    seeds = range(int(first), int(last) + 1)
    if not 0 < len(seeds) <= MOST_SEEDS:
        raise ValueError
    return seeds


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path -> value, as nested tables."""
    tables: dict[str, Any] = {}
    for path, value in values.items():
        *parents, key = path.split(".")
        table = tables
        for parent in parents:
            table = table.setdefault(parent, {})
        table[key] = value
    return tables


@cache
def setting_paths() -> tuple[str, ...]:
    """The dotted path of every setting."""
    return tuple(path for path, _ in flatten(Config().model_dump()))


def full_path(name: str) -> str:
    """ "k" -> "slots.k"; a path, and what is no setting at all, as it is."""
    return _short_names().get(name, name)


def short_name(path: str) -> str:
    """The reverse: "slots.k" -> "k"."""
    return next((name for name, whole in _short_names().items() if whole == path), path)


@cache
def _short_names() -> dict[str, str]:
    ends = Counter(path.rpartition(".")[2] for path in setting_paths())
    tables = {name for name, _ in Config()}
    return _FLAGS | {
        end: path
        for path in setting_paths()
        if "." in path and ends[end := path.rpartition(".")[2]] == 1 and end not in tables
    }


def check_path(path: str, origin: str) -> None:
    """Raise SlotkitError with the nearest names if there is no such setting."""
    known = setting_paths()
    if path in known or path.startswith("model.options."):
        return
    last = path.rpartition(".")[2]
    near = [other for other in known if other.rpartition(".")[2] == last]
    near += [other for other in difflib.get_close_matches(path, known, n=3, cutoff=0.5) if other not in near]
    hint = f" Near it: {', '.join(near)}." if near else " `slotkit train --show-config` lists them all."
    raise SlotkitError(f"{path} (from {origin}) is not a setting.{hint}")


def _sentence(fault: ValidationError, origins: Mapping[str, str]) -> str:
    error = fault.errors()[0]
    keys = [str(part) for part in error["loc"]]
    path = next(
        (".".join(keys[:n]) for n in range(len(keys), 0, -1) if ".".join(keys[:n]) in origins),
        ".".join(keys),
    )
    reason = error["msg"].removeprefix("Value error, ").replace("Input should", "it should", 1)
    origin = f" (from {origins[path]})" if path in origins else ""
    return f"{path}{origin} is {error['input']!r}, but {reason}."
