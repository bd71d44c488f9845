"""Text in arrays of characters, read as str on request."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deadline import until
from epicsrs_native import EpicsError
from ioc import Ioc

Call = Callable[..., Any]
LONG = "ångström and µm, " * 8


@pytest.mark.parametrize("text", [LONG, "", "x", "x" * 199])
def test_a_long_string_over_ca_is_text_on_request(ioc: Ioc, call: Call, text: str) -> None:
    channel = ioc.channel("long_string.VAL$", "ca")

    call(channel.put, text)

    assert call(channel.get, string=True).value == text
    assert call(channel.get, string=True, form="ctrl").value == text
    characters = call(channel.get).value
    assert characters.dtype == np.uint8 and characters.tobytes().rstrip(b"\0") == text.encode()
    assert call(ioc.channel("long_string", "pva").get, string=True).value == text


@pytest.mark.parametrize("name", ["put_chars", "put_uchars"])
@pytest.mark.parametrize("text", ["µm 25°", "", "12345678"])
def test_a_waveform_of_characters_holds_text(ioc: Ioc, protocol: str, call: Call, name: str, text: str) -> None:
    channel = ioc.channel(name, protocol)

    call(channel.put, text)

    reading = call(channel.get, string=True)
    assert reading.value == text
    assert reading.timestamp is not None and reading.severity == 0
    assert call(channel.get, string=True, form="value").value == text


def test_a_monitor_brings_text_on_request(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("put_chars", protocol)
    channel.put("one")
    texts: list[str] = []
    arrays: list[bytes] = []
    subscriptions = [
        channel.monitor(lambda reading: texts.append(reading.value), string=True),
        channel.monitor(lambda reading: arrays.append(bytes(reading.value))),
    ]

    channel.put("two")

    until(lambda: texts == ["one", "two"] and len(arrays) == 2)
    assert arrays[1].startswith(b"two\0")
    assert channel.get(string=True, cached=True).value == "two"
    for subscription in subscriptions:
        subscription.close()


def test_text_that_is_no_utf8_keeps_its_bytes(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("put_uchars", protocol)
    call(channel.put, np.frombuffer(b"\xff\xb5m\0", np.uint8))
    assert call(channel.get, string=True).value == b"\xff\xb5m".decode(errors="surrogateescape")


@pytest.mark.parametrize("name", ["double", "doubles", "choice"])
def test_what_is_no_text_is_a_type_error(ioc: Ioc, protocol: str, call: Call, name: str) -> None:
    channel = ioc.channel(name, protocol)
    with pytest.raises(TypeError, match=channel.pv):
        call(channel.get, string=True)
    with pytest.raises((TypeError, EpicsError), match=channel.pv):
        call(channel.monitor, str, string=True)
