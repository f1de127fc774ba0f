"""The folder of a search: what it was asked for, every draw, saved masks, and a state to go on from.

    search.json                  the settings, and the identity of the data
    history.jsonl                a line a draw, and one more where a mask was saved
    masks/mask-000010.mask.safetensors
    state.mask.safetensors       best and explored masks after the last save

Lines and masks that are newer than the state are forgotten by the search that goes on, and made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slotkit.errors import SlotkitError
from slotkit.files import append_line, flush, make_folder, remove, write_text
from slotkit.masks import file as mask_file
from slotkit.masks.acceptance import ACCEPTANCES, Acceptance
from slotkit.masks.file import About, Masks
from slotkit.masks.keeping import are_equal, share_of
from slotkit.masks.problem import Asked, Drawn
from slotkit.masks.scores import Rules
from slotkit.masks.search import Row, Search, State, has_converged
from slotkit.runs.lock import locked
from slotkit.runs.schema import naming, read_json, read_text
from slotkit.training.prepare import Prepared

SETTINGS, HISTORY, STATE, MASKS = "search.json", "history.jsonl", "state.mask.safetensors", "masks"
FORMAT = 1

# Settings of data that decide no result. Searches of before have some of them in search.json.
DECIDES_NOTHING = ("dir", "download", "memory", "workers")

ADVICE = "Delete the folder, or search into another one with --name."


@dataclass(frozen=True)
class Saved:
    """A mask that was written.

    Attributes:
        draw: after which; 0 is the first mask.
        imdb, spectrum: means over its layers, before a repair.
        density, explored: as in Row; the density after a repair.
    """

    draw: int
    file: str
    imdb: float
    spectrum: float
    density: float
    explored: float


@dataclass(frozen=True)
class Plan:
    """How long a search goes on, and what it saves.

    Attributes:
        draws: at most.
        save_every: draws; a mask is saved there if it has changed.
        repair: bring a saved mask to the density that was asked for.
        until_converged: end where the explored share hardly grows any more.
    """

    draws: int
    save_every: int = 10
    repair: bool = False
    until_converged: bool = False

    def check(self) -> None:
        """Raise SlotkitError for numbers that can't be."""
        for name, value, least in (("draws", self.draws, 1), ("save-every", self.save_every, 1)):
            if value < least:
                raise SlotkitError(f"--{name} is {value}. Give {least} or more.")


def settings_of(
    prepared: Prepared, asked: Asked, plan: Plan, acceptance: Acceptance, rules: str, seed: int
) -> dict[str, Any]:
    """What decides the result of a search, for search.json. The number of draws may grow."""
    config = prepared.config
    return {
        "format": FORMAT,
        "model": config.model.name,
        "model_options": dict(config.model.options),
        "init": config.slots.init,
        "data": config.data.model_dump(exclude=set(DECIDES_NOTHING), mode="json"),
        "identity": prepared.identity.model_dump(mode="json"),
        "batch_size": config.training.batch_size,
        "seeds": config.seeds.model_dump(),
        "seed": seed,
        "method": asked.method.name,
        "density": asked.request.density,
        "mode": asked.request.mode,
        "sampler": asked.sampler.name,
        "batches": asked.batches,
        "first_batches": asked.first_batches,
        **({"held_out": asked.held_out} if acceptance.by_loss else {}),
        "accept": acceptance.name,
        "rules": rules,
        "save_every": plan.save_every,
        "repair": plan.repair,
        # Other devices add up in other orders, which decides between scores that are close.
        "device": prepared.trainee.device.type,
    }


