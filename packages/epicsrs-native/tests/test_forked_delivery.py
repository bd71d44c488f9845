"""A forked child may touch its parent's deliveries: it is refused or nothing happens, and nothing hangs."""

from ioc import Ioc
from program import Program


def test_a_delivery_of_the_parent_does_no_harm_in_a_child(ioc: Ioc, protocol: str) -> None:
    with Program("forked_delivery.py", ioc.pv("double", protocol)) as program:
        assert program.hear() == 5
        assert program.hear() == [False, False]
        assert program.finish().code == 0
