"""slotkit bench."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from slotkit.cli.options import AsJson
from slotkit.cli.output import print_json, table


def bench(
    model: Annotated[str, typer.Option(help="lenet, conv2, conv4, conv6, vgg19 or timm/NAME.")] = "lenet",
    k: Annotated[str, typer.Option(help="Options a connection: a list such as 2,64,1024.")] = "2,8,64",
    selection: Annotated[str, typer.Option(help="greedy (GS) or probabilistic (PS).")] = "greedy",
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 128,
    steps: Annotated[int, typer.Option(min=3, help="Steps that are timed; the figures are medians.")] = 30,
    dense_up_to: Annotated[int, typer.Option(help="Largest K for which the dense form is timed.")] = 64,
    engines: Annotated[
        str | None, typer.Option(help="Engines of the latent form that are timed. Default: all that can run.")
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Also peak memory, a process each.")] = False,
    as_json: AsJson = False,
) -> None:
    """Step times of every form and engine over the same network with learned weights."""
    from slotkit.errors import SlotkitError

    try:
        ks = [int(one) for one in k.split(",")]
    except ValueError:
        raise SlotkitError(f"--k {k} is not a list of integers such as 2,64,1024.") from None
    import torch

    from slotkit.benchmark import as_dicts, measure

    chosen = None if engines is None else [name.strip() for name in engines.split(",")]
    rows = measure(model, ks, selection, batch, steps, dense_up_to, memory, chosen)
    setting = {"model": model, "selection": selection, "batch": batch, "steps": steps}
    setting |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if as_json:
        print_json({**setting, "rows": as_dicts(rows)})
        return
    print(", ".join(f"{name} {value}" for name, value in setting.items()), file=sys.stderr)
    headings = ("contender", "K", "step ms", "ratio", "optimizer ms", "draw ms", "state B/conn", "peak MB")
    cells = [
        (
            row.contender,
            row.k or "-",
            f"{row.step:.2f}",
            f"{row.ratio:.2f}",
            f"{row.optimizer:.2f}",
            "-" if row.draw is None else f"{row.draw:.2f}",
            f"{row.state_bytes:.1f}",
            "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}",
        )
        for row in rows
    ]
    print(table(headings, cells))
