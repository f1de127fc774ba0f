"""The run folder: config.toml, data.json, metrics.jsonl, times.jsonl, summary.json, split.safetensors,
checkpoints/, trace/, log.txt, lock.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout

from slotkit.config import Config, Resolved
from slotkit.data.identity import Identity
from slotkit.errors import SlotkitError
from slotkit.files import unwritable, write_whole

# Tables of config.toml beside the settings.
NOT_SETTINGS = ("origins", "environment", "parent")

VERSIONS = ("slotkit", "torch", "torchvision", "timm", "numpy")


class RunFolder:
    """One run on the disk. `create` makes one, `open` finds one that is there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        runs_dir: Path,
        name: str | None,
        resolved: Resolved,
        environment: Mapping[str, Any],
        parent: Mapping[str, Any] | None = None,
    ) -> RunFolder:
        """Make a new folder and write the resolved configuration into it, and the parent run if there is one.

        Raises SlotkitError if a run of that name is there or the folder can't be made.
        """
        wanted = name or default_name(resolved.config)
        if Path(wanted).name != wanted or wanted in ("", ".", ".."):
            raise SlotkitError(
                f"{wanted!r} can't name a run: use one folder name, and --runs-dir for the place."
            )
        folder = cls(_free(runs_dir / wanted, exactly=name is not None))
        try:
            (folder.path / "checkpoints").mkdir(parents=True)
        except OSError as fault:
            raise unwritable(folder.path, fault) from fault
        folder.write_config(resolved, environment, parent)
        folder.write_summary({"status": "running"})
        return folder

    @classmethod
    def open(cls, run: str | Path, runs_dir: Path) -> RunFolder:
        """The run at that path, or of that name in `runs_dir`; a folder with only a trace counts too.

        Raises SlotkitError if there is none.
        """
        for path in (Path(run), runs_dir / run):
            if (path / "config.toml").is_file() or (path / "trace" / "about.json").is_file():
                return cls(path)
        raise SlotkitError(
            f"There is no run {str(run)!r}, neither as a path nor in {runs_dir}. "
            "`slotkit runs list` shows what is there."
        )

    @property
    def name(self) -> str:
        return self.path.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training here. The lock ends with this process, even if it is killed.

        Raises SlotkitError if another process has it.
        """
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SlotkitError(
                f"The run {self.name} is being trained by another process. Wait for it, or stop it first."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def remove_temporary_files(self) -> None:
        """Delete what a killed process has left: our temporary files and those of safetensors."""
        for pattern in ("*.tmp", ".tmp*"):
            for left in self.path.rglob(pattern):
                left.unlink()

    def status(self) -> str:
        """The status in the summary, or "killed" if that is "running" and no process trains here."""
        status = str(self.summary()["status"])
        if status != "running":
            return status
        try:
            with self.locked():
                return "killed"
        except SlotkitError:
            return status

    def write_config(
        self,
        resolved: Resolved,
        environment: Mapping[str, Any],
        parent: Mapping[str, Any] | None = None,
    ) -> None:
        """config.toml: every setting, where it came from, where the run was made, and its parent run."""
        tables = without_none(resolved.config.model_dump(mode="json"))
        extra = {"origins": dict(resolved.origins), "environment": dict(environment)}
        if parent is not None:
            extra["parent"] = dict(parent)
        self._write_text("config.toml", tomli_w.dumps({**tables, **extra}))

    def has_config(self) -> bool:
        """Whether there is a config.toml; a trace alone can be analysed without."""
        return (self.path / "config.toml").is_file()

    def config(self) -> Config:
        """The configuration that the run was made with."""
        tables = self.tables()
        return Config.model_validate({key: value for key, value in tables.items() if key not in NOT_SETTINGS})

    def tables(self) -> dict[str, Any]:
        """config.toml as it is, with origins, environment and parent."""
        try:
            return tomllib.loads((self.path / "config.toml").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
            raise SlotkitError(
                f"{self.path / 'config.toml'} can't be read: {fault}. Restore it, or train again."
            ) from fault

    def summary(self) -> dict[str, Any]:
        """summary.json."""
        path = self.path / "summary.json"
        try:
            summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as fault:
            raise SlotkitError(
                f"{path} can't be read: {fault}. The other files of the run may still be whole."
            ) from fault
        return summary

    def data(self) -> Identity | None:
        """data.json: what the run's data were when it was made; None for a run from before there was one."""
        path = self.path / "data.json"
        if not path.exists():
            return None
        try:
            return Identity.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as fault:
            reason = str(fault).replace("\n", " ")
            raise SlotkitError(
                f"{path} can't be read: {reason}. It says what the run's data were; restore it from a copy."
            ) from fault

    def write_data(self, data: Identity) -> None:
        """data.json, once, when the run is made."""
        self._write_text("data.json", data.model_dump_json(indent=2) + "\n")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The entries of metrics.jsonl; a last line that was cut off is left out."""
        path = self.path / "metrics.jsonl"
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):
                    yield json.loads(line)

    def checkpoint(self, which: str) -> Path:
        """Where the checkpoint "best", "last" or "epoch-N" lies.

        Raises SlotkitError for a folder of branches: each of them has its own.
        """
        self.check_single()
        return self.path / "checkpoints" / f"{which}.safetensors"

    def branches(self) -> list[RunFolder]:
        """The runs in this one, if it compares several (`slotkit finetune`)."""
        return [RunFolder(path.parent) for path in sorted(self.path.glob("*/config.toml"))]

    def check_single(self) -> None:
        """Raise SlotkitError if this folder holds runs instead of being one."""
        names = [branch.name for branch in self.branches()]
        if names:
            raise SlotkitError(
                f"{self.name} compares {len(names)} networks, each a run of its own. Choose "
                f"{' or '.join(f'{self.path}/{name}' for name in names)}."
            )

    def append(self, name: str, entry: Mapping[str, Any]) -> None:
        """One line of a .jsonl file."""
        self._append(name, json.dumps(entry))

    def flush_metrics(self) -> int:
        """Flush the metrics to the disk. Returns their size in bytes."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return 0
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        return path.stat().st_size

    def cut_metrics(self, size: int) -> None:
        """Keep the first `size` bytes of the metrics and remove the rest."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            os.truncate(path, size)

    def log(self, text: str) -> None:
        self._append("log.txt", f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self._write_text("summary.json", json.dumps(summary, indent=2) + "\n")

    def _write_text(self, name: str, text: str) -> None:
        def write(path: Path) -> None:
            path.write_text(text, encoding="utf-8")

        write_whole(self.path / name, write)

    def _append(self, name: str, line: str) -> None:
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as fault:
            raise unwritable(self.path / name, fault) from fault


def default_runs_dir() -> Path:
    """Where runs lie: the variable SLOTKIT_RUNS, else ./runs."""
    return Path(os.environ.get("SLOTKIT_RUNS", "runs"))


def list_runs(runs_dir: Path) -> list[RunFolder]:
    """Every run in that folder, oldest first by name."""
    if not runs_dir.is_dir():
        return []
    return [RunFolder(path.parent) for path in sorted(runs_dir.glob("*/config.toml"))]


def default_name(config: Config) -> str:
    """A name from date, time and the main settings, such as "20261121-204501-lenet-digits-k8-greedy-s0"."""
    kind = f"k{config.slots.k}-{config.slots.selection}" if config.method == "slot" else "learned"
    dataset = Path(config.data.dataset.partition(":")[2] or config.data.dataset).name
    model = config.model.name.replace("/", "-")
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{model}-{dataset}-{kind}-s{config.seeds.reels}"


def environment(device: str, threads: int) -> dict[str, Any]:
    """What a report says beside a number: device, threads, versions and so on."""
    return {
        "command": " ".join(sys.argv),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "threads": threads,
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in VERSIONS},
        "git_commit": _git_commit(),
    }


def without_none(tables: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null: a setting without a value is left out."""
    return {
        key: without_none(value) if isinstance(value, Mapping) else value
        for key, value in tables.items()
        if value is not None
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git_commit() -> str:
    """The commit of the working folder, "-dirty" with changes; "none" without a checkout or git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return done.stdout.strip() or "none"


def _free(path: Path, exactly: bool) -> Path:
    if not path.exists():
        return path
    if exactly:
        raise SlotkitError(f"There is a run {path} already. Choose another --name, or delete it.")
    return next(free for n in range(2, 1000) if not (free := path.with_name(f"{path.name}-{n}")).exists())
