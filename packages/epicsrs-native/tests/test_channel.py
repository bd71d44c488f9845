"""Channel: names, connection, freshness, info, close."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from deadline import Stopwatch, until
from epicsrs_native import Delivery, NotConnectedError, Reading, get_context
from ioc import Ioc

Call = Callable[..., Any]


def test_there_is_one_context() -> None:
    assert get_context() is get_context()


def test_channel_knows_its_name_and_protocol(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("double", protocol)

    assert channel.pv == ioc.pv("double", protocol)
    assert channel.protocol == protocol
    assert not channel.closed
    assert channel.pv in repr(channel)


def test_a_bare_name_and_ca_are_the_same_pv(ioc: Ioc) -> None:
    channel = get_context().channel("ca://" + ioc.pv("double"))
    Ioc.opened.append(channel)

    assert channel.protocol == "ca"
    assert channel.get().value == 3.25


def test_making_a_channel_searches_at_once(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("double", protocol)

    until(lambda: channel.connected)


def test_connect_returns_none_when_connected(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("double", protocol)

    assert call(channel.connect) is None
    assert channel.connected
    assert call(channel.connect, timeout=0) is None


@pytest.mark.parametrize("name", ["connect", "get", "info", "monitor", "put"])
def test_no_server_is_not_connected_error_at_the_deadline(ioc: Ioc, protocol: str, call: Call, name: str) -> None:
    channel = ioc.channel("absent", protocol)
    arguments: dict[str, list[Any]] = {"put": [1.0], "monitor": [str]}
    watch = Stopwatch()

    with pytest.raises(NotConnectedError, match=channel.pv) as caught:
        call(getattr(channel, name), *arguments.get(name, []), timeout=0.2)

    assert 0.19 <= watch.elapsed <= 0.5
    assert caught.value.pv == channel.pv
    assert not channel.connected


def test_timeout_zero_asks_for_what_is_there_now(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("absent", protocol)
    watch = Stopwatch()

    with pytest.raises(NotConnectedError):
        call(channel.connect, timeout=0)
    with pytest.raises(NotConnectedError):
        call(channel.get, timeout=0)

    assert watch.elapsed <= 0.3


def test_no_timeout_waits_for_the_answer(ioc: Ioc, protocol: str, call: Call) -> None:
    assert call(ioc.channel("double", protocol).get, timeout=None).value == 3.25


def test_get_is_newer_than_the_call(ioc: Ioc, protocol: str, call: Call) -> None:
    """Also the first get after a long connection: no value of the connect time is handed out."""
    channel = ioc.channel("counter", protocol)
    clock = ioc.channel("counter", protocol)
    channel.connect()
    start = clock.get().value
    until(lambda: clock.get().value >= start + 12)

    called = time.time()
    first = call(channel.get)
    second = call(channel.get)

    # The record is processed every 0.1 s.
    assert first.value >= start + 12
    assert called - 0.15 <= first.timestamp <= time.time()
    assert second.timestamp >= first.timestamp


def test_get_follows_the_counter(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("counter", protocol)
    begin = call(channel.get)
    watch = Stopwatch()

    readings = [begin]
    while len(readings) < 6:
        readings.append(until(lambda: (now := call(channel.get)).value > readings[-1].value and now))

    assert [reading.value - begin.value for reading in readings] == list(range(6))
    assert 0.3 <= watch.elapsed <= 1.5
    assert readings[-1].timestamp == pytest.approx(time.time(), abs=0.15)


def test_info_tells_where_the_pv_lives_and_what_it_is(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("double", protocol)

    info = call(channel.info)

    port = ioc.ports.ca if protocol == "ca" else ioc.ports.pva
    assert (info.pv, info.protocol, info.address) == (channel.pv, protocol, f"127.0.0.1:{port}")
    assert info.type == "double"
    # pvAccess tells no access rights.
    assert (info.readable, info.writable) == ((True, True) if protocol == "ca" else (None, None))


@pytest.mark.parametrize(
    ("record", "ca", "pva"),
    [
        ("double", ("double", 1), "double"),
        ("long", ("long", 1), "int"),
        ("int64", ("double", 1), "long"),
        ("string", ("string", 1), "string"),
        ("binary", ("enum", 1), "enum_t"),
        ("double.PREC", ("short", 1), "short"),
        ("partial", ("double", 8), "double[]"),
        ("uchars", ("char", 8), "ubyte[]"),
        ("floats", ("float", 8), "float[]"),
        ("strings", ("string", 8), "string[]"),
    ],
)
def test_info_names_the_type(ioc: Ioc, record: str, ca: tuple[str, int], pva: str) -> None:
    by_ca = ioc.channel(record, "ca").info()
    by_pva = ioc.channel(record, "pva").info()

    assert (by_ca.type, by_ca.count) == ca
    assert by_pva.type == pva


def test_on_connection_tells_the_present_state_at_once(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    there, absent = ioc.channel("double", protocol), ioc.channel("absent", protocol)
    there.connect()
    seen: list[object] = []

    watches = [there.on_connection(seen.append, delivery=lane), absent.on_connection(seen.append, delivery=lane)]

    until(lambda: len(seen) == 2)
    assert seen == [True, False]
    for watch, channel in zip(watches, (there, absent), strict=True):
        assert watch.pv == channel.pv
        watch.close()
        assert watch.closed


def test_on_connection_runs_in_the_default_delivery(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("double", protocol)
    names: list[str] = []

    watch = channel.on_connection(lambda connected: names.append(threading.current_thread().name))

    until(lambda: names)
    assert set(names) == {"epicsrs-delivery"}
    watch.close()


def test_on_access_tells_the_rights_and_each_change_once(ioc: Ioc, lane: Delivery) -> None:
    channel, gate = ioc.channel("gated"), ioc.channel("gate")
    gate.put(0.0)
    until(lambda: channel.info().writable)
    seen: list[tuple[object, object]] = []
    watch = channel.on_access(lambda read, write: seen.append((read, write)), delivery=lane)
    until(lambda: seen == [(True, True)])

    gate.put(1.0)
    until(lambda: len(seen) == 2)
    gate.put(0.0)
    until(lambda: len(seen) == 3)

    assert seen == [(True, True), (True, False), (True, True)]
    watch.close()


def test_on_access_says_nothing_that_pva_does_not_tell(ioc: Ioc, lane: Delivery) -> None:
    channel = ioc.channel("gated", "pva")
    channel.connect()
    seen: list[tuple[object, object]] = []

    watch = channel.on_access(lambda read, write: seen.append((read, write)), delivery=lane)

    until(lambda: seen)
    assert seen == [(None, None)]
    watch.close()


def test_many_threads_read_one_channel(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("long", protocol)

    def read(_: int) -> set[int]:
        return {channel.get(timeout=20.0).value for _ in range(200)}

    with ThreadPoolExecutor(32) as pool:
        assert set().union(*pool.map(read, range(32))) == {-42}


def test_closing_one_channel_leaves_others_to_the_same_pv(ioc: Ioc, protocol: str, call: Call) -> None:
    one, other = ioc.channel("double", protocol), ioc.channel("double", protocol)
    updates: list[Reading] = []
    subscription = other.monitor(updates.append)
    one.connect()

    one.close()

    assert one.closed and not other.closed
    assert call(other.get).value == 3.25
    assert not subscription.closed
    subscription.close()


def test_info_of_a_pvaccess_channel_has_the_types_of_its_structure(ioc: Ioc, call: Call) -> None:
    info = call(ioc.channel("double", "pva").info)

    assert info.structure.id == "epics:nt/NTScalar:1.0"
    assert info.structure["value"] == "double"
    assert info.structure["alarm"] == {"severity": "int", "status": "int", "message": "string"}
    assert info.structure["display"]["units"] == "string"
    assert call(ioc.channel("double", "ca").info).structure is None