class SearchFolder:
    """A search on the disk.

    Attributes:
        rows: one a draw, up to the last state; saved: the masks that were written up to there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self.saved: list[Saved] = []

    def is_there(self) -> bool:
        """Whether a search has begun here."""
        return (self.path / SETTINGS).is_file()

    def settings(self) -> dict[str, Any]:
        """What the search was asked for. Raises SlotkitError if that can't be read."""
        with naming(self.path / SETTINGS, ADVICE):
            told = read_json(self.path / SETTINGS)
            if not isinstance(told, dict) or not isinstance(told.get("data", {}), dict):
                raise ValueError("it is not a table of settings")
            for name in DECIDES_NOTHING:
                told.get("data", {}).pop(name, None)
            accept = ACCEPTANCES.get(told.get("accept", ""))
            if accept is not None and not accept.by_loss:
                told.pop("held_out", None)  # of before, when it was written though it decided nothing
            return told

    def open(self) -> SearchFolder:
        """Read what is there. Raises SlotkitError for another kind of folder, a damaged one, or one without a
        mask yet.
        """
        if not self.is_there():
            raise SlotkitError(
                f"{self.path} is not a search: it has no {SETTINGS}. `slotkit masks search` makes one."
            )
        self.settings()
        state = self._state() if (self.path / STATE).is_file() else None
        self._read_history(-1 if state is None else state.draw)
        if not self.saved:
            raise SlotkitError(
                f"The search {self.path} has no mask yet. The `slotkit masks search` that began it goes on "
                "with it."
            )
        return self

    def begin(self, settings: dict[str, Any]) -> None:
        """A new folder, or one whose settings are these. Raises SlotkitError with what differs."""
        if not self.is_there():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise SlotkitError(
                    f"{self.path} is there already and is not a search. Choose another --name."
                )
            make_folder(self.path)
            write_text(self.path / SETTINGS, json.dumps(settings, indent=1))
            return
        before = self.settings()
        before.setdefault("device", settings["device"])  # searches of before don't say theirs
        different = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
        if different:
            told = ", ".join(
                f"{key} was {before.get(key)!r} and is {settings.get(key)!r}" for key in different
            )
            raise SlotkitError(
                f"The search {self.path} was begun with other settings: {told}. Give the same to go on, "
                "or another --name."
            )

    def go_on(
        self, problem: Drawn, acceptance: Acceptance, rules: Rules, seed: int, plan: Plan
    ) -> Iterator[Row | Saved]:
        """Draw what is left, from the last state on; every draw and every saved mask is told."""
        with locked(self.path, "search"):
            state = self._state() if (self.path / STATE).is_file() else None
            self._forget_after(-1 if state is None else state.draw)
            search = Search(problem, acceptance, rules, seed, state)
            last = None if state is None else state.best
            if last is None:
                yield self._save(search, problem, plan)
                last = search.state.best
            while search.state.draw < plan.draws and not self._is_done(plan):
                row = search.step()
                self.rows.append(row)
                append_line(self.path / HISTORY, json.dumps(asdict(row)))
                yield row
                if row.draw % plan.save_every == 0 or row.draw == plan.draws:
                    if not are_equal(search.state.best, last):
                        yield self._save(search, problem, plan)
                        last = search.state.best
                    self._write_state(search.state)

    def _is_done(self, plan: Plan) -> bool:
        updates = [row.explored for row in self.rows if row.draw % plan.save_every == 0]
        return plan.until_converged and has_converged(updates)

    def _save(self, search: Search, problem: Drawn, plan: Plan) -> Saved:
        number = search.state.draw
        masks = search.repaired(problem.kept) if plan.repair else search.state.best
        if not (self.path / MASKS).is_dir():
            make_folder(self.path / MASKS)
        name = f"{MASKS}/mask-{number:06}.mask.safetensors"
        mask_file.save(self.path / name, masks, problem.about(number))
        found = Saved(
            *(number, name, search.mean("imdb"), search.mean("spectrum")),
            *(share_of(masks), share_of(search.state.explored)),
        )
        self.saved.append(found)
        append_line(self.path / HISTORY, json.dumps(asdict(found)))
        if number == 0:
            self._write_state(search.state)
        return found

    def _write_state(self, state: State) -> None:
        flush(self.path / HISTORY)
        both = {f"best/{name}": mask for name, mask in state.best.items()}
        both |= {f"explored/{name}": mask for name, mask in state.explored.items()}
        mask_file.save(
            self.path / STATE, both, About(method="state of a search", settings={"draw": state.draw})
        )

    def _state(self) -> State:
        both, about = mask_file.load(self.path / STATE)
        parts: dict[str, Masks] = {"best": {}, "explored": {}}
        with naming(self.path / STATE, ADVICE):
            for name, mask in both.items():
                part, _, layer = name.partition("/")
                parts[part][layer] = mask
            draw = about.settings["draw"]
            if type(draw) is not int or draw < 0 or list(parts["best"]) != list(parts["explored"]):
                raise ValueError("it is no state of a search")
        return State(parts["best"], parts["explored"], draw)

    def _read_history(self, draw: int) -> list[str]:
        """The lines up to a draw, as they are; those of rows and saved masks are taken over."""
        path = self.path / HISTORY
        kept: list[str] = []
        self.rows, self.saved = [], []
        if not path.is_file():
            return kept
        with naming(path, ADVICE):
            lines = read_text(path).split("\n")
            for line in lines[:-1]:  # the last one may have been cut off in the middle
                told = json.loads(line)
                if told["draw"] > draw:
                    continue
                found = Saved(**told) if "file" in told else Row(**told)
                (self.saved if isinstance(found, Saved) else self.rows).append(found)  # type: ignore[arg-type]
                kept.append(line)
            if [row.draw for row in self.rows] != list(range(1, max(draw, 0) + 1)):
                raise ValueError(f"it has not one line for each of the {draw} draws of the state")
        return kept

    def _forget_after(self, draw: int) -> None:
        """Forget what was written after the state."""
        kept = self._read_history(draw)
        write_text(self.path / HISTORY, "".join(f"{line}\n" for line in kept))
        names = {one.file for one in self.saved}
        for path in sorted((self.path / MASKS).glob("*")):
            if f"{MASKS}/{path.name}" not in names:
                remove(path)
