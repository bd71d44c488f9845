"""Units, precision, choices, limits, description; and one record under both protocols."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ioc import Ioc

Call = Callable[..., Any]

# One record read under both names differs in nothing but this.
DIFFERENCES = """
status       numbered per protocol; 0 in both without an alarm
message      None over CA
description  None over CA
precision    None over CA where the type is not a float; QSRV sends 0
units        None over CA for a string; QSRV sends ""
value        64-bit integers are doubles over CA
"""


def test_a_double_has_all_of_its_metadata(ioc: Ioc, protocol: str, call: Call) -> None:
    metadata = call(ioc.channel("double", protocol).get, form="ctrl").metadata

    assert metadata.units == "mbar"
    assert metadata.precision == 3
    assert metadata.choices is None
    assert metadata.limits.display == (0.0, 10.0)
    assert metadata.limits.control == (-20.0, 20.0)
    assert metadata.limits.warning == (-7.0, 7.0)
    assert metadata.limits.alarm == (-9.0, 9.0)
    # CA carries no description.
    assert metadata.description == (None if protocol == "ca" else "Chamber pressure")


def test_an_integer_has_units_and_limits(ioc: Ioc, protocol: str, call: Call) -> None:
    metadata = call(ioc.channel("long", protocol).get, form="ctrl").metadata

    assert metadata.units == "steps"
    assert metadata.limits.display == (-1000, 1000)
    assert metadata.limits.control == (-2147483648, 2147483647)
    assert not metadata.precision


def test_limits_of_bytes_have_no_sign(ioc: Ioc, protocol: str, call: Call) -> None:
    assert call(ioc.channel("uchars", protocol).get, form="ctrl").metadata.limits.display == (0, 255)


def test_units_may_be_outside_ascii(ioc: Ioc, protocol: str, call: Call) -> None:
    assert call(ioc.channel("micro", protocol).get, form="ctrl").metadata.units == "µm"


@pytest.mark.parametrize(
    ("record", "choices"),
    [
        ("binary", ("Closed", "Open")),
        ("choice", ("Idle", "Moving", "Fault")),
        ("choice_in", tuple("abcdefghijklmnop")),
    ],
)
def test_an_enum_has_choices(ioc: Ioc, protocol: str, call: Call, record: str, choices: tuple[str, ...]) -> None:
    metadata = call(ioc.channel(record, protocol).get, form="ctrl").metadata

    assert metadata.choices == choices
    assert metadata.limits is None


def test_a_string_has_no_limits(ioc: Ioc, protocol: str, call: Call) -> None:
    metadata = call(ioc.channel("string", protocol).get, form="ctrl").metadata

    assert metadata.choices is None
    assert metadata.limits is None or metadata.limits.display is None


def test_metadata_is_read_again_each_time(ioc: Ioc, protocol: str, call: Call) -> None:
    channel, units = ioc.channel("put_double", protocol), ioc.channel("put_double.EGU", "ca")

    for text in ("mm", "deg"):
        units.put(text)
        assert call(channel.get, form="ctrl").metadata.units == text


RECORDS = """double double_in micro long long_in int64 int64_in string string_in binary binary_in choice choice_in
unprocessed high too_high uchars shorts ushorts longs ulongs int64s uint64s floats doubles strings single empty
partial""".split()


@pytest.mark.parametrize("record", RECORDS)
def test_one_record_reads_the_same_under_both_names(ioc: Ioc, call: Call, record: str) -> None:
    by_ca = call(ioc.channel(record, "ca").get, form="ctrl")
    by_pva = call(ioc.channel(record, "pva").get, form="ctrl")

    if record == "int64":
        assert by_ca.value == float(by_pva.value)
    elif record.endswith("strings"):
        assert by_ca.value == by_pva.value
    else:
        assert np.array_equal(by_ca.value, by_pva.value)
    assert by_ca.timestamp_ns == by_pva.timestamp_ns
    assert by_ca.timestamp == by_pva.timestamp
    assert by_ca.severity == by_pva.severity
    assert bool(by_ca.status) == bool(by_pva.status)
    assert by_ca.message is None and by_ca.metadata.description is None
    assert by_ca.metadata.choices == by_pva.metadata.choices
    assert by_ca.metadata.units in (by_pva.metadata.units, None)
    assert by_ca.metadata.precision in (by_pva.metadata.precision, None)


@pytest.mark.parametrize("record", ["double", "double_in", "long", "int64", "high"])
def test_one_scalar_has_the_same_limits_under_both_names(ioc: Ioc, call: Call, record: str) -> None:
    by_ca, by_pva = (call(ioc.channel(record, p).get, form="ctrl").metadata.limits for p in ("ca", "pva"))

    for pair in ("display", "control", "warning", "alarm"):
        assert getattr(by_ca, pair) == pytest.approx(getattr(by_pva, pair), nan_ok=True)
