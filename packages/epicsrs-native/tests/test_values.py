"""What get gives for each type: Python type, dtype, count, alarm, time."""

import asyncio
import math
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from epicsrs_native import EnumValue, Reading
from ioc import Ioc

Call = Callable[..., Any]

# Record, value over CA, value over PVA (the same where one is given). CA has no 64-bit integers: it serves doubles.
SCALARS: list[tuple[Any, ...]] = [
    ("double", 3.25),
    ("double_in", -1.5e-9),
    ("long", -42),
    ("long_in", 2147483647),
    ("int64", 9007199254740992.0, 9007199254740993),
    ("int64_in", -4503599627370497.0, -4503599627370497),
    ("string", "hello"),
    ("string_in", "123456789012345678901234567890123456789"),
    ("double.PREC", 3),
    ("double.DISP", 0),
    ("double.DESC", "Chamber pressure"),
    ("double.HOPR", 10.0),
]

ENUMS = [
    ("binary", 1, "Open"),
    ("binary_in", 1, "On"),
    ("choice", 2, "Fault"),
    ("choice_in", 15, "p"),
    ("double.PINI", 1, "YES"),
]

# Record, its elements, dtype over CA, dtype over PVA. CA has no unsigned types but CHAR, and no 64-bit integers.
ARRAYS: list[tuple[str, list[float], str, str]] = [
    ("chars", [-128, 0, 127], "uint8", "int8"),
    ("uchars", [0, 128, 255], "uint8", "uint8"),
    ("shorts", [-32768, 0, 32767], "int16", "int16"),
    ("ushorts", [0, 32768, 65535], "int32", "uint16"),
    ("longs", [-2147483648, 0, 2147483647], "int32", "int32"),
    ("ulongs", [0, 2147483648, 4294967295], "float64", "uint32"),
    ("int64s", [-4503599627370497, 0, 4503599627370497], "float64", "int64"),
    ("uint64s", [0, 1, 4503599627370497], "float64", "uint64"),
    ("floats", [-1.5, 0, 0.25], "float32", "float32"),
    ("doubles", [-1.5e-300, 0, 0.1], "float64", "float64"),
    ("single", [4.5], "float64", "float64"),
    ("empty", [], "float64", "float64"),
]

FORMS = ["value", "time", "ctrl"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("values", SCALARS, ids=lambda values: values[0])
def test_a_scalar_is_a_plain_python_value(
    ioc: Ioc, protocol: str, call: Call, values: tuple[Any, ...], form: str
) -> None:
    expected = values[1] if protocol == "ca" else values[-1]

    value = call(ioc.channel(values[0], protocol).get, form=form).value

    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("record", "index", "label"), ENUMS)
def test_an_enum_is_an_int_that_knows_its_label(
    ioc: Ioc, protocol: str, call: Call, record: str, index: int, label: str, form: str
) -> None:
    value = call(ioc.channel(record, protocol).get, form=form).value

    assert type(value) is EnumValue
    assert value == index
    assert value.label == label
    assert f"{value}" == f"{index}"
    assert repr(value) == f"EnumValue({index}, {label!r})"


def test_an_enum_value_survives_pickling(ioc: Ioc) -> None:
    value = ioc.channel("choice").get().value

    copy = pickle.loads(pickle.dumps(value))

    assert (type(copy), int(copy), copy.label) == (EnumValue, 2, "Fault")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("record", "elements", "ca", "pva"), ARRAYS, ids=lambda part: part if type(part) is str else ""
)
def test_an_array_has_its_own_dtype_and_nord_elements(
    ioc: Ioc, protocol: str, call: Call, record: str, elements: list[float], ca: str, pva: str, form: str
) -> None:
    dtype = np.dtype(ca if protocol == "ca" else pva)

    value = call(ioc.channel(record, protocol).get, form=form).value

    assert type(value) is np.ndarray
    assert value.dtype == dtype
    assert value.shape == (len(elements),)
    # CA serves signed CHARs as the same bytes without a sign.
    assert value.tolist() == np.array(elements).astype(dtype).tolist()


def test_an_array_is_read_only_and_outlives_its_channel(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("partial", protocol)
    value = call(channel.get).value

    channel.close()

    assert not value.flags.writeable
    with pytest.raises(ValueError):
        value[0] = 0.0
    with pytest.raises(ValueError):
        value.flags.writeable = True
    assert value.tolist() == [1.5, 2.5, 3.5]
    assert value.flags.c_contiguous and value.flags.aligned


def test_strings_come_as_a_list(ioc: Ioc, protocol: str, call: Call) -> None:
    value = call(ioc.channel("strings", protocol).get).value

    assert value == ["a", "", "bc"]
    assert type(value) is list


def test_a_long_string_is_whole_over_pva_and_cut_by_the_ca_server(ioc: Ioc, call: Call) -> None:
    text = "".join(chr(65 + n % 26) for n in range(150))
    call(ioc.channel("long_string", "pva").put, text)

    assert call(ioc.channel("long_string", "pva").get).value == text
    assert call(ioc.channel("long_string", "ca").get).value == text[:39]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 8, 9, 2**70])
