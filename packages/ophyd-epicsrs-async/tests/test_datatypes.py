"""Every datatype, read, put and monitored."""

import asyncio
import typing
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from ophyd_async.core import Array1D, SignalRW, StrictEnum, SubsetEnum, SupersetEnum

from ophyd_epicsrs_async import epicsrs_signal_r, epicsrs_signal_rw

LONG = "a string that is just longer than forty characters"


class Abc(StrictEnum):
    A = "Aaa"
    B = "Bbb"
    C = "Ccc"


class Ab(SubsetEnum):
    A = "Aaa"
    B = "Bbb"


class Abcd(SupersetEnum):
    A = "Aaa"
    B = "Bbb"
    C = "Ccc"
    D = "Ddd"


class Case(NamedTuple):
    """A record `name` to read `value` from, and a record put_`name` to put `put` to."""

    protocols: str
    name: str
    datatype: Any
    value: Any
    put: Any


def array(dtype: Any, *values: float) -> Any:
    return np.array(values, dtype)


CASES = [
    Case("ca pva", "float", float, 3.25, -1.5),
    Case("ca pva", "int", int, 42, 43),
    Case("ca pva", "whole", int, 3, 4),
    Case("ca pva", "string", str, "hello", "goodbye"),
    Case("ca pva", "long_string", str, LONG, LONG[::-1]),
    Case("ca pva", "bool", bool, True, False),
    Case("ca pva", "unnamed", bool, True, True),
    Case("ca pva", "bool", str, "Open", "Open"),
    Case("ca pva", "enum", str, "Bbb", "Ccc"),
    Case("ca pva", "enum", Abc, Abc.B, Abc.C),
    Case("ca pva", "enum", Ab, Ab.B, Ab.A),
    Case("ca pva", "enum", Abcd, Abcd.B, Abcd.C),
    Case("ca", "uchars", Array1D[np.uint8], array(np.uint8, 0, 255), array(np.uint8, 1, 2, 3)),
    Case("ca pva", "shorts", Array1D[np.int16], array(np.int16, -32768, 32767), array(np.int16, 1, 2, 3)),
    Case("ca pva", "longs", Array1D[np.int32], array(np.int32, -(2**31), 2**31 - 1), array(np.int32, 1, 2, 3)),
    Case("ca pva", "floats", Array1D[np.float32], array(np.float32, -1.5, 0.25), array(np.float32, 0.5)),
    Case("ca pva", "doubles", Array1D[np.float64], array(np.float64, -1.5e-300, 0.1), array(np.float64, 0.3, 1e300)),
    Case("ca pva", "strings", Sequence[str], ["Aaa", "Bbb"], ["x", "", "yz"]),
    Case("ca pva", "strings", Sequence[Abc], [Abc.A, Abc.B], [Abc.C]),
    Case("pva", "chars", Array1D[np.int8], array(np.int8, -128, 127), array(np.int8, 1, 2, 3)),
    Case("pva", "uchars", Array1D[np.uint8], array(np.uint8, 0, 255), array(np.uint8, 1, 2, 3)),
    Case("pva", "ushorts", Array1D[np.uint16], array(np.uint16, 0, 65535), array(np.uint16, 1, 2, 3)),
    Case("pva", "ulongs", Array1D[np.uint32], array(np.uint32, 0, 2**32 - 1), array(np.uint32, 1, 2, 3)),
    Case("pva", "int64s", Array1D[np.int64], array(np.int64, 1 - 2**63, 2**63 - 1), array(np.int64, 2**53 + 1)),
    Case("pva", "uint64s", Array1D[np.uint64], array(np.uint64, 0, 2**63 - 1), array(np.uint64, 2**63 - 1)),
    Case("pva", "string", Abc, "hello", "Aaa"),
]
EACH = [(protocol, case) for case in CASES for protocol in case.protocols.split()]
IDS = [f"{protocol}-{case.name}-{getattr(case.datatype, '__name__', case.datatype)}" for protocol, case in EACH]
every_datatype = pytest.mark.parametrize(("protocol", "case"), EACH, ids=IDS)


def assert_is(value: Any, expected: Any) -> None:
    """Equal, and of the same type."""
    assert type(value) is type(expected)
    if isinstance(expected, np.ndarray):
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)
    else:
        assert value == expected


@every_datatype
def test_read_gives_the_datatype_with_time_and_severity(ioc, run, protocol, case):
    async def main():
        signal = epicsrs_signal_r(case.datatype, ioc.pv(case.name, protocol), name="signal")
        await signal.connect()
        assert_is(await signal.get_value(), case.value)
        reading = (await signal.read())["signal"]
        assert_is(reading["value"], case.value)
        assert reading["timestamp"] > 1e9
        assert reading["alarm_severity"] == 0

    run(main())


