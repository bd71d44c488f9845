"""Values that do not fit: an error that names PV and value, nothing is sent."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from epicsrs_native import EnumValue, caught_panic_count
from ioc import Ioc

Call = Callable[..., Any]

BOTH, CA = ("ca", "pva"), ("ca",)

# Record, value, a piece of it that the message shows, protocols.
# pvAccess tells no limit of strings and arrays: there the server cuts.
UNFIT: list[tuple[str, Any, str, tuple[str, ...]]] = [
    ("put_long", 3.7, "3.7", BOTH),
    ("put_long", np.float32(0.5), "0.5", BOTH),
    ("put_long", math.nan, "nan", BOTH),
    ("put_long", math.inf, "inf", BOTH),
    ("put_long", 2**31, "2147483648", BOTH),
    ("put_long", -(2**31) - 1, "-2147483649", BOTH),
    ("put_long", 10**30, "1" + "0" * 30, BOTH),
    ("put_long", 1e300, "1", BOTH),
    ("put_long", np.uint64(2**63), "9223372036854775808", BOTH),
    ("put_long", [1, 2], "2", BOTH),
    ("put_int64", 2**63, "9223372036854775808", ("pva",)),
    ("put_int64", 2**53 + 1, "9007199254740993", CA),
    ("put_int64", 0.5, "0.5", ("pva",)),
    ("put_double", 2**53 + 1, "9007199254740993", BOTH),
    ("put_double", 10**400, "1", BOTH),
    ("put_double", [1.0, 2.0], "2", BOTH),
    ("put_string", "x" * 40, "xxx", CA),
    ("put_string", "é" * 20, "éé", CA),
    ("put_string", "a\0b", "a", BOTH),
    ("put_string", "\ud800", "d800", BOTH),
    ("put_binary", "Ajar", "Ajar", BOTH),
    ("put_binary", "open", "open", BOTH),
    ("put_binary", "", "", BOTH),
    ("put_binary", -1, "-1", BOTH),
    ("put_binary", 70000, "70000", BOTH),
    ("put_binary", 0.5, "0.5", BOTH),
    ("put_choice", "1.5", "1.5", BOTH),
    ("put_choice", EnumValue(-1), "-1", BOTH),
    ("put_double.PREC", 40000, "40000", BOTH),
    ("put_doubles", np.arange(9.0), "8", CA),
    ("put_doubles", [[1.0, 2.0], [3.0, 4.0]], "", BOTH),
    ("put_doubles", np.zeros((2, 2)), "", BOTH),
    ("put_shorts", [1, 40000], "40000", BOTH),
    ("put_uchars", [256], "256", BOTH),
    ("put_uchars", [-1], "-1", BOTH),
    ("put_longs", [1.0, 2.5], "2.5", BOTH),
    ("put_longs", np.array([1.0, math.nan]), "nan", BOTH),
    ("put_longs", np.array([2**31]), "2147483648", BOTH),
    ("put_floats", np.array([1e300]), "1", BOTH),
    ("put_strings", ["a", "x" * 40], "xxx", CA),
]

# Record, value of a type that the record cannot take.
WRONG: list[tuple[str, Any]] = [
    *((record, None) for record in ("put_double", "put_long", "put_string", "put_binary", "put_doubles")),
    *((record, {"first": 1}) for record in ("put_double", "put_string", "put_choice", "put_longs")),
    *((record, object()) for record in ("put_double", "put_string", "put_choice", "put_longs")),
    ("put_double", 1j),
    ("put_double", "high"),
    ("put_double", "1.5"),
    ("put_long", "12"),
    ("put_string", 5),
    ("put_string", 1.5),
    ("put_string", b"bytes"),
    ("put_doubles", ["a", "b"]),
    ("put_doubles", [1.0, None]),
    ("put_doubles", np.array([1j])),
    ("put_doubles", {1.0, 2.0}),
    ("put_strings", [1, 2]),
    ("put_strings", ["a", 2]),
    ("put_binary", [0, 1]),
    ("put_double", print),
]


@pytest.mark.parametrize("wait", [True, False], ids=["wait", "no wait"])
@pytest.mark.parametrize(
    ("protocol", "record", "value", "shown"),
    [(protocol, record, value, shown) for record, value, shown, protocols in UNFIT for protocol in protocols],
    ids=lambda part: ascii(part)[:16],
)
def test_a_value_that_does_not_fit_is_refused_here(
    ioc: Ioc, call: Call, protocol: str, record: str, value: Any, shown: str, wait: bool
) -> None:
    channel = ioc.channel(record, protocol)
    before = channel.get()

    with pytest.raises((ValueError, TypeError)) as caught:
        call(channel.put, value, wait=wait)

    assert channel.pv in str(caught.value)
    assert shown in str(caught.value)
    # Nothing was sent: the record was not processed.
    assert channel.get().timestamp_ns == before.timestamp_ns


@pytest.mark.parametrize(
    ("record", "value"),
    [case[:2] for case in UNFIT if case[3] == BOTH and case[0] == "put_long" and not isinstance(case[1], list)],
    ids=repr,
)
def test_a_number_out_of_reach_is_a_value_error(ioc: Ioc, protocol: str, call: Call, record: str, value: Any) -> None:
    with pytest.raises(ValueError):
        call(ioc.channel(record, protocol).put, value)


@pytest.mark.parametrize(("record", "value"), WRONG, ids=lambda part: ascii(part)[:16])
def test_a_value_of_another_type_is_refused_here(ioc: Ioc, protocol: str, call: Call, record: str, value: Any) -> None:
    channel = ioc.channel(record, protocol)
    before = channel.get()

    with pytest.raises((TypeError, ValueError)) as caught:
        call(channel.put, value)

    assert channel.pv in str(caught.value)
    assert channel.get().timestamp_ns == before.timestamp_ns


@pytest.mark.parametrize("value", [None, {"first": 1}, object(), 1j, print], ids=lambda value: type(value).__name__)
def test_what_is_no_value_at_all_is_a_type_error(ioc: Ioc, protocol: str, call: Call, value: Any) -> None:
    with pytest.raises(TypeError):
        call(ioc.channel("put_double", protocol).put, value)


def test_an_unknown_label_names_the_choices(ioc: Ioc, protocol: str, call: Call) -> None:
    with pytest.raises(ValueError, match="Moving"):
        call(ioc.channel("put_choice", protocol).put, "Nope")


class Hostile:
    """A value whose conversions raise."""

    def __float__(self) -> float:
        raise RuntimeError("no float")

    def __index__(self) -> int:
        raise RuntimeError("no index")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_a_value_that_raises_when_asked_does_no_harm(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("put_double", protocol)
    panics = caught_panic_count()

    with pytest.raises((TypeError, ValueError, RuntimeError)):
        call(channel.put, Hostile())

    call(channel.put, 1.0)
    assert call(channel.get).value == 1.0
    assert caught_panic_count() == panics