def test_count_asks_for_the_first_elements(ioc: Ioc, protocol: str, call: Call, count: int) -> None:
    value = call(ioc.channel("partial", protocol).get, count=count).value

    assert value.tolist() == [1.5, 2.5, 3.5][:count]


@pytest.mark.parametrize("form", ["value", "time", "ctrl"])
def test_an_array_of_one_stays_an_array(ioc: Ioc, protocol: str, call: Call, form: str) -> None:
    characters = call(ioc.channel("single_char", protocol).get, form=form).value

    assert (characters.dtype, characters.tolist()) == (np.uint8, [65])
    assert call(ioc.channel("single_string", protocol).get, form=form).value == ["a"]


def test_a_string_that_nobody_wrote_is_empty(ioc: Ioc, protocol: str, call: Call) -> None:
    assert call(ioc.channel("unset_string", protocol).get).value == ""


def test_a_large_array_arrives_whole(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("large", protocol)
    values = np.random.default_rng(7).normal(size=100_000)

    call(channel.put, values)

    assert np.array_equal(call(channel.get).value, values)


def test_large_and_small_values_on_one_circuit_keep_apart(ioc: Ioc, protocol: str) -> None:
    large, small = ioc.channel("large", protocol), ioc.channel("double", protocol)
    values = np.random.default_rng(8).normal(size=100_000)
    large.put(values)
    expected = small.get().value

    async def main() -> list[Reading]:
        calls = [channel.get_async(timeout=30.0) for _ in range(10) for channel in (large, small, large)]
        return await asyncio.gather(*calls)

    readings = [reading.value for reading in asyncio.run(main())]

    assert all(np.array_equal(value, values) for value in readings[::3] + readings[2::3])
    assert readings[1::3] == [expected] * 10


@pytest.mark.parametrize(
    ("record", "severity", "status", "message"),
    [("double", 0, 0, ""), ("high", 1, 4, "HIGH"), ("too_high", 2, 3, "HIHI"), ("binary_in", 2, 7, "STATE")],
)
def test_a_reading_carries_the_alarm(
    ioc: Ioc, protocol: str, call: Call, record: str, severity: int, status: int, message: str
) -> None:
    """Status as CA numbers it is menuAlarmStat; over PVA its meaning is in the message, over CA there is none."""
    for form in ("time", "ctrl"):
        reading = call(ioc.channel(record, protocol).get, form=form)

        assert reading.severity == severity
        if protocol == "ca":
            assert (reading.status, reading.message) == (status, None)
        else:
            assert bool(reading.status) == bool(status)
            assert reading.message == message


def test_form_value_has_no_alarm_no_time_and_no_metadata(ioc: Ioc, protocol: str, call: Call) -> None:
    reading = call(ioc.channel("high", protocol).get, form="value")

    assert reading.value == 8.0
    assert (reading.timestamp, reading.timestamp_ns, reading.severity, reading.status, reading.message) == (None,) * 5
    assert reading.metadata is None


def test_form_time_has_no_metadata_and_is_the_default(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("double", protocol)

    for reading in (call(channel.get), call(channel.get, form="time")):
        assert reading.metadata is None
        assert reading.timestamp is not None


def test_time_is_exact_in_nanoseconds_and_near_as_a_float(ioc: Ioc, protocol: str, call: Call) -> None:
    readings: list[Reading] = [call(ioc.channel(values[0], protocol).get) for values in SCALARS]
    readings += [call(ioc.channel(record, protocol).get, form="ctrl") for record, *_ in ARRAYS]

    for reading in readings:
        assert type(reading.timestamp_ns) is int
        assert reading.timestamp == pytest.approx(reading.timestamp_ns / 1e9, abs=1e-6)
        assert 0 <= time.time() - reading.timestamp < 3600
    # Made from a float it would be a multiple of 256.
    assert any(reading.timestamp_ns and reading.timestamp_ns % 256 for reading in readings)


def test_an_undefined_time_is_the_epics_epoch(ioc: Ioc, protocol: str, call: Call) -> None:
    reading = call(ioc.channel("unprocessed", protocol).get)

    assert reading.timestamp_ns == 631_152_000 * 10**9
    assert reading.timestamp == 631_152_000.0


def test_nan_and_infinity_are_values(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("put_double", protocol)

    for value in (math.inf, -math.inf, math.nan):
        call(channel.put, value)
        assert call(channel.get).value == pytest.approx(value, nan_ok=True)


def test_a_reading_shows_itself(ioc: Ioc, protocol: str) -> None:
    assert "3.25" in repr(ioc.channel("double", protocol).get())
