"""The checks, the same for a contributor and for CI: plain `nox` runs lint, typecheck and tests."""

import os
import sys
from pathlib import Path

import nox

nox.options.sessions = ["lint", "typecheck", "tests"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"

# Two test processes with two threads each get in each other's way on two cores.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

PLACES = ["slotkit", "cli", "analyses", "reports", "tests", "benchmarks", "noxfile.py"]


def installed(session: nox.Session) -> Path:
    """The bin folder of the one environment with slotkit as a user gets it (not editable) and our tools.

    The sessions that need it share it: PyTorch takes minutes and gigabytes to install.
    """
    place = Path(".nox/installed").absolute()
    binaries = place / ("Scripts" if os.name == "nt" else "bin")
    if not binaries.is_dir():
        session.run(sys.executable, "-m", "venv", str(place))
    session.run(str(binaries / "python"), "-m", "pip", "install", "--quiet", ".[dev]")
    return binaries


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: lint and format."""
    session.install("ruff==0.17.*")
    session.run("ruff", "check", *PLACES)
    session.run("ruff", "format", "--check", *PLACES)


@nox.session(venv_backend="none")
def typecheck(session: nox.Session) -> None:
    """mypy on the installed package, so that py.typed and the package layout are checked too."""
    mypy, settings = str(installed(session) / "mypy"), str(Path("pyproject.toml").absolute())
    # Elsewhere: in the checkout mypy would take slotkit/ for the package, without commands and analyses.
    with session.chdir(".nox"):
        session.run(mypy, "--config-file", settings, "-p", "slotkit")


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """pytest on two cores; arguments after -- go to it."""
    session.run(str(installed(session) / "pytest"), *(session.posargs or ["-n", "2"]), env=ONE_THREAD)


@nox.session(venv_backend="none", name="long")
def long_tests(session: nox.Session) -> None:
    """The fuller forms of tests that have a short one in `tests`."""
    session.run(
        str(installed(session) / "pytest"), "-m", "long", *(session.posargs or ["-n", "2"]), env=ONE_THREAD
    )


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Every change of the disk fails once in every way, and 2,000 mutants of each kind of file are read."""
    everything = {"SLOTKIT_EVERY_POINT": "1", "SLOTKIT_MUTANTS": "2000"}
    places = ["runs/test_every_failure", "runs/test_mutants", "runs/test_own_mutants"]
    places += ["data/test_mutants", "sweeps/test_mutants"]
    files = [f"tests/{place}.py" for place in places]
    command = [str(installed(session) / "pytest"), "-s", *(session.posargs or files)]
    session.run(*command, env=ONE_THREAD | everything)


@nox.session(venv_backend="none")
def tests_cuda(session: nox.Session) -> None:
    """The tests that run on every device, on a GPU; skips itself by name where there is none."""
    binaries = installed(session)
    seen = session.run(
        str(binaries / "python"), "-c", "import torch; print(torch.cuda.is_available())", silent=True
    )
    if "True" not in str(seen):
        session.skip("this PyTorch sees no CUDA device")
    session.run(str(binaries / "pytest"), "-k", "cuda", *session.posargs)


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """All that a GPU has to prove, into a folder: benchmarks/gpu.py, which arguments after -- go to."""
    place = ["--out", "gpu-results"] if "--out" not in session.posargs else []
    session.run(str(installed(session) / "python"), "benchmarks/gpu.py", *place, *session.posargs)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Timings, as ratios measured side by side in one process."""
    session.run(str(installed(session) / "slotkit"), "bench", *session.posargs)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """The documentation, warnings being errors, into docs/_build/html."""
    binaries = installed(session)
    session.run(str(binaries / "python"), "-m", "pip", "install", "--quiet", ".[docs]")
    # Not `python -m sphinx`: that would take slotkit/ of the checkout for the package, without its commands.
    build = [str(binaries / "sphinx-build"), "-W", "--keep-going", "-b", "html"]
    session.run(*build, "docs", "docs/_build/html")