@every_datatype
def test_what_is_put_is_read_back_and_monitored(ioc, run, protocol, case):
    async def main():
        signal = epicsrs_signal_rw(case.datatype, ioc.pv("put_" + case.name, protocol), name="signal")
        await signal.connect()
        initial = await signal.get_value()
        updates: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        signal.subscribe_reading(updates.put_nowait)
        assert_is((await updates.get())["signal"]["value"], initial)
        await signal.set(case.put)
        latest = (await signal.read(cached=False))["signal"]
        assert_is(latest["value"], case.put)
        # A record that is put what it has sends no update.
        if not np.array_equal(initial, case.put):
            async with asyncio.timeout(5.0):
                while (update := await updates.get())["signal"]["timestamp"] != latest["timestamp"]:
                    pass
            assert_is(update["signal"]["value"], case.put)
        signal.clear_sub(updates.put_nowait)
        await restore(signal, initial)

    run(main())


async def restore(signal: SignalRW[Any], initial: Any) -> None:
    """Leave it as it was; an enum's text that never was a label cannot be."""
    if not isinstance(initial, np.ndarray) or len(initial):
        await signal.set(initial)


# What a signal without a datatype takes them for.
INFERRED = [
    ("ca pva", "float", 3.25),
    ("ca pva", "int", 42),
    ("ca", "int64", 9007199254740992.0),
    ("pva", "int64", 9007199254740993),
    ("ca pva", "whole", 3.0),
    ("ca pva", "string", "hello"),
    ("ca", "lsi", LONG[:39]),
    ("pva", "lsi", LONG),
    ("ca", "put_lso", ""),
    ("ca pva", "bool", "Open"),
    ("ca pva", "unnamed", ""),
    ("ca pva", "enum", "Bbb"),
    ("ca", "chars", array(np.uint8, 128, 127)),
    ("ca", "ushorts", array(np.int32, 0, 65535)),
    ("ca", "ulongs", array(np.float64, 0, 2**32 - 1)),
    ("ca pva", "strings", ["Aaa", "Bbb"]),
    ("ca", "enums", ["1", "2"]),
    ("ca pva", "empty", array(np.float64)),
    ("ca", "single", 4.5),
    ("pva", "image", np.arange(6, dtype=np.uint16).reshape(2, 3)),
]


@pytest.mark.parametrize(
    ("protocol", "name", "value"),
    [(protocol, name, value) for protocols, name, value in INFERRED for protocol in protocols.split()],
)
def test_without_a_datatype_it_is_what_the_pv_carries(ioc, run, protocol, name, value):
    async def main():
        signal = epicsrs_signal_r(None, ioc.pv(name, protocol))
        await signal.connect()
        assert_is(await signal.get_value(), value)

    run(main())


def test_typing_sequence_is_sequence(ioc, run, protocol):
    async def main():
        signal = epicsrs_signal_r(typing.Sequence[str], ioc.pv("strings", protocol))
        await signal.connect()
        assert await signal.get_value() == ["Aaa", "Bbb"]

    run(main())


def test_a_long_string_beside_its_record_type(ioc, run):
    async def main():
        signal = epicsrs_signal_rw(str, ioc.pv("put_lso.VAL$", "ca"))
        await signal.connect()
        await signal.set(LONG)
        assert await signal.get_value() == LONG
        await signal.set("short")
        assert await signal.get_value() == "short"

    run(main())


def test_a_long_string_record_takes_text_by_either_protocol(ioc, run, protocol):
    async def main():
        signal = epicsrs_signal_rw(str, ioc.pv("put_lso", protocol))
        await signal.connect()
        for text in ("short", ""):
            await signal.set(text)
            assert await signal.get_value() == text

    run(main())


def test_severities_and_the_time_of_a_record_that_never_processed(ioc, run, protocol):
    async def main():
        readings = {}
        for name in ("alarmed", "setpoint_RBV", "unprocessed"):
            signal = epicsrs_signal_r(float, ioc.pv(name, protocol), name=name)
            await signal.connect()
            readings.update(await signal.read())
        assert readings["alarmed"]["alarm_severity"] == 2
        # Undefined: INVALID, 3 in EPICS.
        assert readings["setpoint_RBV"]["alarm_severity"] in {-1, 0}
        assert readings["unprocessed"]["timestamp"] == 631152000.0

    run(main())


@pytest.mark.parametrize(("name", "value"), [("whole_half", 3.75), ("whole_infinite", None)])
def test_an_int_from_a_float_is_what_the_record_shows(ioc, run, protocol, name, value):
    async def main():
        signal = epicsrs_signal_r(int, ioc.pv(name, protocol))
        await signal.connect()
        if value is None:
            with pytest.raises(ValueError, match=rf"{protocol}://.*{name}: inf is no whole number"):
                await signal.get_value()
        else:
            assert_is(await signal.get_value(), 4)

    run(main())


def test_an_array_for_one_element_that_holds_none_has_no_value(ioc, run):
    async def main():
        signal = epicsrs_signal_r(float, ioc.pv("nothing", "ca"))
        await signal.connect()
        with pytest.raises(ValueError, match=r"ca://.*nothing holds no value"):
            await signal.get_value()

    run(main())
