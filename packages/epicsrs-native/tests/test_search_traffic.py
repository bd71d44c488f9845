"""What is searched for and not there costs the network little."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from epicsrs_native import NotConnectedError, get_context
from ioc import NETWORK, Ioc

ABSENT = 1000
SECONDS = 1.0
# A datagram holds tens of names; so many rounds over all of them may go out within the time.
NAMES_IN_A_DATAGRAM = 20
ROUNDS = 12


@contextmanager
def heard(port: int) -> Iterator[list[bytes]]:
    """The datagrams that came to one of the addresses where servers are searched for, at the end."""
    datagrams: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**23)
        there.bind(("127.0.0.1", port))
        yield datagrams
        there.setblocking(False)
        try:
            while datagram := there.recv(65536):
                datagrams.append(datagram)
        except BlockingIOError:
            pass


def test_absent_pvs_are_searched_for_many_at_a_time_and_not_often(ioc: Ioc, protocol: str) -> None:
    slot = NETWORK.iocs[2]
    with heard(slot.ca if protocol == "ca" else slot.search) as datagrams:
        absent = [ioc.channel(f"absent_{number:04}", protocol) for number in range(ABSENT)]
        errors = get_context().connect_many(absent, timeout=SECONDS)

    assert {type(error) for error in errors} == {NotConnectedError}
    said = b"".join(datagrams)
    assert all(said.count(f"absent_{number:04}".encode()) in range(1, ROUNDS + 1) for number in range(ABSENT))
    assert len(datagrams) <= ROUNDS * ABSENT / NAMES_IN_A_DATAGRAM
