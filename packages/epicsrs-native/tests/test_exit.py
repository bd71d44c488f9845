"""The interpreter ends cleanly whatever goes on: its own exit code, within 2 s, no word on stderr."""

import pytest

from ioc import Ioc
from program import Program


def leave(ioc: Ioc, how: str, times: int, code: int = 0) -> None:
    pvs = [ioc.pv("counter", "ca"), ioc.pv("counter", "pva"), ioc.pv("counter.A", "ca"), ioc.pv("counter.A", "pva")]
    for _ in range(times):
        with Program("leaving.py", how, *pvs) as program:
            assert program.hear() == "leaving"
            ending = program.finish()
            assert (ending.code, ending.errors) == (code, "")
            assert ending.seconds < 2.0


def test_exit_with_live_monitors_20_of_20(ioc: Ioc) -> None:
    leave(ioc, "monitors", 20)


@pytest.mark.parametrize("how", ["thread", "pending", "callback"])
def test_exit_while_something_waits(ioc: Ioc, how: str) -> None:
    """A daemon thread in get, operations nobody awaits, a callback that does not end."""
    leave(ioc, how, 5)


def test_exit_keeps_its_code(ioc: Ioc) -> None:
    leave(ioc, "exit", 3, code=7)
