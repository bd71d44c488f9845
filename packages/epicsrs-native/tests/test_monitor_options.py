"""Masks over Channel Access, pvRequests over pvAccess, and what a running monitor saves a get."""

from collections.abc import Callable
from typing import Any

import pytest

from deadline import until
from epicsrs_native import DBE_ALARM, DBE_LOG, DBE_PROPERTY, DBE_VALUE, NotConnectedError, Reading
from ioc import Ioc

Call = Callable[..., Any]


@pytest.mark.parametrize(
    ("mask", "seen"),
    [
        (None, [0.0, 2.0, 9.0]),
        (DBE_VALUE | DBE_ALARM, [0.0, 2.0, 9.0]),
        (DBE_VALUE, [0.0, 2.0, 9.0]),
        (DBE_LOG, [0.0, 9.0]),
        (DBE_ALARM, [0.0, 9.0]),
        (DBE_PROPERTY, [0.0]),
    ],
)
def test_a_mask_chooses_the_events(ioc: Ioc, mask: int | None, seen: list[float]) -> None:
    channel = ioc.channel("banded")
    channel.put(0.0)
    readings: list[Reading] = []
    subscription = channel.monitor(readings.append, mask=mask)
    # Another subscription with every event on the same circuit: when it has the last, the first has had all of its.
    every: list[Reading] = []
    other = channel.monitor(every.append, mask=DBE_VALUE | DBE_LOG | DBE_ALARM)
    until(lambda: readings and every)

    for value in (0.5, 2.0, 9.0):
        channel.put(value)

    until(lambda: every[-1].value == 9.0)
    subscription.close()
    other.close()
    assert [reading.value for reading in readings] == seen


@pytest.mark.parametrize("mask", [0, 16, -1, "5", 2.0, True])
def test_a_bad_mask_is_an_error(ioc: Ioc, call: Call, mask: Any) -> None:
    channel = ioc.channel("double")

    with pytest.raises((ValueError, TypeError), match=f"{channel.pv}: mask"):
        call(channel.monitor, str, mask=mask)


def test_each_protocol_refuses_the_options_of_the_other(ioc: Ioc, call: Call) -> None:
    ca, pva = ioc.channel("double", "ca"), ioc.channel("double", "pva")

    with pytest.raises(ValueError, match=rf"{pva.pv}: mask .*Channel Access"):
        call(pva.monitor, str, mask=DBE_VALUE)
    for operation, arguments in ((ca.get, ()), (ca.put, (1.0,)), (ca.monitor, (str,))):
        with pytest.raises(ValueError, match=rf"{ca.pv}: request .*pvAccess"):
            call(operation, *arguments, request="field(value)")


def test_a_request_for_fields(ioc: Ioc, call: Call) -> None:
    channel = ioc.channel("double", "pva")

    value_only = call(channel.get, request="field(value)")
    assert (value_only.value, value_only.timestamp, value_only.severity) == (3.25, None, None)

    stamped = call(channel.get, request="field(value,timeStamp)")
    assert stamped.timestamp_ns is not None
    assert stamped.severity is None

    part = call(channel.get, request="field(display.units,display.precision)")
    assert part.value == {"display": {"units": "mbar", "precision": 3}}


def test_a_request_can_have_the_record_processed(ioc: Ioc, call: Call) -> None:
    channel, count = ioc.channel("counted", "pva"), ioc.channel("count")
    before = count.get().value

    call(channel.put, 1.0, request="record[process=true,block=true]field(value)")
    call(channel.put, 2.0, request="record[process=false]field(value)")

    assert count.get().value == before + 1
    assert channel.get().value == 2.0


def test_a_monitor_with_a_request(ioc: Ioc) -> None:
    channel = ioc.channel("put_double", "pva")
    channel.put(1.0)
    readings: list[Reading] = []
    subscription = channel.monitor(readings.append, request="record[queueSize=50]field(value)")
    until(lambda: readings)
    channel.put(2.0)
    until(lambda: readings[-1].value == 2.0)
    subscription.close()

    assert [reading.value for reading in readings] == [1.0, 2.0]
    assert all(reading.timestamp is None for reading in readings)


