"""shutdown_all ends the client; the next use makes a new one."""

from ioc import Ioc
from program import Program


def test_shutdown_all_and_a_fresh_client(ioc: Ioc, protocol: str) -> None:
    pv = ioc.pv("put_double", protocol)
    with Program("closing.py", pv, ioc.pv("counter", protocol)) as program:
        assert program.hear() <= 1.0

        # A call that waited is told, not left behind.
        alive, *outcomes = program.hear()
        assert not alive
        [[error, message]] = outcomes
        assert error in ("ValueError", "NotConnectedError") and pv in message

        for name, (error, message) in program.hear().items():
            assert (name, error) == (name, "ValueError")
            assert pv in message, name

        closed, updated = program.hear()
        assert closed and not updated
        # Twice is once.
        assert program.hear() == ["returned", ""]

        value, threads, files, sizes = program.hear()
        assert value == 1.5
        assert threads and files, sizes
        ending = program.finish()
        assert (ending.code, ending.errors) == (0, "")
