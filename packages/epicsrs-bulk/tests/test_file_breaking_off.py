"""Flights with rows in a file that are broken off, go wrong, or are collected out of turn."""

import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import h5py
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from deadline import until
from epicsrs_bulk import Column, FileFlyer, FlightDataError, FlightError, FlightStoppedError
from ioc import Ioc

Filled = Callable[[], bool]
Plan = Callable[..., Any]
Run = Callable[..., Any]
Store = Callable[..., FileFlyer]
Documents = Any

pytestmark = pytest.mark.usefixtures("three_rows")


@pytest.mark.parametrize("how", ["abort", "stop", "halt"])
def test_an_interrupted_run_keeps_what_was_measured_once(
    board: Ioc, engine: RunEngine, endless_stored: Store, how: str, declared: Plan, documents: Documents, filled: Filled
) -> None:
    def interrupt() -> None:
        until(filled)
        engine.request_pause()

    threading.Thread(target=interrupt).start()
    with pytest.raises(RunEngineInterrupted):
        engine(declared(endless_stored()), documents.keep)
    assert board.channel("abort").get().value == 1, "a paused flight is disarmed"
    getattr(engine, how)()

    assert documents.announced("i0") == [(0, 3)]
    assert documents.stored()["i0"].tolist() == [1.5, 2.5, 3.5]
    assert documents.of("stop")[0]["num_events"] == {"primary": 3}


@pytest.mark.parametrize("kind", ["page", "file"])
def test_ctrl_c_keeps_what_was_measured_once(board: Ioc, tmp_path: Path, filled: Filled, kind: str) -> None:
    program = Path(__file__).parent / "programs/interrupted_flight.py"
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", program, board.prefix, tmp_path, kind], stdout=output, stderr=output
        )
        try:
            until(lambda: "flying" in log.read_text() or process.poll() is not None, 60.0)
            until(filled)
            process.send_signal(signal.SIGINT)
            until(lambda: "deferred pause" in log.read_text() or process.poll() is not None, 20.0)
            # bluesky counts those only that come at a man's pace.
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.send_signal(signal.SIGINT)
            process.wait(30.0)
        finally:
            process.kill()

    last = log.read_text().splitlines()[-1]
    assert last.startswith("{"), log.read_text()
    # In a file one column, its validity, and the same of the times.
    announced = {"page": 1, "file": 4}[kind]
    assert json.loads(last) == {"rows": [1.5, 2.5, 3.5], "announced": announced, "disarmed": True, "exit": "abort"}


def test_a_resumed_plan_goes_on_in_the_same_file(
    board: Ioc, engine: RunEngine, endless_stored: Store, declared: Plan, documents: Documents, filled: Filled
) -> None:
    device = endless_stored()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.checkpoint()
        yield from bps.kickoff(device, wait=True)
        yield from bps.complete(device, wait=True)
        yield from bps.collect(device, return_payload=False)
        yield from bps.close_run()

    def interrupt() -> None:
        until(filled)
        engine.request_pause()

    threading.Thread(target=interrupt).start()
    with pytest.raises(RunEngineInterrupted):
        engine(plan(), documents.keep)
    before = board.channel("i0").get().timestamp_ns
    board.channel("i0_source").put([10.0, 20.0])

    def finish() -> None:
        until(lambda: board.channel("i0").get().timestamp_ns > before)
        board.channel("manual_busy").put(0)

    threading.Thread(target=finish).start()
    engine.resume()

    assert documents.stored()["i0"].tolist() == [1.5, 2.5, 3.5, 10.0, 20.0]
    assert documents.of("stop")[0]["num_events"] == {"primary": 5}


@pytest.mark.parametrize("when", ["flying", "completing"])
def test_an_error_in_the_plan_keeps_what_was_measured_once(
    board: Ioc, run: Run, endless_stored: Store, when: str, filled: Filled
) -> None:
    device = endless_stored()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        if when == "completing":
            yield from bps.complete(device, group="flight")
        until(filled)
        raise LookupError("in the plan")

    documents = run(plan(), LookupError)

    assert documents.announced("i0") == [(0, 3)]
    assert documents.stored()["i0"].tolist() == [1.5, 2.5, 3.5]
    assert board.channel("abort").get().value == 1


def test_doubtful_data_fails_the_plan_and_is_in_the_file(board: Ioc, stored: Store, run: Run, declared: Plan) -> None:
    columns = [Column(board.pv("i0"), "i0"), Column(board.pv("forgotten"), "old")]

    documents = run(declared(stored(columns=columns)), FlightDataError)

    assert documents.stored()["i0"].tolist() == [1.5, 2.5, 3.5]
    assert not documents.stored()["old_valid"].any()


def test_what_no_status_could_tell_is_logged(
    board: Ioc, endless_stored: Store, run: Run, caplog: pytest.LogCaptureFixture, filled: Filled
) -> None:
    """Bluesky drops all documents of a collect that raises."""
    device = endless_stored()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        until(filled)
        device.stop()
        yield from bps.collect(device, return_payload=False)
        yield from bps.close_run()

    with caplog.at_level(logging.ERROR, "epicsrs.bulk"):
        documents = run(plan())

    assert documents.announced("i0") == [(0, 3)]
    assert [record.message for record in caplog.records] == ["board: broken off: stop() was called"]


def test_rows_that_nobody_announced_stop_the_next_run(
    engine: RunEngine, stored: Store, run: Run, declared: Plan, forgetful: Plan
) -> None:
    device = stored()

    engine(forgetful(device))
    documents = run(declared(device), FlightError)
    assert "were not collected" in documents.of("stop")[0]["reason"]

    device.discard()
    assert run(declared(device)).of("stop")[0]["num_events"] == {"primary": 3}


def test_out_of_turn_is_refused(stored: Store, run: Run) -> None:
    device = stored()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.collect(device, return_payload=False)

    documents = run(plan(), FlightError)

    assert "nothing to collect; there was no flight" in documents.of("stop")[0]["reason"]


def test_stop_before_the_end_says_so_to_what_waits(board: Ioc, endless_stored: Store, filled: Filled) -> None:
    device = endless_stored()
    device.describe_collect()
    device.kickoff().wait(5.0)
    ended = device.complete()
    until(filled)

    device.stop()

    with pytest.raises(FlightStoppedError):
        ended.wait(5.0)
    with h5py.File(device.path) as file:
        assert file["i0"][:].tolist() == [1.5, 2.5, 3.5]
    device.discard()
