"""A caller's own mistakes: an error that names them, never a panic."""

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deadline import Stopwatch
from epicsrs_native import (
    AccessDeniedError,
    EpicsError,
    NotConnectedError,
    RemoteError,
    ReplyTimeoutError,
    get_context,
)
from ioc import Ioc

Call = Callable[..., Any]

# What a call needs beside its timeout.
CALLS: dict[str, list[Any]] = {"connect": [], "get": [], "put": [3.25], "monitor": [str], "info": []}


@pytest.mark.parametrize("scheme", ["", "ca://", "pva://"])
@pytest.mark.parametrize(
    ("pv", "named"),
    [("", ""), ("a\0b", "a"), ("tempéra", "temp"), ("\ud800x", "x"), ("x" * 5000, "xxxx"), ("foo://x", "foo://x")],
    ids=["empty", "NUL", "not ASCII", "not Unicode", "over-long", "unknown scheme"],
)
def test_a_bad_name_is_a_value_error_that_names_it(scheme: str, pv: str, named: str) -> None:
    with pytest.raises(ValueError) as caught:
        get_context().channel(scheme + pv)

    assert named in str(caught.value)


@pytest.mark.parametrize("pv", [None, 5, b"double", ["double"], 1.5])
def test_a_name_of_another_type_is_a_type_error(pv: Any) -> None:
    with pytest.raises(TypeError):
        get_context().channel(pv)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("timeout", [math.nan, -1, -0.001, -math.inf, np.float64("nan")])
def test_a_timeout_that_is_no_time_is_a_value_error(
    ioc: Ioc, protocol: str, call: Call, name: str, timeout: float
) -> None:
    channel = ioc.channel("double", protocol)

    with pytest.raises(ValueError, match="timeout") as caught:
        call(getattr(channel, name), *CALLS[name], timeout=timeout)

    assert channel.pv in str(caught.value)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("timeout", [True, False, "5", b"5", [5], (5,), 5j, print], ids=repr)
def test_a_timeout_of_another_type_is_a_type_error(
    ioc: Ioc, protocol: str, call: Call, name: str, timeout: Any
) -> None:
    channel = ioc.channel("double", protocol)

    with pytest.raises(TypeError, match="timeout") as caught:
        call(getattr(channel, name), *CALLS[name], timeout=timeout)

    assert channel.pv in str(caught.value)


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 1e30, 10**400])
def test_an_absurd_timeout_is_refused_or_waits(ioc: Ioc, protocol: str, call: Call, timeout: float) -> None:
    channel = ioc.channel("double", protocol)

    try:
        reading = call(channel.get, timeout=timeout)
    except ValueError as error:
        assert channel.pv in str(error)
    else:
        assert reading.value == 3.25


@pytest.mark.parametrize("timeout", [5, np.float64(5), np.float32(5), np.int32(5)], ids=repr)
def test_a_timeout_may_be_any_number(ioc: Ioc, protocol: str, call: Call, timeout: Any) -> None:
    assert call(ioc.channel("double", protocol).get, timeout=timeout).value == 3.25


@pytest.mark.parametrize(("form", "error"), [("ctl", ValueError), ("", ValueError), (None, TypeError), (3, TypeError)])
def test_an_unknown_form_is_an_error(ioc: Ioc, protocol: str, call: Call, form: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        call(ioc.channel("double", protocol).get, form=form)


@pytest.mark.parametrize("count", [-1, -(2**70), 1.5, "3", True])
def test_a_bad_count_is_an_error(ioc: Ioc, protocol: str, call: Call, count: Any) -> None:
    channel = ioc.channel("doubles", protocol)
    with pytest.raises((ValueError, TypeError), match=f"{channel.pv}: count"):
        call(channel.get, count=count)


@pytest.mark.parametrize(
    "options",
    [{"queue": 0}, {"queue": -1}, {"queue": "5"}, {"queue_bytes": 0}, {"queue_bytes": -5}, {"delivery": 5}],
    ids=repr,
)
def test_a_bad_monitor_option_is_an_error(ioc: Ioc, protocol: str, call: Call, options: dict[str, Any]) -> None:
    channel = ioc.channel("double", protocol)
    with pytest.raises((ValueError, TypeError), match=f"{channel.pv}: .*{next(iter(options))}"):
        call(channel.monitor, str, **options)


def test_a_callback_that_cannot_be_called_is_a_type_error(ioc: Ioc, protocol: str, call: Call) -> None:
    channel = ioc.channel("double", protocol)

    with pytest.raises(TypeError):
        call(channel.monitor, 5)
    for register in (channel.on_connection, channel.on_access, channel.on_error):
        with pytest.raises(TypeError):
            register(5)  # pyright: ignore[reportArgumentType]


def test_a_positional_timeout_is_a_type_error(ioc: Ioc) -> None:
    with pytest.raises(TypeError):
        ioc.channel("double").connect(5)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("name", CALLS)
def test_a_closed_channel_is_a_value_error_at_once(ioc: Ioc, protocol: str, call: Call, name: str) -> None:
    channel = ioc.channel("double", protocol)
    channel.connect()
    channel.close()
    watch = Stopwatch()

    with pytest.raises(ValueError, match="closed") as caught:
        call(getattr(channel, name), *CALLS[name])

    assert channel.pv in str(caught.value)
    assert watch.elapsed <= 0.3
    assert channel.closed and not channel.connected


def test_a_closed_channel_takes_no_callbacks(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("double", protocol)
    channel.close()

    for register in (channel.on_connection, channel.on_access, channel.on_error):
        with pytest.raises(ValueError, match="closed"):
            register(lambda *arguments: None)


def test_network_errors_are_the_builtin_ones_too() -> None:
    assert issubclass(NotConnectedError, (EpicsError)) and issubclass(NotConnectedError, ConnectionError)
    assert issubclass(ReplyTimeoutError, EpicsError) and issubclass(ReplyTimeoutError, TimeoutError)
    assert issubclass(AccessDeniedError, RemoteError) and issubclass(AccessDeniedError, PermissionError)
    assert not issubclass(EpicsError, OSError)


@pytest.mark.parametrize("kind", [EpicsError, NotConnectedError, ReplyTimeoutError])
def test_errors_survive_pickling(kind: type[EpicsError]) -> None:
    error = pickle.loads(pickle.dumps(kind("X: no reply within 2 s", "X")))

    assert (type(error), str(error), error.pv) == (kind, "X: no reply within 2 s", "X")


@pytest.mark.parametrize("kind", [RemoteError, AccessDeniedError])
def test_refusals_survive_pickling(kind: type[RemoteError]) -> None:
    error = pickle.loads(pickle.dumps(kind("X: refused", "X", "not permitted")))

    assert (type(error), str(error), error.pv, error.reason) == (kind, "X: refused", "X", "not permitted")
