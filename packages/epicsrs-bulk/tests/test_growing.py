"""read_until and its awaitable twin, on a waveform that grows."""

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from deadline import Stopwatch
from epicsrs_bulk import BulkRead, ShortWaveformError, read_until, read_until_async
from epicsrs_native import NotConnectedError, ReplyTimeoutError
from ioc import Ioc

Read = Callable[..., BulkRead]


@pytest.fixture(params=["sync", "async"])
def read(request: pytest.FixtureRequest) -> Read:
    """Either twin."""
    if request.param == "sync":
        return read_until

    def run(*arguments: Any, **options: Any) -> BulkRead:
        async def main() -> BulkRead:
            return await read_until_async(*arguments, **options)

        return asyncio.run(main())

    return run


Grow = Callable[..., None]


@pytest.fixture
def grow(board: Ioc) -> Grow:
    """Let a waveform have that many elements: 0, 1, 2 ..."""
    growing = {name: board.channel(name) for name in ("growing", "growing_too")}

    def put(count: int, name: str = "growing") -> None:
        growing[name].put([float(n) for n in range(count)])

    put(0)
    put(0, "growing_too")
    return put


def test_it_waits_until_the_waveforms_have_grown(board: Ioc, read: Read, grow: Grow) -> None:
    def gradually() -> None:
        for count in range(1, 30):
            grow(count)
            grow(2 * count, "growing_too")

    writer = threading.Thread(target=gradually)
    writer.start()
    result = read([board.pv("growing"), board.pv("growing_too", "pva"), board.pv("spectrum")], 3, interval=0.001)
    last = read([board.pv("growing")], 29)
    writer.join(5.0)

    assert list(result) == [board.pv("growing"), board.pv("growing_too", "pva"), board.pv("spectrum")]
    assert all(len(reading.value) >= 3 for reading in result.values())
    assert last[board.pv("growing")].value.tolist() == list(range(29))


def test_only_what_is_short_is_read_again(board: Ioc, grow: Grow) -> None:
    """The reading of what was long enough is from before."""
    grow(2)
    grow(1, "growing_too")
    long, short = board.channel("growing"), board.channel("growing_too")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_until, [long, short], 2, timeout=10.0)
        # Once the waveform has been read it does not matter what becomes of it.
        with pytest.raises(TimeoutError):
            reading.result(0.3)
        grow(5)
        grow(2, "growing_too")
        result = reading.result(5.0)

    assert len(result[long.pv].value) == 2
    assert len(result[short.pv].value) == 2


def test_a_waveform_that_stays_short_is_named_with_what_it_has(board: Ioc, read: Read, grow: Grow) -> None:
    grow(2)
    growing, spectrum = board.pv("growing"), board.pv("spectrum")

    watch = Stopwatch()
    with pytest.raises(ShortWaveformError) as caught:
        read([spectrum, growing], 3, timeout=0.4, interval=0.05)

    assert 0.3 <= watch.elapsed <= 0.8
    error = caught.value
    assert str(error) == f"{growing}: 2 elements within 0.4 s, 3 wanted"
    assert (error.pv, error.got, error.wanted) == (growing, 2, 3)
    assert list(error.readings[spectrum].value) == [0.5, 1.5, 2.5]
    assert list(error.readings[growing].value) == [0.0, 1.0]


def test_a_missing_pv_is_not_connected_at_the_deadline(board: Ioc, read: Read) -> None:
    watch = Stopwatch()
    with pytest.raises(NotConnectedError, match=board.pv("missing")):
        read([board.pv("spectrum"), board.pv("missing")], 1, timeout=0.4)
    assert 0.35 <= watch.elapsed <= 0.8


def test_a_server_that_does_not_answer_is_a_reply_timeout(board: Ioc, read: Read) -> None:
    read([board.pv("spectrum")], 3)

    with board.frozen(), pytest.raises(ReplyTimeoutError, match=board.pv("spectrum")):
        read([board.pv("spectrum")], 3, timeout=0.3)


def test_a_scalar_has_one_element(board: Ioc, read: Read) -> None:
    assert read([board.pv("steps")], 1)[board.pv("steps")].value == -42

    with pytest.raises(ShortWaveformError, match=r"1 elements within 0\.5 s, 2 wanted"):
        read([board.pv("steps")], 2, timeout=0.5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"count": -1}, ValueError),
        ({"count": 1.5}, TypeError),
        ({"count": True}, TypeError),
        ({"interval": -0.1}, ValueError),
        ({"interval": math.nan}, ValueError),
        ({"interval": "1"}, TypeError),
        ({"timeout": math.nan}, ValueError),
        ({"timeout": -1.0}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"pvs": []}, ValueError),
        ({"pvs": ["X", "X"]}, ValueError),
    ],
)
def test_bad_arguments_are_refused(board: Ioc, read: Read, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        read(**{"pvs": [board.pv("spectrum")], "count": 1, **options})
