"""Against a server that is frozen: every wait ends at its deadline, with the GIL released."""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from deadline import Stopwatch
from epicsrs_native import EpicsError, NotConnectedError, ReplyTimeoutError
from ioc import Ioc

Call = Callable[..., Any]

# Calls on a connected channel that wait for a reply, with their arguments.
REPLIES: list[tuple[str, list[Any]]] = [("get", []), ("put", [1.0]), ("monitor", [str])]
# Calls on a channel that was never connected.
CONNECTIONS: list[tuple[str, list[Any]]] = [*REPLIES, ("connect", []), ("info", [])]

TIMEOUT = 0.4


def ends_at_its_deadline(
    call: Call, operation: Callable[..., Any], arguments: list[Any], error: type[EpicsError]
) -> None:
    watch = Stopwatch()
    with pytest.raises(error) as caught:
        call(operation, *arguments, timeout=TIMEOUT)
    assert TIMEOUT - 0.01 <= watch.elapsed <= TIMEOUT + 0.2
    assert type(caught.value) is error
    assert caught.value.pv and caught.value.pv in str(caught.value)
    assert "0.4" in str(caught.value)


@pytest.mark.parametrize(("name", "arguments"), REPLIES)
def test_no_reply_is_reply_timeout_error_at_the_deadline(
    second_ioc: Ioc, protocol: str, call: Call, name: str, arguments: list[Any]
) -> None:
    channel = second_ioc.channel("put_double", protocol)
    channel.get()

    with second_ioc.frozen():
        ends_at_its_deadline(call, getattr(channel, name), arguments, ReplyTimeoutError)

    assert type(channel.get().value) is float


@pytest.mark.parametrize(("name", "arguments"), CONNECTIONS)
def test_no_connection_is_not_connected_error_at_the_deadline(
    mortal_ioc: Ioc, protocol: str, call: Call, name: str, arguments: list[Any]
) -> None:
    """The server is there but answers no search, and the PV was never connected."""
    with mortal_ioc.frozen():
        channel = mortal_ioc.channel("put_double", protocol)
        ends_at_its_deadline(call, getattr(channel, name), arguments, NotConnectedError)

    channel.connect(timeout=20.0)
    assert type(channel.get().value) is float


def test_put_without_wait_over_ca_needs_no_reply(second_ioc: Ioc, call: Call) -> None:
    channel = second_ioc.channel("put_double")
    channel.put(0.0)

    with second_ioc.frozen():
        watch = Stopwatch()
        call(channel.put, 7.0, wait=False)
        assert watch.elapsed <= 0.2

    assert channel.get().value == 7.0


def test_put_without_wait_over_pva_waits_for_the_reply(second_ioc: Ioc, call: Call) -> None:
    channel = second_ioc.channel("put_double", "pva")
    channel.put(0.0)

    with second_ioc.frozen():
        watch = Stopwatch()
        with pytest.raises(ReplyTimeoutError):
            call(channel.put, 7.0, wait=False, timeout=0.3)
        assert 0.29 <= watch.elapsed <= 0.6


def test_timeout_zero_does_not_wait_for_a_reply(second_ioc: Ioc, protocol: str, call: Call) -> None:
    channel = second_ioc.channel("double", protocol)
    channel.get()

    with second_ioc.frozen():
        watch = Stopwatch()
        with pytest.raises(ReplyTimeoutError):
            call(channel.get, timeout=0)
        assert watch.elapsed <= 0.2


def test_many_operations_end_at_their_own_deadlines(second_ioc: Ioc, protocol: str) -> None:
    channel = second_ioc.channel("double", protocol)
    channel.get()

    async def one(timeout: float) -> float:
        watch = Stopwatch()
        with pytest.raises(ReplyTimeoutError):
            await channel.get_async(timeout=timeout)
        return watch.elapsed - timeout

    async def main() -> list[float]:
        return await asyncio.gather(*(one(0.1 + 0.001 * n) for n in range(400)))

    with second_ioc.frozen():
        late = asyncio.run(main())

    assert min(late) >= -0.01
    assert max(late) <= 0.3


def test_a_loop_may_set_the_deadline(second_ioc: Ioc, protocol: str) -> None:
    channel = second_ioc.channel("double", protocol)
    channel.get()

    async def main() -> None:
        await asyncio.wait_for(channel.get_async(timeout=None), 0.2)

    with second_ioc.frozen():
        watch = Stopwatch()
        with pytest.raises(TimeoutError):
            asyncio.run(main())
        assert watch.elapsed <= 0.5

    assert channel.get().value == 3.25


class Ticker:
    """Another Python thread: how often it ran while a call waited."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._ticks = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self._ticks += 1

    def __enter__(self) -> "Ticker":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def ticks(self) -> int:
        return self._ticks


def lets_others_run(operation: Callable[..., Any], arguments: list[Any], error: type[EpicsError]) -> None:
    with Ticker() as ticker:
        before = ticker.ticks
        with pytest.raises(error):
            operation(*arguments, timeout=TIMEOUT)
        # 40 at best; one or two if the call kept the GIL.
        assert ticker.ticks - before >= 10


@pytest.mark.parametrize(("name", "arguments"), REPLIES)
def test_other_threads_run_while_a_call_waits_for_a_reply(
    second_ioc: Ioc, protocol: str, name: str, arguments: list[Any]
) -> None:
    channel = second_ioc.channel("put_double", protocol)
    channel.get()

    with second_ioc.frozen():
        lets_others_run(getattr(channel, name), arguments, ReplyTimeoutError)


@pytest.mark.parametrize(("name", "arguments"), CONNECTIONS)
def test_other_threads_run_while_a_call_waits_for_a_connection(
    ioc: Ioc, protocol: str, name: str, arguments: list[Any]
) -> None:
    lets_others_run(getattr(ioc.channel("absent", protocol), name), arguments, NotConnectedError)


@pytest.mark.parametrize("inner", ["ca", "pva"])
def test_a_signal_handler_may_get_while_the_main_thread_waits(
    ioc: Ioc, second_ioc: Ioc, protocol: str, inner: str
) -> None:
    """It runs during the wait, and the wait goes on to its deadline."""
    silent, answering = second_ioc.channel("double", protocol), ioc.channel("double", inner)
    silent.get()
    answering.get()
    ran: list[tuple[float, float]] = []

    def handler(number: int, frame: FrameType | None) -> None:
        ran.append((answering.get(timeout=2.0).value, watch.elapsed))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with second_ioc.frozen():
            watch = Stopwatch()
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(ReplyTimeoutError):
                silent.get(timeout=0.8)
            ended = watch.elapsed
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)

    [(value, at)] = ran
    assert value == 3.25
    assert 0.19 <= at <= 0.6
    assert 0.79 <= ended <= 1.1


def test_an_error_of_a_signal_handler_comes_out_of_the_call(second_ioc: Ioc, protocol: str) -> None:
    channel = second_ioc.channel("double", protocol)
    channel.get()

    def handler(number: int, frame: FrameType | None) -> None:
        raise LookupError("from the handler")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with second_ioc.frozen():
            watch = Stopwatch()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(LookupError, match="from the handler"):
                channel.get(timeout=5.0)
            assert watch.elapsed <= 0.6
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)

    assert channel.get().value == 3.25
