"""A pytest plugin: each test's outcome and seconds as a line of JSON in the file that OUTCOMES names, at once.

The first line holds the tests that were collected, so that one that took its process with it is missed. ONLY names a
file with the tests to run and their order, where it is not all of them.
"""

import json
import os
from pathlib import Path

import pytest

FILE = Path(os.environ["OUTCOMES"])
# Of a test's three phases, the one that says most counts.
RANKS = ("passed", "xpassed", "xfailed", "skipped", "failed")

_phases: dict[str, list[str]] = {}
_seconds: dict[str, float] = {}


def write(line: object) -> None:
    with FILE.open("a") as file:
        file.write(json.dumps(line) + "\n")


def name(test: pytest.Item | pytest.TestReport) -> str:
    """The file's name and the test's, with its parameters; the node's id does not name a file of another place."""
    return f"{Path(test.location[0]).stem}::{test.nodeid.partition('::')[2]}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "ONLY" in os.environ:
        wanted = json.loads(Path(os.environ["ONLY"]).read_text())
        known = {name(item): item for item in items}
        items[:] = [known[test] for test in wanted]


def pytest_collection_finish(session: pytest.Session) -> None:
    write([name(item) for item in session.items])


def outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return {"skipped": "xfailed", "passed": "xpassed"}.get(report.outcome, report.outcome)
    return report.outcome


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    test = name(report)
    phases = _phases.setdefault(test, [])
    phases.append(outcome(report))
    _seconds[test] = _seconds.get(test, 0.0) + report.duration
    if report.when == "teardown":
        write([test, max(phases, key=RANKS.index), _seconds[test]])
