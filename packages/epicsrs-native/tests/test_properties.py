"""Metadata that follows its record: monitors with form="ctrl", property events, enum labels."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from deadline import until
from epicsrs_native import Channel, Reading
from ioc import Ioc

Call = Callable[..., Any]


@contextmanager
def watched(channel: Channel, **options: Any) -> Iterator[list[Reading]]:
    """The channel's readings as they come."""
    readings: list[Reading] = []
    subscription = channel.monitor(readings.append, **options)
    try:
        yield readings
    finally:
        subscription.close()


@contextmanager
def changed(ioc: Ioc, field: str, value: object) -> Iterator[None]:
    """A field of a record, with another value for a while."""
    channel = ioc.channel(field)
    before = channel.get().value
    channel.put(value)
    try:
        yield
    finally:
        channel.put(before)


def test_every_update_carries_the_metadata(ioc: Ioc, protocol: str) -> None:
    with watched(ioc.channel("double", protocol), form="ctrl") as readings:
        until(lambda: readings)

    assert [reading.value for reading in readings] == [3.25]
    metadata = readings[0].metadata
    assert metadata is not None
    assert (metadata.units, metadata.precision) == ("mbar", 3)
    assert metadata.limits is not None
    assert metadata.limits.control == (-20.0, 20.0)


def test_other_forms_carry_none(ioc: Ioc, protocol: str) -> None:
    with watched(ioc.channel("double", protocol)) as readings:
        until(lambda: readings)

    assert readings[0].metadata is None
    assert readings[0].severity == 0


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("EGU", "Pa", lambda metadata: metadata.units == "Pa"),
        ("PREC", 5, lambda metadata: metadata.precision == 5),
        ("HOPR", 500.0, lambda metadata: metadata.limits.display[1] == 500.0),
    ],
)
def test_a_changed_property_is_an_update(
    ioc: Ioc, protocol: str, field: str, value: object, found: Callable[[Any], bool]
) -> None:
    with watched(ioc.channel("double", protocol), form="ctrl") as readings:
        until(lambda: readings)
        assert not found(readings[-1].metadata)
        with changed(ioc, f"double.{field}", value):
            until(lambda: found(readings[-1].metadata))

        until(lambda: not found(readings[-1].metadata))
    assert {reading.value for reading in readings} == {3.25}


def test_values_after_a_change_of_units_have_the_new_ones(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("put_double", protocol)
    with watched(channel, form="ctrl") as readings, changed(ioc, "put_double.EGU", "furlong"):
        until(lambda: readings and readings[-1].metadata.units == "furlong")
        channel.put(17.5)
        until(lambda: readings[-1].value == 17.5)

        assert readings[-1].metadata is not None
        assert readings[-1].metadata.units == "furlong"


def test_a_new_label_is_known_at_once(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("put_choice", protocol)
    channel.put(2)
    assert call(channel.get).value.label == "Fault"

    with changed(ioc, "put_choice.TWST", "Tripped"):
        until(lambda: call(channel.get).value.label == "Tripped")
        call(channel.put, "Idle")
        call(channel.put, "Tripped")

        assert call(channel.get).value == 2
        with pytest.raises(ValueError, match="Fault"):
            call(channel.put, "Fault")
    until(lambda: call(channel.get).value.label == "Fault")


def test_a_monitor_shows_a_new_label(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("put_choice", protocol)
    channel.put(2)
    with watched(channel, form="ctrl") as readings:
        until(lambda: readings)
        with changed(ioc, "put_choice.TWST", "Tripped"):
            until(lambda: readings[-1].value.label == "Tripped")

            assert readings[-1].metadata is not None
            assert readings[-1].metadata.choices == ("Idle", "Moving", "Tripped")
        until(lambda: readings[-1].value.label == "Fault")


def test_both_forms_of_one_pv_run_side_by_side(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)
    with watched(channel) as plain, watched(channel, form="ctrl") as full:
        until(lambda: plain and full)
        for value in range(1, 6):
            channel.put(value)
        until(lambda: plain[-1].value == 5 and full[-1].value == 5)

    assert all(reading.metadata is None for reading in plain)
    assert all(reading.metadata is not None for reading in full)


def test_the_metadata_is_that_of_the_restarted_record(mortal_ioc: Ioc, protocol: str) -> None:
    channel = mortal_ioc.channel("double", protocol)
    with watched(channel, form="ctrl") as readings:
        until(lambda: readings)
        mortal_ioc.channel("double.EGU").put("Pa")
        until(lambda: readings[-1].metadata.units == "Pa")

        mortal_ioc.kill()
        until(lambda: not channel.connected)
        mortal_ioc.start()
        until(lambda: readings[-1].metadata.units == "mbar", 20.0)

    assert readings[-1].value == 3.25
