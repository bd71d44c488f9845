"""put: what arrives, when it is finished, what the server refuses."""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from deadline import Stopwatch, until
from epicsrs_native import AccessDeniedError, Delivery, EnumValue, EpicsError, RemoteError, ReplyTimeoutError
from ioc import Ioc

Call = Callable[..., Any]

# Record, what is put, what is read back where that is not the same.
PUTS: list[tuple[Any, ...]] = [
    ("put_double", 1.5),
    ("put_double", 2, 2.0),
    ("put_double", 5e-324),
    ("put_double", math.inf),
    ("put_double", np.float64(-0.1)),
    ("put_double", np.float32(0.5), 0.5),
    ("put_double", np.int16(-3), -3.0),
    ("put_long", 7),
    ("put_long", -2147483648),
    ("put_long", 2147483647),
    ("put_long", 3.0, 3),
    ("put_long", np.int64(5), 5),
    ("put_long", np.uint8(200), 200),
    ("put_long", np.float64(-4.0), -4),
    ("put_int64", 2**52),
    ("put_int64", -(2**52)),
    ("put_string", ""),
    ("put_string", "x" * 39),
    ("put_string", "µm, °C"),
    ("put_string", np.str_("numpy"), "numpy"),
    ("put_binary", 1),
    ("put_binary", "Closed", 0),
    ("put_binary", "Open", 1),
    ("put_binary", EnumValue(0, "Closed"), 0),
    ("put_binary", np.int32(1), 1),
    ("put_choice", "Fault", 2),
    ("put_choice", "Idle", 0),
    ("put_choice", 1),
    ("put_choice", EnumValue(2), 2),
    ("put_double", [2.5], 2.5),
    ("put_long", np.array([6]), 6),
    ("put_string", ["alone"], "alone"),
    ("put_binary", [1], 1),
    ("put_choice", ["Fault"], 2),
    ("put_double.PREC", 4),
    ("put_double.PINI", "RUNNING", 3),
]

ARRAYS: list[tuple[str, Any]] = [
    ("put_chars", np.array([0, 1, 127], np.int8)),
    ("put_uchars", np.array([0, 1, 255], np.uint8)),
    ("put_shorts", np.array([-32768, 32767], np.int16)),
    ("put_ushorts", np.array([0, 65535], np.uint16)),
    ("put_longs", np.array([-(2**31), 2**31 - 1], np.int32)),
    ("put_ulongs", np.array([0, 2**32 - 1], np.uint32)),
    ("put_int64s", np.array([-(2**52), 2**52], np.int64)),
    ("put_uint64s", np.array([0, 2**52], np.uint64)),
    ("put_floats", np.array([-1.5, 0.25], np.float32)),
    ("put_doubles", np.array([math.pi, -1e-300, 1e300])),
    ("put_doubles", [1, 2.5, 3]),
    ("put_doubles", (1.0, 2.0)),
    ("put_doubles", [9.5]),
    ("put_doubles", np.arange(8)),
    ("put_doubles", np.arange(16.0)[::2]),
    ("put_doubles", np.arange(4, dtype=">f8")),
    ("put_longs", [1, 2, 3]),
    ("put_longs", np.array([1.0, -2.0])),
    ("put_longs", np.array([7], np.uint64)),
    ("put_strings", ["a", "", "x" * 39]),
    ("put_strings", np.array(["numpy", "strings"])),
]


@pytest.mark.parametrize("wait", [True, False], ids=["wait", "no wait"])
@pytest.mark.parametrize("put", PUTS, ids=lambda put: f"{put[0]} {str(put[1])[:12]!a}")
def test_a_value_arrives(ioc: Ioc, protocol: str, call: Call, put: tuple[Any, ...], wait: bool) -> None:
    channel = ioc.channel(put[0], protocol)

    assert call(channel.put, put[1], wait=wait) is None

    # Without wait too: the requests of one channel are served in order.
    assert call(channel.get).value == put[-1]
    assert ioc.channel(put[0], "pva" if protocol == "ca" else "ca").get().value == put[-1]


@pytest.mark.parametrize("wait", [True, False], ids=["wait", "no wait"])
@pytest.mark.parametrize(("record", "values"), ARRAYS, ids=lambda part: part if type(part) is str else "")
def test_an_array_arrives(ioc: Ioc, protocol: str, call: Call, record: str, values: Any, wait: bool) -> None:
    channel = ioc.channel(record, protocol)

    call(channel.put, values, wait=wait)

    assert list(call(channel.get).value) == list(values)
    assert list(ioc.channel(record, "pva" if protocol == "ca" else "ca").get().value) == list(values)


def test_all_bits_of_a_64_bit_integer_arrive_over_pva(ioc: Ioc, call: Call) -> None:
    for record, value in (("put_int64", 2**63 - 1), ("put_int64", -(2**63)), ("put_int64", 2**53 + 1)):
        channel = ioc.channel(record, "pva")
        call(channel.put, value)
        assert call(channel.get).value == value
    channel = ioc.channel("put_uint64s", "pva")
    call(channel.put, [2**64 - 1, 2**53 + 1])
    assert call(channel.get).value.tolist() == [2**64 - 1, 2**53 + 1]


def test_an_empty_array_arrives_over_pva(ioc: Ioc, call: Call) -> None:
    channel = ioc.channel("put_doubles", "pva")
    call(channel.put, [1.0])

    call(channel.put, np.array([], float))

    assert call(channel.get).value.tolist() == []


