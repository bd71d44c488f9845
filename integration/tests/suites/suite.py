"""Somebody else's test file, run on one control layer in a process of its own, and what came of each of its tests."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

HERE = Path(__file__).parent
Layer = Literal["pyepics", "epicsrs"]
LAYERS: tuple[Layer, ...] = ("pyepics", "epicsrs")
# A test that upstream expects to fail has passed where it does not.
PASSED = {"passed", "xpassed"}
# pyepics' crashes: what is left of a file is run in another process, so often.
ROUNDS = 6


class Outcome(NamedTuple):
    """Passed, xpassed, failed, xfailed, skipped, or lost with its process."""

    word: str
    seconds: float


LOST = Outcome("lost", 0.0)


class Run(NamedTuple):
    """What came of a file's tests on one layer, by the file's name and the test's; and what made it run again."""

    outcomes: Mapping[str, Outcome]
    crashes: int
    said: str
    again: Sequence[str] = ()

    @property
    def passed(self) -> set[str]:
        return {test for test, outcome in self.outcomes.items() if outcome.word in PASSED}

    @property
    def not_passed(self) -> dict[str, str]:
        return {test: outcome.word for test, outcome in self.outcomes.items() if outcome.word not in PASSED}

    def of(self, file: str) -> "Run":
        """Those of one file."""
        mine = {test: outcome for test, outcome in self.outcomes.items() if test.startswith(f"{file}::")}
        return self._replace(outcomes=mine, again=[test for test in self.again if test in mine])

    def then(self, later: "Run", because: Iterable[str]) -> "Run":
        """This, with what came of some of its files when they were run again."""
        return Run(
            {**self.outcomes, **later.outcomes},
            self.crashes + later.crashes,
            self.said + later.said,
            [*self.again, *because],
        )

    def counted(self) -> str:
        """Passed, failed and skipped; an expected failure counts among the failed, as a lost test does."""
        skipped = sum(outcome.word == "skipped" for outcome in self.outcomes.values())
        failed = len(self.outcomes) - len(self.passed) - skipped
        seconds = sum(outcome.seconds for outcome in self.outcomes.values())
        return f"{len(self.passed)} passed, {failed} failed, {skipped} skipped in {seconds:.0f} s"


class Suite(NamedTuple):
    """How a suite's files are run.

    Args:
        target: What pytest is given: a module, or a path.
        plugins: Pytest plugins beside this file.
        packages: What it needs beside this Python's own packages.
        limit: Seconds for one process.
    """

    target: Sequence[str]
    plugins: Sequence[str]
    packages: Sequence[str]
    limit: float

    def run(self, layer: Layer, folder: Path, environment: Mapping[str, str], only: Sequence[str] | None = None) -> Run:
        """Run its tests, or only some; the rest in another process where pyepics has taken one with it."""
        outcomes: dict[str, Outcome] = {}
        said, rounds = "", 0
        lost: list[str] = []
        while rounds == 0 or (lost and layer == "pyepics" and rounds < ROUNDS):
            said += self._process(layer, folder, environment, only=lost, number=rounds)
            found = self._outcomes(folder / f"{layer}-{rounds}.jsonl")
            assert found, said
            outcomes |= found
            rounds += 1
            lost = [test for test, outcome in found.items() if outcome == LOST]
            # The one that it came to, last.
            lost = [*lost[1:], *lost[:1]]
        return Run(outcomes, rounds - 1 + bool(lost), said)

    def _process(
        self, layer: Layer, folder: Path, environment: Mapping[str, str], *, only: Sequence[str], number: int
    ) -> str:
        """What pytest said."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("EPICS_", "VIRTUAL_ENV"))}
        extra = {
            "OPHYD_CONTROL_LAYER": layer,
            "OUTCOMES": str(folder / f"{layer}-{number}.jsonl"),
            "PYTHONPATH": str(HERE),
        }
        if only:
            (folder / f"{layer}-only.json").write_text(json.dumps(only))
            extra["ONLY"] = str(folder / f"{layer}-only.json")
        log = folder / f"{layer}-{number}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*python(self.packages), "-m", "pytest", *self._options(folder), *self.target],
                cwd=folder,
                env={**clean, **environment, **extra},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(self.limit)
            except subprocess.TimeoutExpired:
                file.write(f"ended after {self.limit} s".encode())
            finally:
                # Also the IOCs of a process that has crashed.
                end_group(process)
        return log.read_text(errors="replace")[-20_000:]

    def _options(self, folder: Path) -> list[str]:
        """Without the settings of this repository."""
        plugins = [option for plugin in ("outcomes", *self.plugins) for option in ("-p", plugin)]
        return ["-q", "-c", os.devnull, f"--rootdir={folder}", "-p", "no:cacheprovider", "-W", "ignore", *plugins]

    @staticmethod
    def _outcomes(file: Path) -> dict[str, Outcome]:
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return dict.fromkeys(lines[0], LOST) | {test: Outcome(*rest) for test, *rest in lines[1:]} if lines else {}


def python(packages: Sequence[str]) -> list[str]:
    """This Python with its packages, none of them built again, and more on top."""
    numpy = f"numpy=={importlib.metadata.version('numpy')}"
    uv = ["uv", "run", "--quiet", "--no-project", f"--python={sys.executable}"]
    return [*uv, *(f"--with={package}" for package in [numpy, *packages]), "python"]


def end_group(process: subprocess.Popen[Any]) -> None:
    """End what is left of a process and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def counted(suite: str, file: str, runs: Mapping[Layer, Run]) -> str:
    """What a file came to on each layer, in a line; and what made it run again."""
    layers = "; ".join(f"{layer} {run.counted()}" for layer, run in runs.items())
    again = [f"\n    run again on {layer}, because of {test}" for layer, run in runs.items() for test in run.again]
    return f"{suite}, {file}: {layers}" + "".join(again)
