"""How a server is found: by address lists, by name servers, two of them, one that moves.

A client reads its environment once; each of these is a process of its own.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from client import Client
from deadline import Stopwatch, until
from ioc import NETWORK, Ioc

HERE, THERE = NETWORK.iocs[6:8]
# To find a server again, with slack: searches slow down while nobody answers.
BACK = 20.0


@contextmanager
def client(environment: Mapping[str, str]) -> Iterator[Client]:
    """A client with these EPICS variables and no others."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("EPICS_")}
    with Client({**others, **environment}) as program:
        yield program


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    """The IOC of this module."""
    ioc = Ioc(HERE, tmp_path_factory.mktemp("here"))
    ioc.start()
    yield ioc
    ioc.kill()


@pytest.fixture
def there(here: Ioc, tmp_path: Path) -> Iterator[Ioc]:
    """A second IOC, not started yet, with the same PVs."""
    ioc = Ioc(THERE, tmp_path, prefix=here.prefix)
    yield ioc
    ioc.kill()


def lists(ca: str, pva: str) -> dict[str, str]:
    """Where to search by UDP, and no name servers."""
    return {**NETWORK.client(HERE), "EPICS_CA_ADDR_LIST": ca, "EPICS_PVA_ADDR_LIST": pva}


def name_servers(ca: str, pva: str) -> dict[str, str]:
    """Whom to ask by TCP, and nobody by UDP."""
    return {**lists("", ""), "EPICS_CA_NAME_SERVERS": ca, "EPICS_PVA_NAME_SERVERS": pva}


def at(port: int) -> str:
    return f"127.0.0.1:{port}"


# Nobody is there, and the kernel says so at once.
DEAD = at(1)
ONLY_NAME_SERVERS = name_servers(at(HERE.ca), at(HERE.pva))
CLOSED_PORT_FIRST = {
    "address list": lists(f"{DEAD} {at(HERE.ca)}", f"{DEAD} {at(HERE.search)}"),
    "name servers": name_servers(f"{DEAD} {at(HERE.ca)}", f"{DEAD} {at(HERE.pva)}"),
}


def address(ioc: Ioc, protocol: str) -> str:
    """Where its PVs live."""
    return at(ioc.ports.ca if protocol == "ca" else ioc.ports.pva)


def test_name_servers_alone_find_and_serve_a_pv(here: Ioc, protocol: str) -> None:
    with client(ONLY_NAME_SERVERS) as asked:
        assert asked.ask("get", here.pv("double", protocol)) == 3.25
        asked.ask("put", here.pv("put_long", protocol), 5)
        assert asked.ask("get", here.pv("put_long", protocol)) == 5
        assert asked.ask("info", here.pv("double", protocol))["address"] == address(here, protocol)
        asked.ask("watch", here.pv("counter", protocol))
        until(lambda: len(asked.ask("seen", here.pv("counter", protocol))["values"]) > 2)
        assert (asked.ask("caught_panic_count"), asked.errors) == (0, "")


def test_name_servers_alone_need_no_udp_socket(here: Ioc, protocol: str) -> None:
    with client(ONLY_NAME_SERVERS) as asked:
        asked.ask("get", here.pv("double", protocol))
        assert asked.ask("datagrams") == []


def test_a_client_accepts_no_connections(here: Ioc, protocol: str) -> None:
    for environment in (ONLY_NAME_SERVERS, NETWORK.client(HERE)):
        with client(environment) as asked:
            asked.ask("watch", here.pv("counter", protocol))
            assert asked.ask("listening") == []


@pytest.mark.xfail(reason="Its UDP sockets are bound to every interface, and to none in particular.")
def test_a_client_of_loopback_addresses_has_sockets_on_loopback_only(here: Ioc, protocol: str) -> None:
    with client(NETWORK.client(HERE)) as asked:
        asked.ask("get", here.pv("double", protocol))
        assert {datagram.rsplit(":")[0] for datagram in asked.ask("datagrams")} <= {"0100007F"}


def test_a_name_server_that_went_and_came_back(here: Ioc, there: Ioc, protocol: str) -> None:
    """It is called again every EPICS_CA_CONN_TMO seconds over CA, every ten over PVA."""
    there.prefix = "late:"
    pv = there.pv("put_double", protocol)
    there.start()
    with client({**name_servers(at(THERE.ca), at(THERE.pva)), "EPICS_CA_CONN_TMO": "1"}) as asked:
        asked.ask("watch", pv)
        there.kill()
        until(lambda: asked.ask("seen", pv)["edges"] == [True, False], 1.0)
        there.start()
        until(lambda: asked.ask("seen", pv)["edges"] == [True, False, True], BACK + 10.0)
        asked.ask("put", pv, 7.0)
        until(lambda: asked.ask("seen", pv)["values"][-1] == 7.0)


