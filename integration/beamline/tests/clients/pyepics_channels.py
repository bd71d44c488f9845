"""Channels of pyepics, and a wait for a value."""

from threading import Event

import epics
import pytest

LIMIT = 10.0


@pytest.fixture(scope="session")
def channel(pv):
    channels = {}

    def channel(name, **options):
        if name not in channels:
            channels[name] = epics.PV(pv(name), **options)
            assert channels[name].wait_for_connection(LIMIT), name
        return channels[name]

    return channel


def await_value(channel, wanted, limit=LIMIT):
    """Wait until a monitor brings the wanted value."""
    came = Event()
    index = channel.add_callback(lambda value, **_: came.set() if value == wanted else None)
    try:
        assert channel.get() == wanted or came.wait(limit), f"{channel.pvname}: {channel.get()}, not {wanted}"
    finally:
        channel.remove_callback(index)
