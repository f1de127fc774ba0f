"""slotkit bench."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.options import DATA_DIR, AsJson
from slotkit.cli.output import print_json
from slotkit.cli.table import table

if TYPE_CHECKING:
    from slotkit.benchmark import Row


def bench(
    model: Annotated[
        str, typer.Option(help="lenet, conv2, conv4, conv6, vgg19, vgg-c, ... or timm/NAME.")
    ] = "lenet",
    k: Annotated[str, typer.Option(help="Options a connection: a list such as 2,64,1024.")] = "2,8,64",
    selection: Annotated[
        str | None, typer.Option(help="greedy (GS) or probabilistic (PS) alone. Default: both.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 128,
    steps: Annotated[int, typer.Option(min=3, help="Steps that are timed; the figures are medians.")] = 30,
    after: Annotated[
        int, typer.Option(min=0, help="Steps that train all networks before: a trained step costs other.")
    ] = 0,
    dataset: Annotated[
        str | None, typer.Option(help="Images to train on: mnist, cifar10, ... Default: random ones.")
    ] = None,
    data_dir: Annotated[Path | None, DATA_DIR] = None,
    dense_up_to: Annotated[int, typer.Option(min=0, help="The dense form is timed up to this K.")] = 64,
    engines: Annotated[
        str | None, typer.Option(help="Engines of the latent form that are timed. Default: all that can run.")
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Also peak memory, a process each.")] = False,
    as_json: AsJson = False,
) -> None:
    """Step times of every form, engine, selection and optimizer over the same network with learned weights.

    Of a trained network: --after 2000 --dataset mnist --data-dir DIR.
    """
    from slotkit.errors import SlotkitError

    try:
        ks = [int(one) for one in k.split(",")]
    except ValueError:
        ks = [0]
    if min(ks) < 1:
        raise SlotkitError(f"--k {k} is not a list of integers from 1 up, such as 2,64,1024.")
    if data_dir is not None and dataset is None:
        raise SlotkitError(
            "--data-dir says where a dataset lies. Say which one, too, such as --dataset mnist."
        )
    import torch

    from slotkit.benchmark import as_dicts, images_of, measure
    from slotkit.selection import SELECTIONS

    chosen = None if engines is None else [name.strip() for name in engines.split(",")]
    selections = SELECTIONS if selection is None else [selection]
    images = None if dataset is None else images_of(dataset, data_dir, batch)
    rows = measure(model, ks, selections, batch, steps, dense_up_to, memory, chosen, after, images)
    setting = {"model": model, "images": dataset or "random", "batch": batch, "after": after, "steps": steps}
    setting |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if as_json:
        print_json({**setting, "rows": as_dicts(rows)})
        return
    print(", ".join(f"{name} {value}" for name, value in setting.items()), file=sys.stderr)
    print(table(HEADINGS, map(_cells, rows)))


HEADINGS = (
    "contender",
    "K",
    "selection",
    "step ms",
    "ratio",
    "optimizer ms",
    "draw ms",
    "loss",
    "state B/conn",
    "peak MB",
)


def _cells(row: Row) -> tuple[Any, ...]:
    return (
        row.contender,
        row.k or "-",
        row.selection or "-",
        f"{row.step:.2f}",
        f"{row.ratio:.2f}",
        f"{row.optimizer:.2f}",
        "-" if row.draw is None else f"{row.draw:.2f}",
        f"{row.loss:.3f}",
        f"{row.state_bytes:.1f}",
        "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}",
    )
