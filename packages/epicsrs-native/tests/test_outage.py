"""An IOC that is away for a while, again and again: its monitors are back as soon as it serves."""

import threading

import pytest

from deadline import Stopwatch, until
from epicsrs_native import Reading
from ioc import NETWORK, Ioc

pytestmark = pytest.mark.slow

# Long enough for searches to slow down, in seconds.
OUTAGE = 12.0
TIMES = 3
# What is asked for is 1 s over Channel Access and 0.5 s over pvAccess, from when the server serves; the rest is slack.
BACK = {"ca": 2.0, "pva": 1.5}


def test_a_monitor_is_back_as_soon_as_its_server_is(mortal_ioc: Ioc, protocol: str) -> None:
    until(NETWORK.has_repeater, 15.0)
    readings: list[Reading] = []
    channel = mortal_ioc.channel("double", protocol)
    subscription = channel.monitor(readings.append)
    until(lambda: readings)

    late = []
    for _ in range(TIMES):
        mortal_ioc.kill()
        until(lambda: not channel.connected, 1.0)
        threading.Event().wait(OUTAGE)
        known = len(readings)
        mortal_ioc.start()
        watch = Stopwatch()
        until(lambda known=known: len(readings) > known, 60.0)
        late.append(watch.elapsed)

    subscription.close()
    assert max(late) <= BACK[protocol], late
