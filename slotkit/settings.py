"""The tables of settings, such as [training]: of each setting its type, its default and what it means."""

from __future__ import annotations

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
from slotkit.section import Section


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
    keep_epochs: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="epochs whose checkpoints are kept"
    )
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
