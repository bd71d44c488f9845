"""bulk_get, bulk_put, bulk_connect and their awaitable twins."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import epicsrs_bulk
from deadline import Stopwatch
from epicsrs_bulk import bulk_caget, bulk_connect, bulk_get, bulk_put, bulk_read, close_channels
from epicsrs_native import NotConnectedError
from ioc import Ioc

Call = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """Run an operation, or its awaitable twin."""

    def run(operation: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if request.param == "sync":
            return operation(*arguments, **options)

        async def main() -> Any:
            return await getattr(epicsrs_bulk, f"{operation.__name__}_async")(*arguments, **options)

        return asyncio.run(main())

    return run


@pytest.mark.parametrize("operation", [bulk_get, bulk_put, bulk_connect, bulk_read])
def test_twins_have_one_signature(operation: Call) -> None:
    twin = getattr(epicsrs_bulk, f"{operation.__name__}_async")

    assert inspect.signature(operation) == inspect.signature(twin)


def test_values_by_name_in_the_order_given(board: Ioc, call: Call) -> None:
    pvs = [board.pv("steps", "pva"), board.pv("pressure"), board.pv("sample"), board.pv("spectrum")]

    values = call(bulk_get, pvs)

    assert list(values) == pvs
    assert [values[pv] for pv in pvs[:3]] == [-42, 12.0, "LaB6"]
    assert values[pvs[3]].tolist() == [0.5, 1.5, 2.5]


def test_one_missing_pv_of_many_is_an_error_that_names_it(board: Ioc, call: Call) -> None:
    pvs = [board.pv("steps"), "absent:pv", "absent:too"]

    with pytest.raises(NotConnectedError, match="absent:pv") as caught:
        call(bulk_get, pvs, timeout=0.3)

    assert caught.value.pv == "absent:pv"
    assert caught.value.__notes__ == ["2 of 3 PVs failed: absent:pv, absent:too"]


def test_errors_stand_in_the_place_of_values_where_that_is_asked_for(board: Ioc, call: Call) -> None:
    watch = Stopwatch()

    values = call(bulk_get, [board.pv("steps"), "absent:pv"], on_error="return", timeout=0.3)

    assert watch.elapsed < 3.0
    assert values[board.pv("steps")] == -42
    assert type(values["absent:pv"]) is NotConnectedError


def test_the_known_name_gives_none_for_what_cannot_be_read(board: Ioc) -> None:
    assert bulk_caget([board.pv("steps"), "absent:pv"], 0.3) == {board.pv("steps"): -42, "absent:pv": None}


@pytest.mark.parametrize("protocol", ["ca", "pva"])
def test_values_are_written_and_processed(board: Ioc, protocol: str, call: Call) -> None:
    values = {board.pv("position", protocol): 2.5, board.pv("counter", protocol): 7, board.pv("shutter", protocol): 1}

    assert call(bulk_put, values) == {}

    assert bulk_get(values) == values
    board.channel("shutter").put(0)


def test_what_can_be_written_is_and_the_rest_is_told(board: Ioc, call: Call) -> None:
    good, bad = board.pv("counter"), board.pv("position")

    failures = call(bulk_put, {bad: "no number", good: 11, "absent:pv": 1}, on_error="return", timeout=0.5)
    with pytest.raises(type(failures[bad]), match=bad) as caught:
        call(bulk_put, {bad: "no number", good: 12, "absent:pv": 1}, timeout=0.5)

    assert list(failures) == [bad, "absent:pv"] and type(failures["absent:pv"]) is NotConnectedError
    assert isinstance(failures[bad], ValueError | TypeError)
    assert caught.value.__notes__ == [f"2 of 3 PVs failed: {bad}, absent:pv"]
    assert bulk_get([good]) == {good: 12}


def test_connected_channels_are_kept_for_the_reads(board: Ioc, call: Call) -> None:
    close_channels()
    pvs = [board.pv("steps"), board.pv("pressure", "pva")]

    assert call(bulk_connect, pvs) == {}
    failures = call(bulk_connect, [*pvs, "absent:pv"], on_error="return", timeout=0.3)

    assert list(failures) == ["absent:pv"] and type(failures["absent:pv"]) is NotConnectedError
    with pytest.raises(NotConnectedError, match="absent:pv"):
        call(bulk_connect, [*pvs, "absent:pv"], timeout=0.3)
    assert close_channels() == 2


@pytest.mark.parametrize(
    ("operation", "arguments", "error", "words"),
    [
        (bulk_get, [[]], ValueError, "the list is empty"),
        (bulk_get, ["X"], TypeError, r"give \['X'\]"),
        (bulk_get, [["X", "ca://X"]], ValueError, "ca://X: given twice"),
        (bulk_connect, [[]], ValueError, "bulk_connect needs at least one PV"),
        (bulk_connect, ["X"], TypeError, "bulk_connect takes a list of PVs"),
        (bulk_put, [{}], ValueError, "bulk_put needs at least one PV"),
        (bulk_put, [["X"]], TypeError, "bulk_put takes a dict of values by PV, not list"),
        (bulk_put, [{"X": 1, "ca://X": 2}], ValueError, "given twice"),
    ],
)
def test_bad_input_is_refused(
    call: Call, operation: Call, arguments: list[Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        call(operation, *arguments)


@pytest.mark.parametrize(("operation", "argument"), [(bulk_get, ["X"]), (bulk_put, {"X": 1}), (bulk_connect, ["X"])])
def test_a_word_that_is_not_known_is_refused(call: Call, operation: Call, argument: Any) -> None:
    with pytest.raises(ValueError, match="on_error is 'raise' or 'return', not 'ignore'"):
        call(operation, argument, on_error="ignore")
