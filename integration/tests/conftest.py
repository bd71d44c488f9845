"""What a suite came to is said at the end, whichever worker of pytest-xdist has run it."""

from collections.abc import Callable
from functools import partial

import pytest


@pytest.fixture
def shown(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Have a text printed behind the last test."""
    return partial(record_property, "shown")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    called = [report for report in reports if isinstance(report, pytest.TestReport) and report.when == "call"]
    texts = [text for report in called for name, text in report.user_properties if name == "shown"]
    if texts:
        terminalreporter.section("other projects' suites")
        for text in texts:
            terminalreporter.write_line(str(text))
