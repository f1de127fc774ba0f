"""How a sweep is shown: its runs, what is left, the table of what is finished, and a preview."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slotkit.cli.hints import print_next
from slotkit.cli.output import duration, print_json
from slotkit.cli.table import table

from slotkit.errors import are, many, typed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slotkit.sweeps.estimate import Left
    from slotkit.sweeps.results import Row
    from slotkit.sweeps.sweep import State, Sweep


def show(sweep: Sweep, as_json: bool, runs: bool = False) -> None:
    """The table of a sweep; with `runs` also how far each is, and how long the rest takes."""
    from slotkit.sweeps import results
    from slotkit.sweeps.estimate import left_of

    states = sweep.states()
    rows = results.rows(sweep, states)
    going = sum(state.status == "running" for state in states)
    left = left_of(states, going or None)
    left_out = sum(not entry.wanted for entry in sweep.manifest.runs.values())
    if as_json:
        told = {"sweep": str(sweep.path), "source": sweep.manifest.source, "trained now": sweep.is_locked()}
        told |= {"left out": left_out, "left": left.as_dict(), "runs": [_told(state) for state in states]}
        print_json({**told, "table": [row.as_dict() for row in rows]})
        return
    if runs:
        _print_runs(sweep, states, left_out)
        _print_lines(words_of(left))
    print(_table(rows))
    _print_lines(_left_out(states))
    print(f"sweep: {sweep.path}")
    print_next(_next(sweep, states))


def show_preview(sweep: Sweep, at_a_time: int | None, as_json: bool) -> None:
    """The runs of a sweep that is not trained now, and how long that would take.

    Args:
        at_a_time: how many would be trained at the same time; None if that isn't known.
    """
    from slotkit.runs.listing import counted
    from slotkit.sweeps.estimate import left_of
    from slotkit.sweeps.plan import words

    states = sweep.states()
    left = left_of(states, at_a_time)
    if as_json:
        runs = [
            _told(state) | {"varied": state.run.entry.varied, "seed": state.run.entry.seed}
            for state in states
        ]
        told = {"sweep": str(sweep.path), "source": sweep.manifest.source, "trained now": False}
        print_json({**told, "left": left.as_dict(), "runs": runs})
        return
    stands = [_stands(state) for state in states]
    rows = [
        (
            state.run.entry.name,
            words(state.run.entry.varied, state.run.entry.seed) or "-",
            _epochs(_told(state)),
            stand,
        )
        for state, stand in zip(states, stands, strict=True)
    ]
    print(table(("run", "what", "epochs", "status"), rows))
    print(f"{counted(stands)}. Nothing was trained or written.")
    _print_lines(_left_out(states))
    _print_lines(words_of(left))
    print(f"sweep: {sweep.path}")


def words_of(left: Left) -> list[str]:
    """How long the rest takes, in sentences; none where nothing allows to tell."""
    if not left.known:
        return []
    told = f"About {duration(left.training)} of training are left"
    if left.seconds is not None and left.at_a_time != 1:
        told += f": about {duration(left.seconds)}, {left.at_a_time} runs at a time"
    if left.known == left.runs:
        return [f"{told}."]
    more = left.runs - left.known
    why = "no run of their kind has told its time yet"
    return [f"{told}.", f"That is without {more} of the {many(left.runs, 'run')}: {why}."]


def _stands(state: State) -> str:
    """What the next training makes of a run."""
    if state.status in ("finished", "diverged", "running", "damaged", "other"):
        return state.status
    return "to be continued" if (state.run.folder.path / "checkpoints").is_dir() else "new"


def _left_out(states: Sequence[State]) -> list[str]:
    """A sentence for each run that counts nowhere."""
    from slotkit.runs.listing import left_out

    return [left_out(state.run.entry.name, state.fault, state.status) for state in states if state.fault]


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        print(line)


def _next(sweep: Sweep, states: Sequence[State]) -> list[tuple[str, str]]:
    """What to type next: what is left is trained first."""
    from slotkit.sweeps.sweep import COUNT_NOWHERE, DONE

    left = sum(state.status not in (*DONE, *COUNT_NOWHERE) for state in states)
    steps = []
    if left and not sweep.is_locked() and sweep.manifest.command:
        steps.append((sweep.manifest.command, f"trains the {left} that are left"))
    if any(state.status in DONE for state in states):
        steps.append((f"slotkit report {typed(sweep.path)}", "figures and tables, as a page"))
    return steps


def _told(state: State) -> dict[str, Any]:
    """A run of a sweep, for --json and the table of status."""
    run, best = state.run, state.summary.get("validation", {}).get("best")
    return {
        "run": run.entry.name,
        "status": state.status,
        "epochs": None if state.fault else state.summary.get("epochs", 0),
        "epochs wanted": run.epochs(),
        "validation": best and best["accuracy"],
        "seconds": None if state.fault else state.summary.get("seconds", 0.0),
        "peak": run.entry.peak,
        "fault": state.fault,
        "failures": [failure.model_dump() for failure in run.entry.failures],
    }


def _epochs(told: dict[str, Any]) -> str:
    """ "5/10"; of a run that counts nowhere only how many it is to have."""
    return f"{'-' if told['epochs'] is None else told['epochs']}/{told['epochs wanted']}"


def _print_runs(sweep: Sweep, states: Sequence[State], left_out: int) -> None:
    from slotkit.runs.listing import counted

    trained = "A process trains it now." if sweep.is_locked() else "No process trains it now."
    print(f"{counted([state.status for state in states])}. {trained}")
    if left_out:
        print(
            f"{many(left_out, 'run')} of before {are(left_out)} left out: {sweep.manifest.source} does not "
            "ask for them any more."
        )
    told = [_told(state) for state in states]
    rows = [
        (
            *(one["run"], one["status"], _epochs(one)),
            "-" if one["validation"] is None else f"{100 * one['validation']:.2f} %",
            "-" if one["seconds"] is None else f"{one['seconds']:.0f}",
            "-" if one["peak"] is None else f"{one['peak'] / 1e9:.2f}",
        )
        for one in told
    ]
    print(table(("run", "status", "epochs", "validation", "seconds", "GB"), rows))
    for one in told:
        for failure in one["failures"]:
            print(f"{one['run']} failed at {failure['when']} ({failure['where']}): {failure['error']}")


def _table(rows: Sequence[Row]) -> str:
    """Every combination, also those that have not begun."""
    from slotkit.runs.listing import shown

    varied = list(dict.fromkeys(name for row in rows for name in row.varied))
    counted = any(row.wanted > 1 or not row.n for row in rows)
    headings = [*varied, "reading", "test", *(["n"] if counted else [])]
    cells = [
        [
            *(shown(row.varied.get(name, "")) for name in varied),
            row.reading or "-",
            _mean(row),
            *([f"{row.n} of {row.wanted}"] if counted else []),
        ]
        for row in rows
    ]
    return table(headings, cells)


def _mean(row: Row) -> str:
    notes = [f"{row.diverged} diverged"] if row.diverged else []
    notes += [f"{row.left_out} left out"] if row.left_out else []
    if row.mean is None:
        return ", ".join(notes) or "-"
    spread = "" if row.spread is None else f" ± {100 * row.spread:.2f}"
    return f"{100 * row.mean:.2f}{spread} %" + (f" ({', '.join(notes)})" if notes else "")
