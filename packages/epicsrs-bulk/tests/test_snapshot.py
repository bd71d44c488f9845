"""BulkSnapshot as the baseline of runs."""

from collections.abc import Callable
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky import RunEngine
from bluesky.preprocessors import SupplementalData
from bluesky.protocols import Readable

from epicsrs_bulk import BulkSnapshot
from epicsrs_native import NotConnectedError
from ioc import Ioc

Run = Callable[..., Any]


@pytest.fixture
def snapshot(board: Ioc) -> BulkSnapshot:
    return BulkSnapshot(
        "optics",
        {
            "pressure": board.pv("pressure"),
            "steps": board.pv("steps", "pva"),
            "shutter": board.pv("shutter"),
            "sample": board.pv("sample"),
            "spectrum": board.pv("spectrum"),
        },
    )


def test_a_baseline_before_and_after_a_run(board: Ioc, engine: RunEngine, run: Run, snapshot: BulkSnapshot) -> None:
    board.channel("shutter").put(0)
    baseline = SupplementalData(baseline=[snapshot])
    engine.preprocessors.append(baseline)

    def plan() -> Any:
        yield from bps.open_run()
        board.channel("shutter").put(1)
        yield from bps.close_run()

    try:
        documents = run(plan())
    finally:
        engine.preprocessors.remove(baseline)
        board.channel("shutter").put(0)

    [descriptor], [before, after] = documents.of("descriptor"), documents.of("event")
    assert isinstance(snapshot, Readable)
    assert descriptor["name"] == "baseline"
    keys = {key: (described["dtype"], described["shape"]) for key, described in descriptor["data_keys"].items()}
    assert keys == {
        "pressure": ("number", []),
        "steps": ("integer", []),
        "shutter": ("string", []),
        "sample": ("string", []),
        "spectrum": ("array", [3]),
    }
    assert descriptor["data_keys"]["spectrum"]["dtype_numpy"] == "<f8"
    assert descriptor["data_keys"]["steps"]["source"] == board.pv("steps", "pva")
    assert (before["data"]["shutter"], after["data"]["shutter"]) == ("Closed", "Open")
    assert before["data"]["steps"] == -42 and before["data"]["spectrum"].tolist() == [0.5, 1.5, 2.5]
    assert after["timestamps"]["shutter"] > before["timestamps"]["shutter"]
    assert before["timestamps"]["pressure"] == board.channel("pressure").get().timestamp


@pytest.mark.parametrize("protocol", ["ca", "pva"])
def test_an_index_without_a_label_is_itself(board: Ioc, run: Run, protocol: str) -> None:
    board.channel("state").put(5)
    try:
        documents = run(bp.count([BulkSnapshot("table", {"state": board.pv("state", protocol)})]))
    finally:
        board.channel("state").put(1)

    assert documents.of("event")[0]["data"] == {"state": "5"}


def test_names_alone_make_their_keys(board: Ioc, run: Run) -> None:
    snapshot = BulkSnapshot("all", [board.pv("pressure"), board.pv("steps.EGU"), board.pv("steps", "pva")])

    [event] = run(bp.count([snapshot])).of("event")

    prefix = board.prefix
    assert list(event["data"]) == [f"{prefix}pressure", f"{prefix}steps_EGU", f"pva_{prefix}steps"]


def test_a_pv_that_is_missing_fails_the_plan_by_name(board: Ioc, run: Run) -> None:
    snapshot = BulkSnapshot("all", {"steps": board.pv("steps"), "gone": "absent:pv"}, timeout=0.3)

    error = run(bp.count([snapshot]), NotConnectedError).error

    assert "absent:pv" in str(error)


@pytest.mark.parametrize(
    ("pvs", "error", "words"),
    [
        ([], ValueError, "BulkSnapshot needs at least one PV"),
        ({}, ValueError, "BulkSnapshot needs at least one PV"),
        ("X", TypeError, "BulkSnapshot takes a list of PVs"),
        (["X", "X"], ValueError, "X: given twice"),
        ({"a": "X", "b": "X"}, ValueError, "X: given twice"),
        (["X.A", "X_A"], ValueError, "two columns are called 'X_A'"),
        ({"time": "X"}, ValueError, "'time' is reserved"),
        ({"a.b": "X"}, ValueError, "no '.'"),
        ({"a": 5}, TypeError, "a PV is a str or a Channel, not 5"),
    ],
)
def test_bad_names_are_refused(pvs: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        BulkSnapshot("all", pvs)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_timeouts_are_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="all: timeout is positive"):
        BulkSnapshot("all", ["X"], timeout=timeout)
