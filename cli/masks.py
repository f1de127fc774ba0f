"""slotkit masks score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from slotkit.cli.options import AsJson, RunsDir
from slotkit.cli.output import print_json
from slotkit.cli.table import table

if TYPE_CHECKING:
    from slotkit.masks.scores import LayerScores, NetworkScores

app = typer.Typer(
    help="Masks: which connections are there, and what their graphs look like.", no_args_is_help=True
)

# The widest that a table of scores may be.
WIDTH = 80


@app.command("score")
def score(
    what: Annotated[
        str, typer.Argument(metavar="FILE|RUN", help="A mask file, or a run: its selected weights.")
    ],
    rules: Annotated[
        str, typer.Option(help="Whose rules: dst, dst-turned or kin; see docs/masks.md.")
    ] = "dst",
    checkpoint: Annotated[str, typer.Option(help="Of a run: best, last or epoch-N.")] = "best",
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Graph scores of each layer: Ramanujan and spectral gaps, IMDB, IMSG, NaRC and their norm."""
    from slotkit.masks.scores import find_rules

    chosen = find_rules(rules)
    from slotkit.masks.found import find
    from slotkit.runs.folder import default_runs_dir

    found = find(what, runs_dir or default_runs_dir(), checkpoint)
    scores = found.scores(chosen)
    if as_json:
        print_json({"of": found.words} | scores.as_dict())
        return
    print(found.words)
    for headings, rows in (_gaps(scores), _means(scores)):
        print(table(headings, rows, WIDTH))
    print(
        f"all layers: density {scores.density:.4g}, l2 spectrum {scores.spectrum:.4f} (mean norm)\n"
        f"rules {scores.rules}; gaps are defined in {100 * scores.defined:.0f} % of the layers"
    )


def _gaps(scores: NetworkScores) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    headings = ("layer", "edges", "density", "d in", "d out", "delta_r", "delta_s", "bound", "lambda")
    return headings, [
        (
            layer.layer,
            str(layer.edges),
            f"{layer.density:.4f}",
            f"{layer.input_degree:.2f}",
            f"{layer.output_degree:.2f}",
            *map(_number, (layer.delta_r, layer.delta_s, layer.bound, layer.gap)),
        )
        for layer in scores.layers
    ]


def _means(scores: NetworkScores) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    headings = ("layer", "groups", "IMDB", "IMSG", "NaRC", "mixing", "norm")
    return headings, [_means_of(layer) for layer in scores.layers]


def _means_of(layer: LayerScores) -> tuple[str, ...]:
    values = (layer.imdb, layer.imsg, layer.narc, layer.mixing, layer.norm)
    return (layer.layer, str(layer.groups), *map(_number, values))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
