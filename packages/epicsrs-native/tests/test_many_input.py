"""What the bulk calls may be given: any iterable, a PV twice, and what is no list of values at all."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from epicsrs_native import NotConnectedError, Reading, get_context
from ioc import Ioc

Call = Callable[..., Any]


def test_channels_and_values_come_from_any_iterable(ioc: Ioc, protocol: str, call: Call) -> None:
    first, second = ioc.channel("put_double", protocol), ioc.channel("put_long", protocol)

    assert call(get_context().connect_many, (channel for channel in (first, second))) == [None, None]
    assert call(get_context().put_many, iter((first, second)), (value for value in (4.5, 6))) == [None, None]
    assert [reading.value for reading in call(get_context().get_many, (first, second))] == [4.5, 6]
    assert call(get_context().put_many, [first, second], np.array([1.0, 2.0])) == [None, None]
    assert [reading.value for reading in call(get_context().get_many, {first: 1, second: 2})] == [1.0, 2]


def test_an_iterable_that_raises_sends_nothing(ioc: Ioc, call: Call) -> None:
    channel = ioc.channel("put_double")
    channel.put(-1.0)

    def values() -> Iterator[float]:
        yield 5.0
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        call(get_context().put_many, [channel, channel], values())
    assert channel.get().value == -1.0


@pytest.mark.parametrize("values", ["1", {"1": 2}], ids=["str", "dict"])
def test_a_text_or_a_mapping_is_no_list_of_values(ioc: Ioc, call: Call, values: Any) -> None:
    channel = ioc.channel("put_string")

    with pytest.raises(TypeError, match=channel.pv):
        call(get_context().put_many, [channel], values)


def test_an_absent_pv_that_stands_twice_fails_twice(ioc: Ioc, protocol: str, call: Call) -> None:
    absent = ioc.channel("absent", protocol)
    given = [absent, ioc.channel("double"), absent]

    readings = call(get_context().get_many, given, timeout=0.2)
    columns = call(get_context().get_many, given, timeout=0.2, columns=True)

    assert [type(reading) for reading in readings] == [NotConnectedError, Reading, NotConnectedError]
    assert np.isnan(columns.value).tolist() == [True, False, True]
    assert list(columns.error) == [absent.pv]


def test_one_pv_put_to_again_and_again_has_the_last_value(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("put_long", protocol)

    for wait in (True, False):
        assert call(get_context().put_many, [channel] * 300, range(300), wait=wait, timeout=20.0) == [None] * 300
        assert channel.get().value == 299
