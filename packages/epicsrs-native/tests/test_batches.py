"""get_many over Channel Access: reads that leave in one message for each circuit and are answered one by one."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deadline import Stopwatch
from epicsrs_native import Channel, EpicsError, NotConnectedError, Reading, RemoteError, ReplyTimeoutError, get_context
from hostile import TIMEOUT, Served, serving
from ioc import NETWORK, Ioc

Call = Callable[..., Any]

# To find a server again, with slack.
BACK = 10.0


@pytest.fixture
def served() -> Iterator[Served]:
    """A server that has seen no client."""
    with serving("hostile_ca.py", NETWORK.iocs[7].ca, "ca") as channel:
        yield channel


def connected(channel: Channel) -> Channel:
    channel.connect()
    return channel


def what(results: list[Any]) -> list[Any]:
    """The value of each, or the class of its error, which has to name the PV."""
    assert all(result.pv in str(result) for result in results if isinstance(result, EpicsError))
    return [result.value if isinstance(result, Reading) else type(result) for result in results]


@pytest.mark.parametrize("form", ["value", "time"])
def test_several_waves_over_several_circuits(ioc: Ioc, second_ioc: Ioc, call: Call, form: str) -> None:
    given = [ioc.channel("double"), second_ioc.channel("long"), ioc.channel("string"), second_ioc.channel("partial")]

    results = call(get_context().get_many, given * 1000, form=form, timeout=20.0)

    values = [result.value for result in results]
    assert values[0::4] == [3.25] * 1000
    assert values[1::4] == [-42] * 1000
    assert values[2::4] == ["hello"] * 1000
    assert all(value.tolist() == [1.5, 2.5, 3.5] for value in values[3::4])


@pytest.mark.parametrize("form", ["value", "time"])
def test_every_answer_goes_to_its_own_read(served: Served, call: Call, form: str) -> None:
    channel = connected(served("by_turns"))

    results = call(get_context().get_many, [channel] * 14, form=form, timeout=5.0)

    turn = [3.25, RemoteError, RemoteError, 3.25, None, EpicsError, EpicsError]
    assert what(results) == [3.25 + n if way is None else way for n, way in enumerate(turn * 2)]
    assert "read request failed" in str(results[1])
    assert "data type specified is invalid" in str(results[2])
    assert "DBR type" in str(results[5])
    assert channel.get().value == 3.25


def test_answers_in_another_order_go_to_their_own_reads(served: Served, call: Call) -> None:
    channel = connected(served("backwards"))

    for _ in range(3):
        assert what(call(get_context().get_many, [channel] * 3)) == [0.0, 1.0, 2.0]


def test_what_has_come_by_the_deadline_is_given(served: Served, call: Call) -> None:
    channel = connected(served("every_other"))
    watch = Stopwatch()

    results = call(get_context().get_many, [channel] * 4, timeout=TIMEOUT)

    assert TIMEOUT <= watch.elapsed <= TIMEOUT + 0.2
    assert what(results) == [0.0, ReplyTimeoutError, 2.0, ReplyTimeoutError]
    # What nobody waits for any more is in nobody's way.
    assert what(call(get_context().get_many, [channel, channel], timeout=TIMEOUT)) == [4.0, ReplyTimeoutError]


def test_a_circuit_that_is_lost_fails_what_it_has_not_answered(ioc: Ioc, served: Served, call: Call) -> None:
    lost, other = connected(served("hangs_up")), connected(ioc.channel("double"))
    watch = Stopwatch()

    results = call(get_context().get_many, [lost, other] * 4, timeout=BACK)

    assert watch.elapsed < BACK / 2
    assert what(results[0::2]) == [0.0, 1.0, NotConnectedError, NotConnectedError]
    assert what(results[1::2]) == [3.25] * 4
    assert what(call(get_context().get_many, [lost, other], timeout=BACK))[1] == 3.25
    assert isinstance(lost.get(timeout=BACK).value, float)


@pytest.mark.parametrize("columns", [False, True])
def test_a_server_that_dies_amid_a_read_fails_its_own_reads(ioc: Ioc, mortal_ioc: Ioc, columns: bool) -> None:
    mortal, other = connected(mortal_ioc.channel("double")), connected(ioc.channel("double"))

    async def main() -> Any:
        with mortal_ioc.frozen():
            asked = get_context().get_many_async([mortal, other] * 2, columns=columns, timeout=BACK)
            mortal_ioc.kill()
            return await asked

    results = asyncio.run(main())

    if columns:
        assert list(results.error) == [mortal.pv]
        assert isinstance(results.error[mortal.pv], NotConnectedError)
        assert results.value[1::2].tolist() == [3.25, 3.25]
    else:
        assert what(results) == [NotConnectedError, 3.25] * 2
    mortal_ioc.start()
    assert what(get_context().get_many([mortal, other], timeout=BACK)) == [3.25, 3.25]


def test_a_read_comes_after_the_puts_before_it(ioc: Ioc, call: Call) -> None:
    channel = connected(ioc.channel("put_double"))

    for n in range(100):
        channel.put(n, wait=False)
        assert what(call(get_context().get_many, [channel, channel])) == [n, n]


def test_reads_that_were_withdrawn_are_in_nobodys_way(served: Served) -> None:
    channel = connected(served("backwards"))

    async def main() -> list[Any]:
        withdrawn = get_context().get_many_async([channel, channel])
        assert withdrawn.cancel()
        return await get_context().get_many_async([channel] * 4, timeout=TIMEOUT)

    # The server answers three at a time: the two that nobody awaits with the first of the four.
    assert what(asyncio.run(main())) == [2.0, 0.0, 1.0, 2.0]
