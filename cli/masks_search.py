"""slotkit masks search."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from slotkit.cli.hints import print_next
from slotkit.cli.options import AsJson, DataDir, Device, RunsDir, Set
from slotkit.cli.output import print_json
from slotkit.cli.table import table

if TYPE_CHECKING:
    from slotkit.masks.search_folder import Plan, SearchFolder

# The widest that the table may be.
WIDTH = 80


def search(
    density: Annotated[float, typer.Option(help="Share of the connections that a mask keeps.")] = 0.01,
    draws: Annotated[int, typer.Option(help="How many masks are drawn, at most.")] = 200,
    batches: Annotated[int, typer.Option(help="Batches that a drawn mask comes from.")] = 2,
    first_batches: Annotated[
        int, typer.Option(help="Batches of the first mask; 0 for all training images.")
    ] = 0,
    sampler: Annotated[str, typer.Option(help="random, uniform or representative batches.")] = "random",
    accept: Annotated[
        str, typer.Option(help="both, imdb, spectrum, or the controls random and loss.")
    ] = "both",
    save_every: Annotated[int, typer.Option(help="Draws between two masks that are saved.")] = 10,
    repair: Annotated[
        bool, typer.Option("--repair", help="Bring saved masks to the density that was asked for.")
    ] = False,
    until_converged: Annotated[
        bool, typer.Option("--until-converged", help="End where the explored share hardly grows any more.")
    ] = False,
    method: Annotated[str, typer.Option(help="snip, iter-snip or grasp.")] = "snip",
    mode: Annotated[str, typer.Option(help="train or eval, of norms and dropout.")] = "train",
    rules: Annotated[str, typer.Option(help="Of the scores: dst, dst-turned or kin.")] = "dst",
    held_out: Annotated[int, typer.Option(help="Validation images of the control loss.")] = 1000,
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
    from slotkit.masks.acceptance import find_acceptance
    from slotkit.masks.methods import Request, find_method
    from slotkit.masks.samplers import find_sampler
    from slotkit.masks.scores import find_rules
    from slotkit.masks.search_folder import Plan

    plan = Plan(draws, save_every, repair, until_converged)
    plan.check()
    acceptance, chosen_rules = find_acceptance(accept), find_rules(rules)
    chosen, order = find_method(method), find_sampler(sampler)
    from slotkit.masks.making import layers, prepared_for
    from slotkit.masks.problem import Asked, Drawn
    from slotkit.runs.folder import default_runs_dir

    asked = Asked(chosen, order, Request(density, seed, mode), batches, first_batches, held_out)
    asked.check()
    told = layers("slotkit masks search", model, dataset, data_dir, device, seed, set_ or [])
    prepared = prepared_for(told)
    problem = Drawn(prepared, asked)
    from slotkit.masks.search_folder import SearchFolder, settings_of

    settings = settings_of(prepared, asked, plan, accept, rules, seed)
    usual = f"search-{prepared.config.model.name.replace('/', '-')}-{density:g}-{sampler}-{accept}-s{seed}"
    folder = SearchFolder((runs_dir or default_runs_dir()) / (name or usual))
    folder.begin(settings)
    _go_on(folder, problem, acceptance, chosen_rules, seed, plan)
    _show(folder.open(), plan, density, as_json)


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
    print_next([(shlex.join(["slotkit", "masks", "score", str(folder.path / folder.saved[-1].file)]), "")])
