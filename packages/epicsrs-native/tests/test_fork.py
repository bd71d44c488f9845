"""After fork a child cannot use the client of its parent, and is told so."""

from ioc import Ioc
from program import Program


def test_every_call_in_a_forked_child_is_an_error_at_once(ioc: Ioc, protocol: str) -> None:
    pv = ioc.pv("put_double", protocol)
    with Program("forked.py", pv, ioc.pv("counter", protocol)) as program:
        for name, (error, message, seconds) in program.hear().items():
            assert (name, error) == (name, "RuntimeError")
            assert "used before fork; use spawn" in message, name
            assert name == "get_context" or pv in message, name
            assert seconds <= 0.5, name
        assert program.hear() == 5
        # The parent goes on, and gets its updates.
        assert program.hear() == [2.0, True]
        assert program.finish().code == 0


def test_a_forked_child_that_uses_nothing_ends_as_it_likes(ioc: Ioc, protocol: str) -> None:
    with Program("forked_quietly.py", ioc.pv("double", protocol)) as program:
        assert program.hear() == 6
        assert program.hear() == 3.25
        assert program.finish().code == 0


def test_a_fork_before_the_first_use_is_harmless(ioc: Ioc, protocol: str) -> None:
    with Program("forked_before_use.py", ioc.pv("double", protocol)) as program:
        assert program.hear() == 3.25
        assert program.finish().code == 0


def test_spawned_workers_are_clients_of_their_own(ioc: Ioc, protocol: str) -> None:
    with Program("spawned.py", ioc.pv("double", protocol)) as program:
        assert program.hear(30.0) == [3.25, 3.25, 3.25]
        assert program.finish().code == 0
