"""An IOC that dies and comes back on the same ports."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deadline import Stopwatch, until
from epicsrs_native import Delivery, EnumValue, NotConnectedError, Reading
from ioc import Ioc

Call = Callable[..., Any]

# To find a server again, with slack: searches slow down while nobody answers.
BACK = 20.0


def test_each_edge_is_told_once(mortal_ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel = mortal_ioc.channel("double", protocol)
    channel.connect()
    edges: list[bool] = []
    watch = channel.on_connection(edges.append, delivery=lane)
    until(lambda: edges == [True])

    mortal_ioc.kill()
    # Known within 0.5 s, and slack.
    until(lambda: edges == [True, False], 1.0, lambda: edges)
    assert not channel.connected

    mortal_ioc.start()
    until(lambda: edges == [True, False, True], BACK, lambda: edges)
    assert channel.connected
    assert channel.get().value == 3.25
    assert edges == [True, False, True]
    watch.close()


def test_an_ioc_that_ends_in_good_order_is_told_too(mortal_ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel = mortal_ioc.channel("double", protocol)
    channel.connect()
    edges: list[bool] = []
    watch = channel.on_connection(edges.append, delivery=lane)
    until(lambda: edges == [True])

    mortal_ioc.stop()

    until(lambda: edges == [True, False], 1.0, lambda: edges)
    watch.close()


def test_a_monitor_goes_on_with_the_new_server(mortal_ioc: Ioc, protocol: str, call: Call, lane: Delivery) -> None:
    channel = mortal_ioc.channel("put_double", protocol)
    channel.put(1.0)
    readings: list[Reading] = []
    subscription = call(channel.monitor, readings.append, delivery=lane)
    until(lambda: [reading.value for reading in readings] == [1.0])

    mortal_ioc.kill()
    mortal_ioc.start()
    until(lambda: readings[-1].value == 0.0, BACK)
    channel.put(2.0)
    until(lambda: readings[-1].value == 2.0)
    channel.put(3.0)
    until(lambda: readings[-1].value == 3.0)

    # The value of the new server once, and nothing twice.
    assert [reading.value for reading in readings] == [1.0, 0.0, 2.0, 3.0]
    assert not subscription.closed
    subscription.close()


def test_a_loop_goes_on_with_the_new_server(mortal_ioc: Ioc, protocol: str) -> None:
    channel = mortal_ioc.channel("put_double", protocol)
    channel.put(1.0)

    async def main() -> list[float]:
        subscription = await channel.monitor_async()
        values = [(await anext(subscription)).value]
        mortal_ioc.kill()
        mortal_ioc.start()
        values.append((await anext(subscription)).value)
        await channel.put_async(2.0)
        values.append((await anext(subscription)).value)
        subscription.close()
        return values

    assert asyncio.run(asyncio.wait_for(main(), 2 * BACK)) == [1.0, 0.0, 2.0]


@pytest.mark.parametrize(("name", "arguments"), [("get", []), ("put", [1.0])])
def test_a_request_on_the_wire_fails_at_once_when_its_circuit_falls(
    mortal_ioc: Ioc, protocol: str, call: Call, name: str, arguments: list[Any]
) -> None:
    channel = mortal_ioc.channel("counted", protocol)
    channel.get()
    with mortal_ioc.frozen(), ThreadPoolExecutor(1) as pool:
        idle = mortal_ioc.unread(protocol)
        waiting = pool.submit(call, getattr(channel, name), *arguments, timeout=30.0)
        until(lambda: mortal_ioc.unread(protocol) > idle)
        mortal_ioc.kill()
        watch = Stopwatch()

        with pytest.raises(NotConnectedError, match=channel.pv) as caught:
            waiting.result(10.0)

        assert watch.elapsed <= 1.0
        assert caught.value.pv == channel.pv

    # And it is not sent again.
    mortal_ioc.start()
    channel.connect(timeout=BACK)
    assert mortal_ioc.channel("count", protocol).get().value == 0.0
    assert channel.get().value == 0.0


def test_a_get_waits_for_a_server_within_its_timeout(mortal_ioc: Ioc, protocol: str, call: Call) -> None:
    channel = mortal_ioc.channel("double", protocol)
    mortal_ioc.kill()
    until(lambda: not channel.connected)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, channel.get, timeout=2 * BACK)
        mortal_ioc.start()
        assert waiting.result(2 * BACK).value == 3.25


def test_a_get_without_a_server_is_not_connected_error(mortal_ioc: Ioc, protocol: str, call: Call) -> None:
    channel = mortal_ioc.channel("double", protocol)
    channel.connect()
    mortal_ioc.kill()
    until(lambda: not channel.connected)
    watch = Stopwatch()

    with pytest.raises(NotConnectedError, match=channel.pv):
        call(channel.get, timeout=0.3)

    assert 0.29 <= watch.elapsed <= 0.6


def test_a_put_that_waited_for_its_server_is_sent_once(mortal_ioc: Ioc, protocol: str, call: Call) -> None:
    channel = mortal_ioc.channel("counted", protocol)
    channel.connect()
    mortal_ioc.kill()
    until(lambda: not channel.connected)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, channel.put, 4.0, timeout=2 * BACK)
        mortal_ioc.start()
        assert waiting.result(2 * BACK) is None

    assert channel.get().value == 4.0
    assert mortal_ioc.channel("count", protocol).get().value == 1.0


def test_a_put_withdrawn_before_its_server_came_is_never_sent(mortal_ioc: Ioc, protocol: str) -> None:
    channel = mortal_ioc.channel("counted", protocol)
    channel.connect()
    mortal_ioc.kill()
    until(lambda: not channel.connected)

    async def main() -> None:
        operation = channel.put_async(4.0, timeout=2 * BACK)
        await asyncio.sleep(0)
        operation.cancel()
        mortal_ioc.start()
        await channel.connect_async(timeout=BACK)
        await channel.put_async(5.0)

    asyncio.run(main())

    assert channel.get().value == 5.0
    assert mortal_ioc.channel("count", protocol).get().value == 1.0


def test_a_server_of_another_type_is_seen_as_it_is(
    mortal_ioc: Ioc, protocol: str, call: Call, lane: Delivery, tmp_path: Path
) -> None:
    """Type, count, units and labels are the new server's: nothing is remembered."""
    database = tmp_path / "changing.db"
    database.write_text('record(ao, "$(P)changing") { field(VAL, "1.5") field(EGU, "mm") field(PINI, "YES") }')
    mortal_ioc.databases.append(database)
    mortal_ioc.kill()
    mortal_ioc.start()
    channel = mortal_ioc.channel("changing", protocol)
    values: list[Any] = []
    subscription = channel.monitor(lambda reading: values.append(reading.value), delivery=lane, timeout=BACK)
    reading = call(channel.get, form="ctrl")
    assert (reading.value, reading.metadata.units) == (1.5, "mm")

    mortal_ioc.kill()
    database.write_text(
        'record(mbbo, "$(P)changing") { field(ZRST, "Out") field(ONST, "In") field(VAL, "1") field(PINI, "YES") }'
    )
    mortal_ioc.start()
    until(lambda: channel.connected, BACK)
    reading = call(channel.get, form="ctrl")
    assert type(reading.value) is EnumValue and reading.value.label == "In"
    assert reading.metadata.choices == ("Out", "In")
    until(lambda: values and values[-1] == 1 and values[-1].label == "In")
    call(channel.put, "Out")
    assert call(channel.get).value.label == "Out"

    mortal_ioc.kill()
    database.write_text('record(waveform, "$(P)changing") { field(FTVL, "LONG") field(NELM, "4") field(INP, [1, 2]) }')
    mortal_ioc.start()
    until(lambda: channel.connected, BACK)
    assert call(channel.get).value.tolist() == [1, 2]
    until(lambda: getattr(values[-1], "shape", None) == (2,))
    subscription.close()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            ("waveform", 'field(FTVL, "DOUBLE") field(NELM, "4")'),
            ("waveform", 'field(FTVL, "DOUBLE") field(NELM, "9")'),
        ),
        (("waveform", 'field(FTVL, "SHORT") field(NELM, "4")'), ("waveform", 'field(FTVL, "FLOAT") field(NELM, "4")')),
        (("mbbo", 'field(ZRST, "a") field(ONST, "b")'), ("mbbo", 'field(ZRST, "c") field(ONST, "d") field(TWST, "e")')),
        (("ao", ""), ("stringout", "")),
    ],
    ids=["longer", "of another type", "other labels", "a string"],
)
def test_info_labels_and_puts_are_the_new_servers(
    mortal_ioc: Ioc, protocol: str, tmp_path: Path, before: tuple[str, str], after: tuple[str, str]
) -> None:
    """As a channel that has never seen the old one finds them."""
    database = tmp_path / "changing.db"
    mortal_ioc.databases.append(database)

    def start(kind: str, fields: str) -> None:
        mortal_ioc.kill()
        database.write_text(f'record({kind}, "$(P)changed") {{ {fields} }}')
        mortal_ioc.start()

    start(*before)
    channel = mortal_ioc.channel("changed", protocol)
    channel.get(form="ctrl")
    old = channel.info()
    start(*after)
    until(lambda: channel.connected, BACK)

    new, fresh = channel.info(), mortal_ioc.channel("changed", protocol)
    assert (new.type, new.count) == (fresh.info().type, fresh.info().count)
    assert channel.get(form="ctrl").metadata.choices == fresh.get(form="ctrl").metadata.choices
    if "NELM" in after[1]:
        assert (new.type, new.count) != (old.type, old.count) or protocol == "pva"
        elements = [1.0] * int(after[1].split('"')[-2])
        channel.put(elements)
        assert channel.get().value.tolist() == fresh.get().value.tolist() == elements
    else:
        channel.put("d")
        assert getattr(channel.get().value, "label", channel.get().value) == "d"


def test_a_frozen_server_goes_on_where_it_was(mortal_ioc: Ioc, protocol: str, lane: Delivery) -> None:
    """No edge, no second subscription."""
    channel = mortal_ioc.channel("put_double", protocol)
    values: list[float] = []
    edges: list[bool] = []
    subscription = channel.monitor(lambda reading: values.append(reading.value), delivery=lane)
    watch = channel.on_connection(edges.append, delivery=lane)
    until(lambda: values == [0.0] and edges == [True])

    with mortal_ioc.frozen(), pytest.raises(TimeoutError):
        channel.get(timeout=1.0)

    for value in (1.0, 2.0, 3.0):
        channel.put(value)
    until(lambda: values[-1] == 3.0)
    assert values == [0.0, 1.0, 2.0, 3.0]
    assert edges == [True]
    subscription.close()
    watch.close()
