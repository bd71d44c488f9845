"""connect_many, get_many and put_many: many PVs, both protocols, one deadline, errors beside values."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deadline import Stopwatch, until
from epicsrs_native import (
    Channel,
    Columns,
    Delivery,
    EpicsError,
    NotConnectedError,
    Reading,
    ReplyTimeoutError,
    get_context,
)
from ioc import NETWORK, Ioc

Call = Callable[..., Any]

# More than one wave of requests, and more than a circuit's queue holds.
CROWD = 5000


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    """An IOC with CROWD records, n-th of value n."""
    folder = tmp_path_factory.mktemp("crowd")
    database = Path(folder, "crowd.db")
    database.write_text(
        "\n".join(f'record(ao, "$(P){n}") {{ field(VAL, "{n}") field(PINI, "YES") }}' for n in range(CROWD))
    )
    ioc = Ioc(NETWORK.iocs[2], folder, [database])
    ioc.start()
    yield ioc
    ioc.kill()


def channels(ioc: Ioc, *records: str) -> list[Channel]:
    """Two channels for each record: over Channel Access and over pvAccess."""
    return [ioc.channel(record, protocol) for record in records for protocol in ("ca", "pva")]


def test_readings_come_in_the_order_of_the_channels_over_both_protocols(ioc: Ioc, call: Call) -> None:
    readings = call(get_context().get_many, channels(ioc, "double", "long", "string", "choice", "partial"), form="ctrl")

    values = [reading.value for reading in readings]
    assert values[:8] == [3.25, 3.25, -42, -42, "hello", "hello", 2, 2]
    assert [value.label for value in values[6:8]] == ["Fault", "Fault"]
    assert [array.tolist() for array in values[8:]] == [[1.5, 2.5, 3.5]] * 2
    assert [reading.metadata.units for reading in readings[:2]] == ["mbar", "mbar"]
    assert all(reading.timestamp_ns > 1.6e18 and reading.severity is not None for reading in readings)


def test_count_limits_each_array(ioc: Ioc, call: Call) -> None:
    readings = call(get_context().get_many, channels(ioc, "partial", "single", "empty"), count=2)

    assert [reading.value.tolist() for reading in readings] == [[1.5, 2.5]] * 2 + [[4.5]] * 2 + [[]] * 2


def test_columns_of_floats(ioc: Ioc, call: Call) -> None:
    given = channels(ioc, "double", "too_high", "high")

    columns = call(get_context().get_many, given, columns=True)

    assert isinstance(columns, Columns)
    assert columns.value.dtype == np.float64
    assert columns.value.tolist() == [3.25, 3.25, 12.0, 12.0, 8.0, 8.0]
    assert columns.severity.tolist() == [0, 0, 2, 2, 1, 1]
    assert columns.timestamp_ns.tolist() == [channel.get().timestamp_ns for channel in given]
    assert columns.status.tolist() == [channel.get().status for channel in given]
    assert columns.error == {}
    assert len(columns) == 6


def test_columns_of_integers_and_enums_are_integers(ioc: Ioc, call: Call) -> None:
    columns = call(get_context().get_many, channels(ioc, "long", "choice"), columns=True)

    assert columns.value.dtype == np.int64
    assert columns.value.tolist() == [-42, -42, 2, 2]


def test_columns_of_different_kinds_are_a_list(ioc: Ioc, call: Call) -> None:
    columns = call(get_context().get_many, channels(ioc, "string", "partial", "double"), columns=True)

    assert isinstance(columns.value, list)
    assert columns.value[:2] == ["hello", "hello"]
    assert [array.tolist() for array in columns.value[2:4]] == [[1.5, 2.5, 3.5]] * 2
    assert columns.value[4:] == [3.25, 3.25]


def test_waveforms_of_unequal_length_are_columns_too(ioc: Ioc, call: Call) -> None:
    given = channels(ioc, "doubles", "single", "empty", "strings")

    columns = call(get_context().get_many, given, columns=True)

    assert [len(value) for value in columns.value] == [3, 3, 1, 1, 0, 0, 3, 3]
    assert [value.dtype for value in columns.value[:6]] == [np.float64] * 6
    assert columns.value[6:] == [["a", "", "bc"]] * 2
    assert columns.timestamp_ns.tolist() == [channel.get().timestamp_ns for channel in given]
    assert (len(columns), columns.severity.tolist(), columns.error) == (8, [0] * 8, {})


def test_columns_of_text_are_a_list(ioc: Ioc, call: Call) -> None:
    given = channels(ioc, "string", "string_in")

    columns = call(get_context().get_many, given, columns=True)

    assert columns.value == ["hello"] * 2 + ["123456789012345678901234567890123456789"] * 2


def test_errors_stand_beside_values(ioc: Ioc, protocol: str, call: Call) -> None:
    absent = ioc.channel("absent", protocol)
    watch = Stopwatch()

    readings = call(get_context().get_many, [ioc.channel("double", protocol), absent, ioc.channel("long")], timeout=0.5)

    assert 0.5 <= watch.elapsed < 1.0
    assert [readings[0].value, readings[2].value] == [3.25, -42]
    assert isinstance(readings[1], NotConnectedError)
    assert readings[1].pv == absent.pv
    assert str(readings[1]).startswith(absent.pv)


def test_a_failed_pv_in_columns_is_nan_without_time_and_alarm(ioc: Ioc, protocol: str, call: Call) -> None:
    absent = ioc.channel("absent", protocol)

    columns = call(get_context().get_many, [absent, ioc.channel("double")], columns=True, timeout=0.3)

    assert np.isnan(columns.value[0])
    assert columns.value[1] == 3.25
    assert np.isnat(columns.timestamp_ns.astype("datetime64[ns]")).tolist() == [True, False]
    assert columns.severity.tolist() == [-1, 0]
    assert columns.status[0] == -1
    assert list(columns.error) == [absent.pv]
    assert isinstance(columns.error[absent.pv], NotConnectedError)


def test_one_failed_pv_makes_integers_a_list(ioc: Ioc) -> None:
    columns = get_context().get_many([ioc.channel("absent"), ioc.channel("long")], columns=True, timeout=0.3)

    assert columns.value == [None, -42]


def test_a_frozen_server_costs_its_own_pvs_only(ioc: Ioc, second_ioc: Ioc, protocol: str, call: Call) -> None:
    frozen = second_ioc.channel("double", protocol)
    frozen.connect()
    with second_ioc.frozen():
        readings = call(get_context().get_many, [frozen, ioc.channel("double", protocol)], timeout=0.4)

    assert isinstance(readings[0], ReplyTimeoutError)
    assert readings[1].value == 3.25


def test_connect_many_tells_who_is_not_there(ioc: Ioc, call: Call) -> None:
    given = [*channels(ioc, "double", "long"), *channels(ioc, "absent")]

    results = call(get_context().connect_many, given, timeout=0.5)

    assert results[:4] == [None] * 4
    assert all(isinstance(error, NotConnectedError) for error in results[4:])
    assert [error.pv for error in results[4:]] == [channel.pv for channel in given[4:]]
    assert [channel.connected for channel in given] == [True] * 4 + [False] * 2


def test_put_many_writes_in_the_order_of_the_channels(ioc: Ioc, protocol: str, call: Call) -> None:
    given = [ioc.channel(record, protocol) for record in ("put_double", "put_choice", "put_doubles", "put_string")]

    results = call(get_context().put_many, given, [1.25, "Moving", [1.0, 2.0], "text"])

    assert results == [None] * 4
    values = [channel.get().value for channel in given]
    assert (values[0], values[1].label, values[2].tolist(), values[3]) == (1.25, "Moving", [1.0, 2.0], "text")


def test_put_many_waits_for_completion_of_all_at_once(ioc: Ioc, protocol: str, call: Call) -> None:
    slow = ioc.channel("slow.A", protocol)
    watch = Stopwatch()

    results = call(get_context().put_many, [slow, ioc.channel("put_double", protocol)], [4.5, 1.0], timeout=5.0)

    assert results == [None, None]
    assert 0.45 <= watch.elapsed < 2.0
    assert ioc.channel("slow_done").get().value == 4.5


def test_a_refused_put_stands_beside_the_others(ioc: Ioc, protocol: str, call: Call) -> None:
    given = [ioc.channel(record, protocol) for record in ("locked", "put_long", "put_double")]

    refused, bad, fine = call(get_context().put_many, given, [1.0, 2.5, 3.5])

    assert isinstance(refused, EpicsError)
    assert refused.pv == given[0].pv
    assert isinstance(bad, ValueError)
    assert given[1].pv in str(bad)
    assert "2.5" in str(bad)
    assert fine is None
    assert given[2].get().value == 3.5


def test_a_value_that_epics_cannot_hold_sends_nothing(ioc: Ioc, call: Call) -> None:
    given = [ioc.channel("put_double"), ioc.channel("put_long")]
    given[0].put(-1.0)

    with pytest.raises(TypeError, match=given[1].pv):
        call(get_context().put_many, given, [7.0, object()])

    assert given[0].get().value == -1.0


@pytest.mark.parametrize(
    ("given", "error"),
    [(["PV"], TypeError), ("PV", TypeError), ([None], TypeError), (5, TypeError)],
)
def test_channels_that_are_none_are_named(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"PV|P|None|int"):
        get_context().get_many(given)


def test_a_closed_channel_is_named(ioc: Ioc, call: Call) -> None:
    closed = ioc.channel("double")
    closed.close()

    with pytest.raises(ValueError, match=f"{closed.pv}.*closed"):
        call(get_context().get_many, [ioc.channel("long"), closed])


def test_wrong_lengths_and_timeouts_are_told(ioc: Ioc, call: Call) -> None:
    given = channels(ioc, "put_double")

    with pytest.raises(ValueError, match="3 values for 2 channels"):
        call(get_context().put_many, given, [1, 2, 3])
    with pytest.raises(ValueError, match=f"{given[0].pv}.*NaN"):
        call(get_context().get_many, given, timeout=float("nan"))
    with pytest.raises(ValueError, match=f"{given[0].pv}.*form"):
        call(get_context().get_many, given, form="all")
    with pytest.raises(ValueError, match=f"{given[0].pv}.*count"):
        call(get_context().get_many, given, count=-1)


def test_an_empty_list_is_an_empty_answer(call: Call) -> None:
    context = get_context()

    assert call(context.get_many, []) == []
    assert call(context.connect_many, []) == []
    assert call(context.put_many, [], []) == []
    assert len(call(context.get_many, [], columns=True)) == 0


def test_a_pv_may_stand_twice(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("double", protocol)

    assert [reading.value for reading in call(get_context().get_many, [channel, channel])] == [3.25, 3.25]


def test_cancelling_withdraws_all_of_it(ioc: Ioc, second_ioc: Ioc, protocol: str) -> None:
    frozen = second_ioc.channel("double", protocol)
    frozen.connect()

    async def main() -> None:
        operation = get_context().get_many_async([frozen, ioc.channel("double", protocol)], timeout=None)
        assert operation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await operation

    with second_ioc.frozen():
        asyncio.run(main())
    assert frozen.get().value == 3.25


def test_thousands_connect_are_read_and_written(crowd: Ioc, protocol: str, call: Call) -> None:
    given = [crowd.channel(str(n), protocol) for n in range(CROWD)]

    assert call(get_context().connect_many, given, timeout=20.0) == [None] * CROWD
    columns = call(get_context().get_many, given, columns=True, timeout=20.0)
    written = call(get_context().put_many, given, columns.value + 0.5, timeout=20.0)
    readings = call(get_context().get_many, given, timeout=20.0)
    call(get_context().put_many, given, columns.value, timeout=20.0)

    assert columns.value.tolist() == list(range(CROWD))
    assert written == [None] * CROWD
    assert all(isinstance(reading, Reading) for reading in readings)
    assert [reading.value for reading in readings] == [n + 0.5 for n in range(CROWD)]


def test_of_thousands_the_absent_ones_are_named_and_delay_no_other(crowd: Ioc, protocol: str, call: Call) -> None:
    """Half of them, between the others."""
    present = [crowd.channel(str(n), protocol) for n in range(0, CROWD, 2)]
    absent = [crowd.channel(f"absent{n}", protocol) for n in range(0, CROWD, 2)]
    given = [channel for pair in zip(present, absent, strict=True) for channel in pair]

    errors = call(get_context().connect_many, given, timeout=3.0)

    assert errors[0::2] == [None] * len(present)
    assert {type(error) for error in errors[1::2]} == {NotConnectedError}
    assert [error.pv for error in errors[1::2]] == [channel.pv for channel in absent]


def test_thousands_connect_within_seconds_beside_absent_ones(crowd: Ioc, protocol: str) -> None:
    absent = [crowd.channel(f"missing{n}", protocol) for n in range(CROWD // 2)]
    present = [crowd.channel(f"{n}.DESC", protocol) for n in range(CROWD // 2)]
    watch = Stopwatch()

    assert get_context().connect_many(present, timeout=20.0) == [None] * len(present)

    assert watch.elapsed <= 4.0
    assert not any(channel.connected for channel in absent)


def test_a_crowd_of_monitors_hears_all_values_also_of_a_server_that_was_restarted(crowd: Ioc, lane: Delivery) -> None:
    heard: dict[int, Reading[Any]] = {}
    for n in range(CROWD):
        crowd.channel(str(n)).monitor(partial(heard.__setitem__, n), form="ctrl", delivery=lane, wait=False)
    until(lambda: len(heard) == CROWD, 60.0)
    assert all(heard[n].value == n and heard[n].metadata is not None for n in range(CROWD))
    heard.clear()

    crowd.kill()
    crowd.start()

    until(lambda: len(heard) == CROWD, 60.0)
    assert all(heard[n].value == n and heard[n].metadata is not None for n in range(CROWD))
    assert crowd.channel("0").get().value == 0
