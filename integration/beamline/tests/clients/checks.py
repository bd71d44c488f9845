"""What the checks share: the beamline's prefix, and the count of what passed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

outcomes = {"collected": 0, "passed": 0}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    outcomes["collected"] = len(items)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcomes["passed"] += report.when == "call" and report.passed


def pytest_sessionfinish() -> None:
    Path(os.environ["OUTCOMES"]).write_text(json.dumps(outcomes))


@pytest.fixture(scope="session")
def pv() -> Callable[[str], str]:
    """The full name of a PV."""
    return lambda name: os.environ["BEAMLINE_PREFIX"] + name
