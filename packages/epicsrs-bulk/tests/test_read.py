"""bulk_read and its awaitable twin."""

import asyncio
import math
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import epicsrs_bulk
from deadline import Stopwatch
from epicsrs_bulk import BulkRead, bulk_read, close_channels, keep_channels
from epicsrs_native import EnumValue, NotConnectedError, ReplyTimeoutError
from ioc import Ioc

Read = Callable[..., BulkRead]


@pytest.fixture(params=["sync", "async"])
def read(request: pytest.FixtureRequest) -> Read:
    """Either twin."""
    if request.param == "sync":
        return bulk_read

    def run(pvs: Any, **options: Any) -> BulkRead:
        async def main() -> BulkRead:
            return await epicsrs_bulk.bulk_read_async(pvs, **options)

        return asyncio.run(main())

    return run


@pytest.fixture(autouse=True)
def no_channels_from_before() -> None:
    close_channels()


def test_scalars_and_waveforms_over_both_protocols_in_one_read(board: Ioc, read: Read) -> None:
    wanted = {
        board.pv("pressure"): 12.0,
        board.pv("steps", "pva"): -42,
        board.pv("state"): 1,
        board.pv("sample", "pva"): "LaB6",
        board.pv("spectrum"): [0.5, 1.5, 2.5],
        board.pv("shorts", "pva"): [1, -2, 3, -4],
        board.pv("empty"): [],
        board.pv("names"): ["a", "b"],
    }

    result = read(wanted)

    assert list(result) == list(wanted) and len(result) == 8
    assert not result.failed and not result.errors
    result.raise_first()
    for pv, value in wanted.items():
        assert list(result[pv].value) == value if isinstance(value, list) else result[pv].value == value
    assert result[board.pv("spectrum")].value.dtype == np.float64
    assert result[board.pv("shorts", "pva")].value.dtype == np.int16
    state = result[board.pv("state")].value
    assert isinstance(state, EnumValue) and state.label == "Moving"


@pytest.mark.parametrize("protocol", ["ca", "pva"])
def test_each_reading_has_the_iocs_time_and_severity(board: Ioc, read: Read, protocol: str) -> None:
    high, quiet = board.pv("pressure", protocol), board.pv("steps", protocol)

    result = read([high, quiet])

    assert result[high].severity == 2
    assert result[quiet].severity == 0
    stamp = result[high].timestamp_ns
    assert isinstance(stamp, int)
    assert time.time() - 3600 < stamp / 1e9 <= time.time()
    assert result[high].timestamp == pytest.approx(stamp / 1e9, abs=1e-6)
    assert stamp == board.channel("pressure", protocol).get().timestamp_ns


def test_one_missing_pv_of_fifty_costs_the_timeout_and_nothing_else(board: Ioc, read: Read) -> None:
    names = ["pressure", "steps", "state", "spectrum", "shorts"]
    wanted = [board.pv(name, protocol) for name in names for protocol in ("ca", "pva")]
    wanted += [board.pv(f"state.{name}") for name in "ZRST ONST TWST THST FRST FVST SXST SVST EIST NIST".split()]
    wanted += [board.pv(f"pressure.{name}") for name in "LOLO LOW HIGH HYST ADEL MDEL DRVH DRVL PREC EGU".split()]
    wanted += [board.pv(f"steps.{name}") for name in "LOLO LOW HIGH HYST ADEL MDEL DRVH DRVL HIHI EGU".split()]
    wanted += [board.pv(f"state.{name}") for name in "TEST ELST TVST TTST FTST FFST PHAS SCAN PINI".split()]
    missing = board.pv("missing")
    wanted.insert(17, missing)
    assert len(wanted) == 50

    watch = Stopwatch()
    result = read(wanted, timeout=1.0)

    assert 0.95 <= watch.elapsed <= 1.5
    assert result.failed == [missing]
    assert sum(result[pv].value is not None for pv in wanted if pv != missing) == 49
    error = result.errors[missing]
    assert type(error) is NotConnectedError
    assert error.pv == missing and missing in str(error)
    assert result[missing].error is error


def test_what_a_failed_pv_has_not_raises_its_error(board: Ioc) -> None:
    gone = bulk_read([board.pv("missing")], timeout=0.1)[board.pv("missing")]

    for attribute in ("value", "timestamp", "timestamp_ns", "severity"):
        with pytest.raises(NotConnectedError, match="missing"):
            getattr(gone, attribute)


def test_the_first_error_is_raised_with_the_names_of_the_others(board: Ioc) -> None:
    absent = [board.pv(f"missing{n}") for n in range(8)]
    result = bulk_read([board.pv("steps"), *absent], timeout=0.1)

    with pytest.raises(NotConnectedError) as caught:
        result.raise_first()

    assert caught.value.pv == absent[0]
    [note] = caught.value.__notes__
    assert note.startswith("8 of 9 PVs failed: ") and absent[4] in note and note.endswith("and 3 more")
    assert repr(result) == "<BulkRead: 9 PVs, 8 failed>"