@pytest.mark.parametrize("request_", ["field(value", "record[", "field(value))", "value)"])
def test_what_is_no_request_is_named(ioc: Ioc, call: Call, request_: str) -> None:
    channel = ioc.channel("double", "pva")

    with pytest.raises(ValueError, match=channel.pv):
        call(channel.get, request=request_)


def test_a_request_for_fields_that_are_not_there_is_refused(ioc: Ioc, call: Call) -> None:
    channel = ioc.channel("double", "pva")

    with pytest.raises(Exception, match=channel.pv) as caught:
        call(channel.get, request="field(nonsense)")
    assert getattr(caught.value, "pv", None) == channel.pv


def test_a_cached_get_takes_what_the_monitor_has_and_tells_its_age(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("double", protocol)
    readings: list[Reading] = []
    subscription = channel.monitor(readings.append)
    until(lambda: readings)

    cached = call(channel.get, cached=True)
    fresh = call(channel.get)

    assert (cached.value, cached.timestamp_ns) == (fresh.value, fresh.timestamp_ns)
    assert cached.age is not None
    assert 0.0 < cached.age < 5.0
    assert fresh.age is None
    subscription.close()


def test_a_cached_get_asks_nothing_of_the_server(second_ioc: Ioc, protocol: str, call: Call) -> None:
    channel = second_ioc.channel("double", protocol)
    subscription = channel.monitor(str)
    with second_ioc.frozen():
        assert call(channel.get, cached=True, timeout=0.5).value == 3.25
    subscription.close()


def test_a_cached_get_without_a_monitor_reads(ioc: Ioc, protocol: str, call: Call) -> None:
    reading = call(ioc.channel("double", protocol).get, cached=True)

    assert reading.value == 3.25
    assert reading.age is None


def test_a_cached_get_for_metadata_needs_a_monitor_with_metadata(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("double", protocol)
    subscription = channel.monitor(str)
    assert call(channel.get, cached=True, form="ctrl").age is None
    full = channel.monitor(str, form="ctrl")

    cached = call(channel.get, cached=True, form="ctrl")

    assert cached.age is not None
    assert cached.metadata.units == "mbar"
    subscription.close()
    full.close()


def test_a_cached_get_takes_no_monitor_that_is_not_told_of_new_values(ioc: Ioc, call: Call) -> None:
    channel = ioc.channel("put_long")
    channel.put(1)
    readings: list[Reading] = []
    subscription = channel.monitor(readings.append, mask=DBE_ALARM)
    until(lambda: readings)
    channel.put(2)

    cached = call(channel.get, cached=True)

    assert (cached.value, cached.age) == (2, None)
    subscription.close()


def test_a_cached_get_takes_no_monitor_of_the_value_alone(ioc: Ioc, call: Call) -> None:
    channel = ioc.channel("double", "pva")
    subscription = channel.monitor(str, form="value")

    timed, bare = call(channel.get, cached=True), call(channel.get, cached=True, form="value")

    assert (timed.age, timed.severity) == (None, 0)
    assert bare.age is not None
    subscription.close()


def test_a_cached_get_never_gives_the_value_of_a_lost_server(mortal_ioc: Ioc, protocol: str, call: Call) -> None:
    channel = mortal_ioc.channel("double", protocol)
    subscription = channel.monitor(str)
    assert call(channel.get, cached=True).value == 3.25
    mortal_ioc.kill()
    until(lambda: not channel.connected)

    with pytest.raises(NotConnectedError, match=channel.pv):
        call(channel.get, cached=True, timeout=0.2)
    subscription.close()


def test_a_cached_array_is_cut_to_its_count(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("partial", protocol)
    subscription = channel.monitor(str)

    assert call(channel.get, cached=True, count=2).value.tolist() == [1.5, 2.5]
    assert call(channel.get, cached=True).value.tolist() == [1.5, 2.5, 3.5]
    subscription.close()