def test_the_array_may_change_after_the_call(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("put_doubles", protocol)
    channel.connect()
    values = np.arange(4.0)

    async def main() -> None:
        operation = channel.put_async(values)
        values[:] = -1.0
        await operation

    asyncio.run(main())
    assert channel.get().value.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_wait_takes_the_time_of_the_record(ioc: Ioc, protocol: str, call: Call) -> None:
    channel, done = ioc.channel("slow.A", protocol), ioc.channel("slow_done", protocol)
    channel.connect()
    value = call(done.get).value + 1.0
    watch = Stopwatch()

    call(channel.put, value)

    assert 0.49 <= watch.elapsed <= 1.0
    assert call(done.get).value == value


def test_no_wait_returns_at_once(ioc: Ioc, protocol: str, call: Call) -> None:
    channel, done = ioc.channel("slow.A", protocol), ioc.channel("slow_done", protocol)
    channel.connect()
    value = done.get().value + 1.0
    watch = Stopwatch()

    call(channel.put, value, wait=False)

    assert watch.elapsed <= 0.3
    assert done.get().value == value - 1.0
    until(lambda: done.get().value == value)


@pytest.mark.parametrize("twin", ["sync", "async"])
def test_two_racing_puts_each_wait_for_their_own_completion(ioc: Ioc, protocol: str, twin: str) -> None:
    """The record handles one after the other, 0.5 s each."""
    one, other = ioc.channel("slow.A", protocol), ioc.channel("slow.A", protocol)
    done = ioc.channel("slow_done", protocol)
    value = done.get().value
    one.connect()
    other.connect()
    watch = Stopwatch()

    def put(channel: Any, step: float) -> float:
        channel.put(value + step)
        return watch.elapsed

    async def put_async(channel: Any, step: float) -> float:
        await channel.put_async(value + step)
        return watch.elapsed

    async def race() -> list[float]:
        return await asyncio.gather(put_async(one, 1.0), put_async(other, 2.0))

    if twin == "sync":
        with ThreadPoolExecutor(2) as pool:
            times = list(pool.map(put, (one, other), (1.0, 2.0)))
    else:
        times = asyncio.run(race())

    first, second = sorted(times)
    assert 0.49 <= first <= 0.8
    assert 0.98 <= second <= 1.5
    assert done.get().value in ((value + 2.0,) if twin == "async" else (value + 1.0, value + 2.0))


def test_a_late_completion_is_not_taken_for_the_next_one(ioc: Ioc, protocol: str, call: Call) -> None:
    channel, done = ioc.channel("slow.A", protocol), ioc.channel("slow_done", protocol)
    value = done.get().value
    channel.connect()
    with pytest.raises(ReplyTimeoutError, match=channel.pv):
        call(channel.put, value + 1.0, timeout=0.1)
    watch = Stopwatch()

    call(channel.put, value + 2.0)

    # The record is still busy with the first, then takes 0.5 s for this one.
    assert 0.6 <= watch.elapsed <= 1.5
    assert done.get().value == value + 2.0


@pytest.mark.parametrize("wait", [True, False], ids=["wait", "no wait"])
def test_a_get_after_a_put_reads_what_was_put(ioc: Ioc, protocol: str, call: Call, wait: bool) -> None:
    channel = ioc.channel("put_long", protocol)

    for value in range(50):
        call(channel.put, value, wait=wait)
        assert call(channel.get).value == value


def test_a_refused_put_raises_in_the_words_of_the_server(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("locked", protocol)

    with pytest.raises(RemoteError, match=channel.pv) as caught:
        call(channel.put, 1.0)

    assert caught.value.pv == channel.pv
    assert caught.value.reason and caught.value.reason in str(caught.value)
    assert call(channel.get).value == 0.0


def test_a_late_refusal_goes_to_on_error_and_is_counted(ioc: Ioc, call: Call, lane: Delivery) -> None:
    """Over CA: a put without wait has returned when the server refuses."""
    channel = ioc.channel("locked")
    channel.connect()
    errors: list[EpicsError] = []
    watch = channel.on_error(errors.append, delivery=lane)
    assert channel.refused == 0

    for expected in (1, 2):
        call(channel.put, 1.0, wait=False)
        until(lambda expected=expected: len(errors) == expected)
        assert channel.refused == expected

    assert all(isinstance(error, RemoteError) and error.pv == channel.pv for error in errors)
    watch.close()


def test_a_refusal_without_wait_raises_over_pva(ioc: Ioc, call: Call) -> None:
    """Its put without wait returns at the server's reply."""
    with pytest.raises(RemoteError, match="locked"):
        call(ioc.channel("locked", "pva").put, 1.0, wait=False)


def test_a_put_against_access_security_is_access_denied(ioc: Ioc, protocol: str, call: Call) -> None:
    channel, gate = ioc.channel("gated", protocol), ioc.channel("gate")
    gate.put(0.0)
    call(channel.put, 1.0)
    gate.put(1.0)
    # The server tells the client of the change beside the reply to that put.
    if protocol == "ca":
        until(lambda: not channel.info().writable)

    with pytest.raises(AccessDeniedError, match=channel.pv):
        call(channel.put, 2.0)
    assert call(channel.get).value == 1.0

    gate.put(0.0)
    if protocol == "ca":
        until(lambda: channel.info().writable)
    call(channel.put, 2.0)
