"""Ctrl-C ends every wait within 0.2 s, with KeyboardInterrupt and nothing else; the client goes on."""

import pytest

from ioc import Ioc
from program import Program


def interrupt(ioc: Ioc, script: str, operation: str, protocol: str) -> None:
    with Program(script, operation, ioc.pv("put_double", protocol)) as program:
        assert program.hear() == "ready"
        with ioc.frozen():
            program.say()
            outcome, seconds = program.hear(15.0)
            assert outcome == "KeyboardInterrupt"
            # 0.2 s, and slack for a busy machine.
            assert 0 <= seconds <= 0.5
        program.say()
        assert program.hear(30.0) == ["float", 2.5]
        ending = program.finish()
        assert (ending.code, ending.errors) == (0, "")


@pytest.mark.parametrize("operation", ["get", "put", "monitor", "connect", "info"])
def test_ctrl_c_ends_a_blocking_call(second_ioc: Ioc, protocol: str, operation: str) -> None:
    interrupt(second_ioc, "interrupted.py", operation, protocol)


@pytest.mark.parametrize("operation", ["get", "put", "monitor"])
def test_ctrl_c_ends_an_awaited_call(second_ioc: Ioc, protocol: str, operation: str) -> None:
    interrupt(second_ioc, "interrupted_loop.py", operation, protocol)
