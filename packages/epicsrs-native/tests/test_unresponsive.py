"""A server that stops answering while its circuit is open: its channels are down, and say why."""

import os

import pytest

from client import Client
from deadline import until
from ioc import NETWORK, Ioc

# EPICS_CA_CONN_TMO, and the five seconds that an echo may take.
SILENCE = 1.0 + 5.0


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_named(mortal_ioc: Ioc) -> None:
    pv, address = mortal_ioc.pv("double"), f"127.0.0.1:{mortal_ioc.ports.ca}"
    others = {name: value for name, value in os.environ.items() if not name.startswith("EPICS_")}
    with Client({**others, **NETWORK.client(mortal_ioc.ports), "EPICS_CA_CONN_TMO": "1"}) as asked:
        asked.ask("watch", pv)
        assert asked.ask("info", pv)["circuit"] == "connected"

        with mortal_ioc.frozen():
            until(lambda: asked.ask("seen", pv)["edges"] == [True, False], 2 * SILENCE)
            found = asked.ask("info", pv)
            assert (found["circuit"], found["address"], found["type"]) == ("unresponsive", address, "double")
            kind, name, text = asked.try_("get", pv, 0.3)
            assert (kind, name) == ("raised", "NotConnectedError")
            assert pv in text and f"its server {address} does not answer" in text

        until(lambda: asked.ask("seen", pv)["edges"] == [True, False, True], 2 * SILENCE)
        assert asked.ask("info", pv)["circuit"] == "connected"
        assert asked.ask("get", pv) == 3.25
