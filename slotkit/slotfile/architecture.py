"""Which network a slot file is about, and its ordinary form: built from a name, options and sizes."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.models import create
from slotkit.models.registry import TIMM, check_types, is_a

# Elements of a network's parameters and buffers: 2**28 are 1 GiB in float32.
DEFAULT_LIMIT = 2**28
LARGEST_LIMIT = 2**31

Side = Annotated[int, Field(ge=1, le=4096)]
Option = bool | int | float | Annotated[str, Field(max_length=64)]

# A timm name is a function's name and perhaps a tag; other forms ("hf_hub:", "local-dir:") fetch things.
TIMM_NAME = re.compile(r"timm/[a-z0-9_]{1,80}(\.[a-z0-9_]{1,80})?")

# timm.create_model also takes paths, addresses and configurations. Only these say what to build.
TIMM_OPTIONS: dict[str, tuple[type, float, float]] = {
    "drop_rate": (float, 0, 1),
    "drop_path_rate": (float, 0, 1),
    "img_size": (int, 1, 1024),
    "patch_size": (int, 1, 1024),
    "global_pool": (str, 0, 16),
}


class Architecture(BaseModel):
    """A network without its weights: the arguments of `slotkit.models.create`. See `architecture`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field(max_length=170)
    options: dict[Annotated[str, Field(max_length=64)], Option] = Field({}, max_length=32)
    image: tuple[Side, Side, Side]
    classes: int = Field(ge=1, le=2**20)

    def build(self) -> nn.Module:
        """The ordinary network on the current default device, without touching the caller's random numbers.

        Raises SlotkitError for a name or an option that is not allowed, or sizes that do not fit.
        """
        check_safe(self)
        with torch.random.fork_rng(devices=[]):
            try:
                return create(self.model, self.image, self.classes, **self.options)
            except SlotkitError:
                raise
            # timm's constructors check little: an odd patch size may end in any of these.
            except (
                TypeError,
                ValueError,
                RuntimeError,
                ArithmeticError,
                LookupError,
                AttributeError,
            ) as fault:
                raise SlotkitError(
                    f"{self.model} can't be built with {dict(self.options)}: {fault}."
                ) from fault

    def outline(self, limit: int = LARGEST_LIMIT) -> Outline:
        """Names and shapes of the network's state, with nothing allocated.

        Raises SlotkitError as `build` does, and for more than `limit` elements.
        """
        with torch.device("meta"):
            model = self.build()
        elements = sum(map(Tensor.numel, [*model.parameters(), *model.buffers()]))
        if elements > limit:
            raise SlotkitError(
                f"{self.model} for images {tuple(self.image)} and {self.classes} classes has {elements:,} "
                f"elements, and the limit is {limit:,}. If you trust the file, pass "
                "slotkit.load(path, limit=...)."
            )
        return outline_of(self.model, model)


@dataclass(frozen=True)
class Outline:
    """What an ordinary network's state_dict looks like.

    Attributes:
        entries: name -> a tensor without memory, of the entry's shape and dtype.
        first: name -> the first name of the same tensor (itself, unless the tensor is tied).
        parameters: those names that are parameters, not buffers.
    """

    entries: Mapping[str, Tensor]
    first: Mapping[str, str]
    parameters: frozenset[str]

    @property
    def own(self) -> list[str]:
        """Every tensor once, by its first name."""
        return [name for name in self.entries if self.first[name] == name]


def architecture(
    model: str, image: tuple[int, int, int], classes: int, options: Mapping[str, Any] | None = None
) -> Architecture:
    """An `Architecture` for images of (channels, height, width) and that many classes.

    `options` are those of `slotkit.models.create`.

    Raises SlotkitError for a network or option that a slot file can't name.
    """
    try:
        made = Architecture(model=model, image=image, classes=classes, options=dict(options or {}))
    except ValidationError as fault:
        raise SlotkitError(f"This network can't be written down: {first_reason(fault)}.") from None
    check_safe(made)
    return made


def check_safe(wanted: Architecture) -> None:
    """Refuse names and options that could do more than build a network of known layers."""
    if not wanted.model.startswith(TIMM):
        check_types(wanted.model, wanted.options)
        return
    if not TIMM_NAME.fullmatch(wanted.model):
        raise SlotkitError(f"{wanted.model!r} is not timm/NAME with the plain name of a timm model.")
    for key, value in wanted.options.items():
        if key not in TIMM_OPTIONS:
            raise SlotkitError(
                f"{wanted.model} has the option {key!r}, which a slot file may not set, because some "
                f"options of timm fetch or read files. It may set {', '.join(TIMM_OPTIONS)}; "
                "weights.safetensors of `slotkit export` holds any network."
            )
        kind, low, high = TIMM_OPTIONS[key]
        size: Any = len(value) if isinstance(value, str) else value
        if not is_a(value, kind) or not low <= size <= high:
            raise SlotkitError(
                f"{wanted.model} has the option {key}={value!r}; a slot file takes a {kind.__name__} "
                f"{'of at most 16 letters' if kind is str else f'from {low} to {high}'} there."
            )


def ordinary_state(model: nn.Module, outline: Outline) -> dict[str, Tensor]:
    """The weights in use under the names of the ordinary network, contiguous on the CPU, each its own memory.

    Works for the dense form too, where a weight is computed from the scores.

    Raises SlotkitError if the model is not the network of the outline.
    """
    state = {}
    for name, entry in outline.entries.items():
        try:
            value: Any = functools.reduce(getattr, name.split("."), model)
        except AttributeError:
            raise SlotkitError(f"The model has no tensor {name}: it isn't the architecture given.") from None
        if not isinstance(value, Tensor) or value.shape != entry.shape:
            raise SlotkitError(
                f"{name} has shape {tuple(getattr(value, 'shape', ()))} in the model and "
                f"{tuple(entry.shape)} in the architecture given. Give the image shape, classes and options "
                "that the model was built with."
            )
        state[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return state


def first_reason(fault: ValidationError) -> str:
    """The first fault that pydantic found, as the part of a sentence, cut to a readable length."""
    error = fault.errors(include_url=False)[0]
    key = ".".join(str(part) for part in error["loc"])[:120] or "the text"
    came = repr(error["input"])
    shown = came if len(came) <= 60 else came[:60] + "..."
    return f"{key} is {shown}: {error['msg'][:1].lower()}{error['msg'][1:200]}"


def outline_of(name: str, model: nn.Module) -> Outline:
    """The outline of an ordinary network, on any device; `name` is for the error.

    Raises SlotkitError for a network whose state is not tensors only.
    """
    entries: dict[str, Any] = model.state_dict(keep_vars=True)
    odd = [key for key, value in entries.items() if not isinstance(value, Tensor)]
    if odd:
        raise SlotkitError(f"{name} keeps {', '.join(odd)}, which is no tensor, so it can't be written down.")
    firsts: dict[int, str] = {}
    first = {key: firsts.setdefault(id(value), key) for key, value in entries.items()}
    parameters = frozenset(key for key, value in entries.items() if isinstance(value, nn.Parameter))
    return Outline(entries, first, parameters)
