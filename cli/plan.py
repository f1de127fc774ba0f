"""slotkit plan."""

from __future__ import annotations

from dataclasses import asdict
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.options import AsJson, ModelFactory
from slotkit.cli.output import print_json
from slotkit.cli.table import table

from slotkit.errors import SlotkitError

if TYPE_CHECKING:
    from slotkit.planning import Alike, Plan

# Of sentences; tables fit the terminal.
WIDTH = 80


def plan(
    model: Annotated[str | None, typer.Option(help="lenet, conv2, conv4, conv6, vgg19 or timm/NAME.")] = None,
    model_factory: ModelFactory = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="A=V", help="An option of the network, such as patch_size=8. Repeatable."),
    ] = None,
    k: Annotated[int, typer.Option(help="Options a connection.")] = 8,
    selection: Annotated[str, typer.Option(help="greedy (GS) or probabilistic (PS).")] = "greedy",
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="A name or pattern of weights that become reels. Repeatable. Default: all there are."
        ),
    ] = None,
    others: Annotated[str, typer.Option(help="Biases and norms: frozen, trained or kept.")] = "frozen",
    image: Annotated[
        str | None,
        typer.Option(metavar="CxHxW", help="An image, such as 3x224x224. Default: the network's own."),
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="How many classes.")] = None,
    every: Annotated[
        bool, typer.Option("--every", help="A line for each tensor, not for each kind.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Which tensors of a network become reels, which stay and why, and what a slot machine of it costs.

    Nothing is trained or measured: bytes follow from shapes, and the time of a step is an estimate.
    """
    from slotkit.config import parse_assignment
    from slotkit.models import OWN
    from slotkit.planning import Alike, plan_named

    if (model is None) == (model_factory is None):
        raise SlotkitError(
            "Give --model NAME, such as timm/resnet18, or --model-factory package.module:function."
        )
    shape = None if image is None else _shape(image)
    given = [parse_assignment(text, "--option", "a=value, such as patch_size=8") for text in option or ()]
    options = {name: value for one in given for name, value in one.values.items()}
    found, shape, count = plan_named(
        model or OWN, k, shape, classes, selection, where or None, others, options
    )
    about = {"model": model or model_factory, "image": list(shape), "classes": count}
    if as_json:
        print_json(
            {**about, **asdict(found), "connections": found.connections, "parameters": found.parameters}
        )
        return
    title = f"{about['model']}, images of {'x'.join(map(str, shape))}, {count} classes, K = {found.k}"
    print(fill(f"{title}, {found.selection} selection", WIDTH) + "\n")
    kinds = found.alike()
    if every:
        kinds = [Alike(tensor.name, (tensor,)) for tensor in found.tensors]
    reels = [one for one in kinds if one.tensors[0].becomes == "reel"]
    print(table(("becomes reels", "n", "shape", "fan in", "fan out", "what"), map(_reel, reels)))
    stays = [one for one in kinds if one not in reels]
    if stays:
        print("\n" + table(("stays", "n", "shape", "of", f"others={others}"), map(_other, stays)))
    _print_costs(found)


def _reel(one: Alike) -> tuple[Any, ...]:
    first = one.tensors[0]
    assert first.fans is not None
    fans = first.fans.fan_in, first.fans.fan_out
    return one.name, len(one.tensors), _times(first.shape), *fans, f"{first.layer}: {first.why}"


def _other(one: Alike) -> tuple[Any, ...]:
    first = one.tensors[0]
    return one.name, len(one.tensors), _times(first.shape), first.layer, first.why


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1"


def _print_costs(found: Plan) -> None:
    share = found.connections / found.parameters
    print(f"\n{found.connections:,} of {found.parameters:,} parameters become reels ({100 * share:.1f} %).")
    rows: list[tuple[Any, ...]] = [
        (one.form, *map(_size, (one.weights, one.gradients, one.state, one.total))) for one in found.memory
    ]
    print("\n" + table(("in training, momentum", "weights", "gradients", "state", "sum"), rows))
    print(
        f"\nslot file: at most {_size(found.slot_file)}; the ordinary tensors are {_size(found.dense_file)}"
    )
    step = f"not estimated, because {found.why_no_step}" if found.step is None else str(found.step)
    print(fill(f"step: {step}", WIDTH))


def _size(value: int) -> str:
    return f"{value / 1e6:,.1f} MB" if value >= 100_000 else f"{value / 1e3:,.1f} kB"


def _shape(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(number) for number in text.split("x"))
    except ValueError:
        channels = 0
    if channels < 1 or min(height, width) < 1:
        raise SlotkitError(f"--image {text} is not the shape of an image, such as 3x224x224.")
    return channels, height, width
