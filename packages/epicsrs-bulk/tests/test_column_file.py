"""The file of a flyer: folders that take none, disks that are full, readers beside the writer."""

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import h5py
import numpy as np
import pytest
from bluesky import RunEngine

from deadline import until
from epicsrs_bulk import FileFlyer, FlightFileError
from ioc import Ioc

Filled = Callable[[], bool]
Measure = Callable[..., None]
Plan = Callable[..., Any]
Run = Callable[..., Any]
Store = Callable[..., FileFlyer]

pytestmark = pytest.mark.usefixtures("three_rows")


def missing(tmp_path: Path) -> Path:
    return tmp_path / "absent"


def no_folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


def read_only(tmp_path: Path) -> Path:
    # Where root may not write either.
    return Path("/sys")


@pytest.mark.parametrize("folder", [missing, no_folder, read_only])
def test_a_folder_that_takes_no_file_stops_the_flight_before_it_begins(
    board: Ioc, tmp_path: Path, folder: Callable[[Path], Path], stored: Any, run: Run, declared: Plan
) -> None:
    began = board.channel("start").get().timestamp_ns
    device = stored(folder=folder(tmp_path))

    error = run(declared(device), FlightFileError).error

    assert isinstance(error, OSError)
    assert error.path == str(device.path) and error.path in str(error)
    assert board.channel("start").get().timestamp_ns == began


def test_a_disk_without_room_for_the_rows_stops_the_flight_before_it_begins(
    board: Ioc, stored: Store, tmp_path: Path, run: Run, declared: Plan
) -> None:
    began = board.channel("start").get().timestamp_ns

    error = run(declared(stored(rows=10**15)), FlightFileError).error

    assert "bytes, and the disk has" in str(error)
    assert board.channel("start").get().timestamp_ns == began
    assert not list(tmp_path.iterdir())


def test_after_a_refused_kickoff_the_next_one_flies(stored: Store, tmp_path: Path, run: Run, declared: Plan) -> None:
    device = stored(folder=tmp_path / "later")
    run(declared(device), FlightFileError)

    (tmp_path / "later").mkdir()

    assert run(declared(device)).of("stop")[0]["num_events"] == {"primary": 3}


def test_a_disk_that_is_full_fails_the_plan_and_loses_no_row(
    board: Ioc, stored: Store, measure: Measure, run: Run, declared: Plan
) -> None:
    """A limit on the size of files stands for the disk."""
    measure(i0=np.arange(20_000.0), it=np.arange(20_000.0), encoder=np.arange(20_000), clock=np.ones(20_000))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limit[1]))
    try:
        documents = run(declared(stored()), FlightFileError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    error = documents.error
    assert "20000 rows were not written" in str(error) and error.path in str(error)
    assert error.page["data"]["i0"].tolist() == list(range(20_000))
    assert not documents.of("stream_datum")


def test_a_file_system_that_reserves_nothing_takes_the_rows(
    stored: Store, run: Run, declared: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of musl on some; glibc writes zeros itself."""

    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", refuse)

    assert run(declared(stored())).stored()["i0"].tolist() == [1.5, 2.5, 3.5]


def test_others_may_read_while_it_is_written(
    board: Ioc, endless_stored: Store, engine: RunEngine, run: Run, filled: Filled
) -> None:
    device = endless_stored()
    seen: list[list[float]] = []

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        for _ in range(2):
            yield from bps.kickoff(device, wait=True)
            assert device.path is not None
            with h5py.File(device.path, swmr=True) as file:
                seen.append(file["i0"][:].tolist())
                yield from bps.complete(device, group="flight")
                until(filled)
                board.channel("manual_busy").put(0)
                yield from bps.wait("flight")
                file["i0"].refresh()
                seen.append(file["i0"][:].tolist())
            yield from bps.collect(device, return_payload=False)
        yield from bps.close_run()

    run(plan())

    rows = [1.5, 2.5, 3.5]
    assert seen == [[], rows, rows, rows * 2]


def test_no_file_stays_open(stored: Store, run: Run, declared: Plan) -> None:
    device = stored()

    run(declared(device))

    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    open_files = [os.readlink(link) for link in links if os.path.lexists(link)]
    assert str(device.path) not in open_files
