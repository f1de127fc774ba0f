"""Processes of their own that have imported torch and slotkit already.

The import takes longer than most of what tests ask of a process. So a server imports them once and forks for
each process. It trains nothing itself, so that it has no threads and its children are as those that Python
starts. What Python reads when it starts, and what is imported when, is for tests that start Python.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

COMMAND = "from slotkit.cli.main import main; main()"


class Fork:
    """A process that runs `code`; what it prints goes to the files `out` and `err`."""

    def __init__(self, server: Forks, pid: int, out: Path, err: Path) -> None:
        self._server, self.pid, self.out, self.err = server, pid, out, err
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code if it has ended: -9 after SIGKILL."""
        return self._end(os.WNOHANG)

    def wait(self) -> int:
        code = self._end(0)
        assert code is not None
        return code

    def until_it_says(self, words: str) -> None:
        """A line of stderr that begins so, or its end."""
        while self.poll() is None:
            if any(line.startswith(words) for line in self.err.read_text().splitlines()):
                return
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        """Until somebody waits for it, its number belongs to no other process."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> int:
        """SIGKILL, and wait."""
        self.send_signal(signal.SIGKILL)
        return self.wait()

    def checked(self) -> str:
        """What it has printed, at its end without an error."""
        assert self.wait() == 0, self.err.read_text()[-2000:]
        return self.out.read_text()

    def _end(self, flags: int) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ask({"wait": self.pid, "flags": flags})
        return self.returncode


class Forks:
    """The server, seen from the tests. OMP_NUM_THREADS=1 holds for all that it forks."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._folder = tempfile.TemporaryDirectory()
        self._forks: list[Fork] = []

    def start(self, code: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Fork:
        """Like `python -c CODE ARGUMENTS`; `env` is added to the environment of this process."""
        out, err = (Path(self._folder.name) / f"{len(self._forks)}.{name}" for name in ("out", "err"))
        asked = {
            "code": code,
            "arguments": arguments,
            "cwd": str(cwd),
            "env": os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
            "files": [str(out), str(err)],
        }
        for path in (out, err):
            path.touch()
        self._forks.append(one := Fork(self, self.ask(asked), out, err))
        return one

    def ask(self, asked: Mapping[str, Any]) -> Any:
        """The server's answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the server of the forks has ended: its stderr says why"
        return json.loads(answer)

    def close(self) -> None:
        """End what still runs, and the server."""
        for one in self._forks:
            one.kill()
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._folder.cleanup()


def _serve() -> None:
    # What processes of tests need, and nothing that slotkit imports late: in the fork of a process that has
    # imported the CPU engine it does without threads.
    import slotkit.cli.main

    import slotkit.training.experiment  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            pid, status = os.waitpid(asked["wait"], asked["flags"])
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                _become(asked)
        print(json.dumps(answer), flush=True)


def _become(asked: Mapping[str, Any]) -> None:
    """What Python does when it starts, as far as it is left to do."""
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    for number, path in enumerate([os.devnull, *asked["files"]]):
        opened = os.open(path, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["-c", *asked["arguments"]]
    sys.modules["__main__"] = program = ModuleType("__main__")
    code: Any = 1
    try:
        exec(compile(asked["code"], "<string>", "exec"), program.__dict__)
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
