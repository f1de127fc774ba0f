"""slotkit masks score|make|control|save|methods; `search` and `train` have files of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.hints import print_next
from slotkit.cli.masks_search import search
from slotkit.cli.masks_train import train
from slotkit.cli.options import AsJson, DataDir, Device, Run, RunsDir, Set
from slotkit.cli.output import print_json
from slotkit.cli.table import table

from slotkit.errors import SlotkitError, typed

if TYPE_CHECKING:
    from slotkit.masks.file import About, Masks
    from slotkit.masks.scores import LayerScores, NetworkScores

app = typer.Typer(
    help="Masks: which connections are there, and what their graphs look like.", no_args_is_help=True
)

app.command("search")(search)
app.command("train")(train)

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
    checkpoint: Annotated[str | None, typer.Option(help="Of a run: best (default), last or epoch-N.")] = None,
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
            *map(_number, (layer.delta_r, layer.delta_s, layer.bound, layer.spectral_gap)),
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


@app.command("make")
def make(
    method: Annotated[str, typer.Option(help="How; `slotkit masks methods` lists them.")] = "snip",
    density: Annotated[float, typer.Option(help="Share of the connections that are kept.")] = 0.1,
    batches: Annotated[
        int | None, typer.Option(help="How many batches are looked at; 0 for all. Default: 1.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="train (default) or eval, of norms and dropout while it is measured."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Steps of pruning, of synflow and iter-snip.")] = None,
    model: Annotated[str | None, typer.Option(help="lenet, conv2, vgg-d, ... or timm/NAME.")] = None,
    dataset: Annotated[str | None, typer.Option(help="digits, mnist, cifar10, ...")] = None,
    data_dir: DataDir = None,
    seed: Annotated[
        int, typer.Option(help="Of initial weights, batches and draws; --set seeds.reels=N for one of them.")
    ] = 0,
    device: Device = None,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="The file. Default: a name that says what it is.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a mask before training, and write a mask file."""
    from slotkit.masks.methods import Request, find_method

    chosen = find_method(method)
    if not chosen.uses_batches:
        _refuse_of_data(method, {"--batches": batches, "--mode": mode})
    from slotkit.masks import making

    told = making.layers("slotkit masks make", model, dataset, data_dir, device, seed, set_ or [])
    request = Request(density, seed, "train" if mode is None else mode, rounds)
    masks, about = making.make(chosen, request, told, 1 if batches is None else batches)
    _write(masks, about, out, as_json)


def _refuse_of_data(method: str, options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise SlotkitError(
            f"{given[0]} says nothing to {method}, which looks at no data. Leave it out, or choose snip, "
            "iter-snip or grasp."
        )


@app.command("control")
def control(
    file: Annotated[Path, typer.Argument(help="A mask file.")],
    kind: Annotated[str, typer.Option(help="shuffled, reinitialised or erk-random.")] = "shuffled",
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn, or of the other initial weights.")] = 1,
    out: Annotated[Path | None, typer.Option(help="The file. Default: a name that says what it is.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a mask to compare a mask file with: one of its properties is taken away."""
    from slotkit.masks import making

    masks, about = making.control(file, kind, seed)
    _write(masks, about, out, as_json)


@app.command("save")
def save(
    run: Run,
    checkpoint: Annotated[str, typer.Option(help="best, last or epoch-N.")] = "last",
    out: Annotated[Path | None, typer.Option(help="The file. Default: a name that says what it is.")] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Write the mask of a run: the one that sparse training has come to, or where weights are not 0."""
    from slotkit.masks.found import file_of_run
    from slotkit.runs.folder import RunFolder, default_runs_dir

    masks, about = file_of_run(RunFolder.open(run, runs_dir or default_runs_dir()), checkpoint)
    _write(masks, about, out, as_json)


@app.command("methods")
def methods() -> None:
    """Every way to make a mask, and every control."""
    from slotkit.masks.controls import CONTROLS
    from slotkit.masks.methods import METHODS

    print(table(("method", "what"), [(one.name, one.words) for one in METHODS.values()]))
    print(table(("control", "what"), [(one.name, one.words) for one in CONTROLS.values()]))


def _write(masks: Masks, about: About, out: Path | None, as_json: bool) -> None:
    from slotkit.masks import file as mask_file
    from slotkit.masks.making import usual_place

    path = out or usual_place(masks, about)
    mask_file.save(path, masks, about)
    rows = [(name, int(mask.sum()), mask.numel()) for name, mask in masks.items()]
    if as_json:
        layers = [{"layer": name, "kept": kept, "connections": whole} for name, kept, whole in rows]
        print_json({"file": str(path)} | about.model_dump(mode="json") | {"layers": layers})
        return
    told = [(name, str(kept), str(whole), f"{kept / whole:.4f}") for name, kept, whole in rows]
    print(table(("layer", "kept", "connections", "density"), told, WIDTH))
    kept, whole = sum(row[1] for row in rows), sum(row[2] for row in rows)
    print(f"{about.method}: {kept} of {whole} connections ({100 * kept / whole:.3f} %), in {path}")
    empty = [name for name, kept, _ in rows if not kept]
    if empty:
        print(
            f"No connection is left in {', '.join(empty)}: nothing passes through this network.",
            file=sys.stderr,
        )
    print_next([(f"slotkit masks score {typed(path)}", "")])
