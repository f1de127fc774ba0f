"""slotkit masks search."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.hints import print_next
from slotkit.cli.options import AsJson, DataDir, Device, RecipeName, RunsDir, Set
from slotkit.cli.output import print_json
from slotkit.cli.table import table

from slotkit.errors import typed

if TYPE_CHECKING:
    from slotkit.masks.search_folder import Plan, SearchFolder

# The widest that the table may be.
WIDTH = 80


def search(
    recipe: RecipeName = None,
    density: Annotated[
        float | None, typer.Option(help="Share of the connections that a mask keeps. Default: 0.01.")
    ] = None,
    draws: Annotated[int | None, typer.Option(help="Masks that are drawn, at most. Default: 200.")] = None,
    batches: Annotated[int | None, typer.Option(help="Batches that a draw looks at. Default: 2.")] = None,
    first_batches: Annotated[
        int | None, typer.Option(help="Batches of the first mask. Default: 0, all training images.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="random (default), uniform or representative batches.")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="both (default), imdb, spectrum, or the controls random and loss.")
    ] = None,
    save_every: Annotated[
        int | None, typer.Option(help="Draws between two masks that are saved. Default: 10.")
    ] = None,
    repair: Annotated[
        bool | None,
        typer.Option("--repair/--no-repair", help="Bring saved masks to the density that was asked for."),
    ] = None,
    until_converged: Annotated[
        bool | None,
        typer.Option(
            "--until-converged/--no-until-converged",
            help="End where the explored share hardly grows any more.",
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="snip (default), iter-snip or grasp.")] = None,
    mode: Annotated[str | None, typer.Option(help="train (default) or eval, of norms and dropout.")] = None,
    rules: Annotated[
        str | None, typer.Option(help="Of the scores: dst (default), dst-turned or kin.")
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Validation images of --accept loss. Default: 1000.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="lenet, conv2, vgg-d, ... or timm/NAME.")] = None,
    dataset: Annotated[str | None, typer.Option(help="digits, mnist, cifar10, ...")] = None,
    data_dir: DataDir = None,
    seed: Annotated[int, typer.Option(help="Of initial weights, batches and what is left to chance.")] = 0,
    device: Device = None,
    set_: Set = None,
    name: Annotated[str | None, typer.Option(help="Of the folder. Default: what was asked for.")] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Draw many masks from few batches each, and keep the best, layer by layer.

    The same command again goes on where it was stopped.
    """
    from slotkit import recipes
    from slotkit.masks.search_settings import search_settings

    flags = {
        **{"density": density, "draws": draws, "batches": batches, "first_batches": first_batches},
        **{"sampler": sampler, "accept": accept, "save_every": save_every, "repair": repair},
        **{"until_converged": until_converged, "method": method, "mode": mode, "rules": rules},
        "held_out": held_out,
    }
    told = recipes.load(recipe, "masks search").search if recipe is not None else {}
    wanted = search_settings(recipe or "", told, flags)
    from slotkit.masks.acceptance import find_acceptance
    from slotkit.masks.methods import Request, find_method
    from slotkit.masks.samplers import find_sampler
    from slotkit.masks.scores import find_rules
    from slotkit.masks.search_folder import Plan

    plan = Plan(wanted.draws, wanted.save_every, wanted.repair, wanted.until_converged)
    plan.check()
    acceptance, chosen_rules = find_acceptance(wanted.accept), find_rules(wanted.rules)
    chosen, order = find_method(wanted.method), find_sampler(wanted.sampler)
    from slotkit.masks.making import layers, of_search, prepared_for
    from slotkit.masks.problem import Asked, Drawn
    from slotkit.runs.folder import default_runs_dir

    request = Request(wanted.density, seed, wanted.mode)
    asked = Asked(
        chosen, order, request, wanted.batches, wanted.first_batches, acceptance.images(wanted.held_out)
    )
    asked.check()
    below = of_search(recipe, wanted.batch_size)
    typed = layers("slotkit masks search", model, dataset, data_dir, device, seed, set_ or [])
    prepared = prepared_for([*below, *typed])
    problem = Drawn(prepared, asked)
    from slotkit.masks.search_folder import SearchFolder, settings_of

    settings = settings_of(prepared, asked, plan, acceptance, wanted.rules, seed)
    network = prepared.config.model.name.replace("/", "-")
    usual = f"search-{network}-{wanted.density:g}-{wanted.sampler}-{wanted.accept}-s{seed}"
    folder = SearchFolder((runs_dir or default_runs_dir()) / (name or usual))
    folder.begin(settings)
    _go_on(folder, problem, acceptance, chosen_rules, seed, plan)
    _show(folder.open(), plan, wanted.density, as_json)


def _go_on(folder: SearchFolder, problem: Any, acceptance: Any, rules: Any, seed: int, plan: Plan) -> None:
    from slotkit.masks.search import Row

    accepted = 0
    try:
        for event in folder.go_on(problem, acceptance, rules, seed, plan):
            if isinstance(event, Row):
                accepted += event.accepted
                if event.draw % plan.save_every == 0 or event.draw == plan.draws:
                    print(
                        f"draw {event.draw} of {plan.draws}: {100 * event.explored:.2f} % explored, density "
                        f"{event.density:.5f}, {accepted} layers accepted",
                        file=sys.stderr,
                    )
    except KeyboardInterrupt:
        print(f"Interrupted. The same command goes on with {folder.path}.", file=sys.stderr)
        raise typer.Exit(130) from None


def _show(folder: SearchFolder, plan: Plan, density: float, as_json: bool) -> None:
    from slotkit.masks.search import explored_by_chance

    last = folder.rows[-1]
    chance = explored_by_chance(density, last.draw + 1)
    layers = sum(row.accepted for row in folder.rows)
    if as_json:
        print_json(
            {
                "search": str(folder.path),
                "draws": last.draw,
                "explored": last.explored,
                "explored_by_chance": chance,
                "accepted": layers,
                "saved": [vars(one) for one in folder.saved],
            }
        )
        return
    headings = ("draw", "IMDB", "spectrum", "density", "explored", "file")
    rows = [
        (
            str(one.draw),
            f"{one.imdb:.4f}",
            f"{one.spectrum:.4f}",
            f"{one.density:.5f}",
            f"{100 * one.explored:.2f} %",
            one.file,
        )
        for one in folder.saved
    ]
    print(table(headings, rows, WIDTH))
    print(
        f"{last.draw} draws: {layers} layers accepted, {100 * last.explored:.2f} % of the connections "
        f"explored (independent random masks: {100 * chance:.1f} %)"
    )
    print(f"search: {folder.path}")
    print_next([(f"slotkit masks score {typed(folder.path / folder.saved[-1].file)}", "")])
