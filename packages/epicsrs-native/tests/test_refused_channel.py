"""A channel that a healthy server refuses costs no other channel to that server."""

from client import Client
from ioc import NETWORK, Ioc


def test_a_refused_channel_costs_no_other_of_its_server(ioc: Ioc, protocol: str) -> None:
    """In a client that has no circuit to the server yet."""
    with Client(NETWORK.client(ioc.ports)) as asked:
        # The server answers the searches and makes no channel: a long string of what is no text, a filter that is none.
        for name in ("double.VAL$", "choice.VAL{nonsense}"):
            assert asked.try_("get", ioc.pv(name, protocol), 0.3)[:2] == ["raised", "NotConnectedError"]

        assert asked.ask("get", ioc.pv("double", protocol), 2.0) == 3.25
        assert asked.ask("get", ioc.pv("long", protocol), 2.0) == -42
