"""Servers that answer wrongly, and the errors that have to come of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from deadline import Stopwatch
from epicsrs_native import Channel, EpicsError, get_context
from ioc import Ioc
from program import Program

Call = Callable[..., Any]
Served = Callable[[str], Channel]
PREFIX = "hostile:"
TIMEOUT = 0.4


@contextmanager
def serving(program: str, port: int, scheme: str) -> Iterator[Served]:
    """Opens channels to the PVs of a server that has seen no client, by the way in which each is bad."""

    def channel(name: str) -> Channel:
        opened = get_context().channel(f"{scheme}://{PREFIX}{name}")
        Ioc.opened.append(opened)
        return opened

    with Program(program, PREFIX, str(port)) as server:
        assert server.hear() == "ready"
        yield channel
        assert server.errors == ""


def refused(call: Call, channel: Channel, kind: type[EpicsError], **options: Any) -> str:
    """What the error of a get says, which has to come within its deadline."""
    watch = Stopwatch()
    with pytest.raises(kind) as caught:
        call(channel.get, timeout=TIMEOUT, **options)
    assert watch.elapsed <= TIMEOUT + 0.2
    assert type(caught.value) is kind
    assert caught.value.pv == channel.pv and channel.pv in str(caught.value)
    return str(caught.value)