def test_a_server_that_does_not_answer_costs_the_timeout(board: Ioc, read: Read) -> None:
    """The channels of the read before are connected, so what is missing is the reply."""
    wanted = [board.pv("steps"), board.pv("spectrum", "pva")]
    bulk_read(wanted)

    with board.frozen():
        watch = Stopwatch()
        result = read(wanted, timeout=0.4)

    assert 0.35 <= watch.elapsed <= 0.8
    assert {type(error) for error in result.errors.values()} == {ReplyTimeoutError}
    assert result.failed == wanted


def test_the_callers_own_channels_are_read_and_left_open(board: Ioc, read: Read) -> None:
    channel = board.channel("spectrum")

    result = read([channel, board.pv("steps")])

    assert list(result[channel.pv].value) == [0.5, 1.5, 2.5]
    assert channel.connected and not channel.closed
    close_channels()
    assert not channel.closed
    channel.close()


def test_a_closed_channel_is_refused_by_name(board: Ioc, read: Read) -> None:
    channel = board.channel("spectrum")
    channel.close()

    with pytest.raises(ValueError, match=channel.pv):
        read([channel, board.pv("steps")])


@pytest.mark.parametrize(
    ("pvs", "error", "words"),
    [
        ([], ValueError, "at least one PV"),
        ("X", TypeError, r"\['X'\]"),
        (["X", "Y", "X"], ValueError, "X: given twice"),
        (["X", "ca://X"], ValueError, "ca://X: given twice"),
        (["X", 7], TypeError, "not 7"),
        (["X", None], TypeError, "not None"),
        (["X", b"Y"], TypeError, "not b'Y'"),
        (["X", ""], ValueError, "empty"),
        (["X", "foo://Y"], ValueError, "foo://Y"),
        (["X", "Ü"], ValueError, "Ü"),
    ],
)
def test_bad_pvs_are_refused(board: Ioc, read: Read, pvs: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read(pvs)
    assert close_channels() == 0


def test_what_is_no_pv_is_refused_after_a_good_read_too(board: Ioc, read: Read) -> None:
    wanted = [board.pv("steps"), board.pv("spectrum")]
    for _ in range(2):
        assert not read(wanted).failed

    for odd in (np.zeros(2), None):
        with pytest.raises(TypeError, match="a PV is a str"):
            read([board.pv("steps"), odd])
    with pytest.raises(ValueError, match="given twice"):
        read([board.pv("steps")] * 2)

    assert list(read(wanted[::-1])) == wanted[::-1]


@pytest.mark.parametrize(
    ("timeout", "error"), [(math.nan, ValueError), (-1.0, ValueError), ("5", TypeError), (True, TypeError)]
)
def test_bad_timeouts_are_refused(board: Ioc, read: Read, timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=board.pv("steps")):
        read([board.pv("steps")], timeout=timeout)


def test_channels_stay_open_between_reads_until_they_are_closed(board: Ioc) -> None:
    wanted = [board.pv("steps"), board.pv("state", "pva")]

    bulk_read(wanted)
    bulk_read(wanted)

    assert close_channels() == 2
    assert close_channels() == 0
    assert bulk_read(wanted)[board.pv("steps")].value == -42


def test_a_pv_that_did_not_connect_is_not_kept(board: Ioc) -> None:
    bulk_read([board.pv("missing"), board.pv("steps")], timeout=0.2)

    assert close_channels() == 1


def test_at_most_the_limit_is_kept(board: Ioc) -> None:
    wanted = [board.pv(name) for name in ("steps", "state", "sample")]
    before = keep_channels(2)
    try:
        assert before == 10_000
        assert not bulk_read(wanted).failed
        assert close_channels() == 2

        bulk_read(wanted[:2])
        assert keep_channels(0) == 2
        assert close_channels() == 0
    finally:
        keep_channels(before)


@pytest.mark.parametrize(("limit", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_bad_limits_are_refused(limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        keep_channels(limit)


def test_reads_of_many_threads_share_the_channels(board: Ioc) -> None:
    """A read that ends does not close what another one still waits for."""
    wanted = [board.pv(name) for name in ("steps", "state", "sample", "pressure")]
    before = keep_channels(0)
    try:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _: bulk_read(wanted), range(40)))
    finally:
        keep_channels(before)

    assert all(result[wanted[0]].value == -42 and not result.failed for result in results)


def test_a_read_after_shutdown_opens_a_fresh_client(board: Ioc) -> None:
    program = (
        "import epicsrs_native, epicsrs_bulk\n"
        f"wanted = [{board.pv('steps')!r}, {board.pv('shorts', 'pva')!r}]\n"
        "first = epicsrs_bulk.bulk_read(wanted)\n"
        "epicsrs_native.shutdown_all()\n"
        "second = epicsrs_bulk.bulk_read(wanted)\n"
        "print(first.failed, second.failed, second[wanted[0]].value)\n"
    )

    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=30)

    assert (run.stdout, run.stderr) == ("[] [] -42\n", "")