@pytest.mark.parametrize("where", CLOSED_PORT_FIRST)
def test_a_closed_port_before_the_server_does_not_matter(here: Ioc, protocol: str, where: str) -> None:
    with client(CLOSED_PORT_FIRST[where]) as asked:
        watch = Stopwatch()
        assert asked.ask("get", here.pv("double", protocol)) == 3.25
        assert watch.elapsed < 2.0


def test_servers_of_several_addresses_are_all_found(here: Ioc, there: Ioc, protocol: str) -> None:
    there.prefix = "other:"
    there.start()
    with client(NETWORK.client(THERE, HERE)) as asked:
        for ioc in (here, there):
            assert asked.ask("get", ioc.pv("double", protocol)) == 3.25
            assert asked.ask("info", ioc.pv("double", protocol))["address"] == address(ioc, protocol)


def test_a_second_server_of_the_same_pv_changes_nothing(here: Ioc, there: Ioc, protocol: str) -> None:
    """Not when it appears, and not when it ends."""
    pv = here.pv("put_double", protocol)
    with client(NETWORK.client(HERE, THERE)) as asked:
        asked.ask("watch", pv)
        there.start()
        asked.ask("put", pv, 1.5)
        until(lambda: asked.ask("seen", pv)["values"][-1] == 1.5)
        # Found by both, and read where its first channel is.
        assert asked.ask("info", pv)["address"] == address(here, protocol)
        there.kill()
        asked.ask("put", pv, 2.5)
        until(lambda: asked.ask("seen", pv)["values"][-1] == 2.5)
        assert asked.ask("seen", pv)["edges"] == [True]


def twice_defined(asked: Client, pv: str) -> list[str]:
    """What was logged of two servers for a PV."""
    return [text for _, level, text in asked.ask("log") if level == "WARNING" and pv.removeprefix("pva://") in text]


def test_of_two_servers_the_first_to_answer_is_kept(here: Ioc, there: Ioc, protocol: str) -> None:
    there.start()
    with client(NETWORK.client(HERE, THERE)) as asked:
        found = asked.ask("info", here.pv("double", protocol))["address"]
        assert found in (address(here, protocol), address(there, protocol))
        for _ in range(20):
            assert asked.ask("get", here.pv("double", protocol)) == 3.25
        assert asked.ask("info", here.pv("double", protocol))["address"] == found


def test_two_servers_of_one_pv_are_warned_of_once(here: Ioc, there: Ioc, protocol: str) -> None:
    there.start()
    with client(NETWORK.client(HERE, THERE)) as asked:
        pv = here.pv("double", protocol)
        asked.ask("get", pv)
        [warning] = until(lambda: twice_defined(asked, pv), what=lambda: asked.ask("log"))
        assert address(here, protocol) in warning and address(there, protocol) in warning
        for _ in range(20):
            asked.ask("get", pv)
        assert twice_defined(asked, pv) == [warning]


def test_a_pv_that_moves_to_another_server_is_followed(here: Ioc, there: Ioc, tmp_path: Path, protocol: str) -> None:
    """Nothing of the old one is kept: address, value, units."""
    before = Ioc(HERE, tmp_path, prefix="moving:")
    there.prefix = "moving:"
    pv = before.pv("put_double", protocol)
    here.kill()
    try:
        before.start()
        with client(NETWORK.client(HERE, THERE)) as asked:
            asked.ask("watch", pv)
            asked.ask("put", pv, 4.0)
            asked.ask("put", before.pv("put_double.EGU"), "old")
            until(lambda: asked.ask("seen", pv)["values"] == [0.0, 4.0])
            assert asked.ask("units", pv) == "old"
            assert asked.ask("info", pv)["address"] == address(before, protocol)

            before.kill()
            until(lambda: asked.ask("seen", pv)["edges"] == [True, False], 1.0)
            there.start()
            until(lambda: asked.ask("seen", pv)["edges"] == [True, False, True], BACK)
            assert asked.ask("info", pv)["address"] == address(there, protocol)
            assert asked.ask("get", pv) == 0.0
            assert asked.ask("units", pv) == ""
            asked.ask("put", pv, 5.0)
            until(lambda: asked.ask("seen", pv)["values"] == [0.0, 4.0, 0.0, 5.0])
    finally:
        before.kill()
        here.start()
