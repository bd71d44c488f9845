"""The rows that waveforms gain: each once, none lost, whatever order the updates of the columns come in."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from epicsrs_bulk import Column
from epicsrs_bulk._tails import Tails  # noqa: PLC2701 (updates in every order, which no IOC gives)


def state(values: Any, stamp: int) -> Any:
    """A waveform as it was read."""
    return SimpleNamespace(value=np.asarray(values, np.float64), timestamp_ns=stamp)


def rows(pages: Any, *keys: str) -> list[tuple[Any, ...]]:
    return [row for data, _ in pages for row in zip(*(data[key].tolist() for key in keys), strict=True)]


def one_column() -> Tails:
    return Tails([Column("X", "x")], "t", "t_ns")


def test_what_was_there_before_is_not_given() -> None:
    tails = one_column()
    tails.tails[0].take(state([9.0, 8.0], 1))

    assert tails.pages() == []
    tails.tails[0].take(state([9.0, 8.0, 7.0], 2))
    assert rows(tails.pages(), "t_reset", "t_index", "x", "t_ns") == [(0, 2, 7.0, 2)]


def test_what_is_erased_before_the_first_row_is_no_reset() -> None:
    tails = one_column()
    for stamp, values in enumerate([[9.0, 8.0], [], [1.0], [1.0, 2.0]]):
        tails.tails[0].take(state(values, stamp))
        tails.pages()
        if stamp == 1:
            assert tails.pages() == []

    tails.tails[0].take(state([1.0, 2.0, 3.0], 9))
    assert rows(tails.pages(), "t_reset", "t_index", "x", "t_ns") == [(0, 2, 3.0, 9)]


def test_a_reset_is_seen_by_a_change_as_well_as_by_the_length() -> None:
    tails = one_column()
    for stamp, values in enumerate([[], [1.0, 2.0], [5.0, 6.0, 7.0], [5.0, np.nan], [5.0, np.nan, 8.0]]):
        tails.tails[0].take(state(values, stamp))

    found = rows(tails.pages(), "t_reset", "t_index", "t_ns")

    assert found == [(0, 0, 1), (0, 1, 1), (1, 0, 2), (1, 1, 2), (1, 2, 2), (2, 0, 3), (2, 1, 3), (2, 2, 4)]


def test_an_update_that_comes_late_is_no_reset() -> None:
    tails = one_column()
    for stamp, values in [(0, []), (2, [1.0, 2.0]), (1, [1.0]), (2, [1.0, 2.0])]:
        tails.tails[0].take(state(values, stamp))

    assert rows(tails.pages(last=True), "t_reset", "t_index", "x") == [(0, 0, 1.0), (0, 1, 2.0)]


def test_a_column_that_is_short_is_filled_when_no_more_can_come() -> None:
    tails = Tails([Column("X", "x"), Column("Y", "y", "i4", fill=-1)], "t", "t_ns")
    x, y = tails.tails
    for tail in (x, y):
        tail.take(state([], 0))
    x.take(state([1.0, 2.0], 1))
    y.take(state([5.0], 2))
    assert rows(tails.pages(), "x", "y", "t_ns") == [(1.0, 5, 2)]

    for tail in (x, y):
        tail.take(state([3.0], 4))

    assert rows(tails.pages(), "t_reset", "x", "y", "y_valid") == [(0, 2.0, -1, False), (1, 3.0, 3, True)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_each_row_is_given_once_and_in_order(data: st.DataObject) -> None:
    """Two columns that are filled several times, in steps of their own, and looked at at any moment."""
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    updates = []
    for key in range(2):
        states = [[]]
        for filling, length in enumerate(lengths):
            ends = sorted({*data.draw(st.sets(st.integers(1, length))), length})
            states += [[100.0 * filling + row for row in range(end)] for end in ends]
        updates.append([(key, values) for values in states])
    tails = Tails([Column("X", "x"), Column("Y", "y")], "t", "t_ns")
    for key in range(2):
        tails.tails[key].take(state([], 0))
    given_rows: list[tuple[Any, ...]] = []
    stamp = 0
    while any(updates):
        key, values = data.draw(st.sampled_from([part for part in updates if part])).pop(0)
        stamp += 1
        tails.tails[key].take(state(values, stamp))
        if data.draw(st.booleans()):
            given_rows += rows(tails.pages(), "t_reset", "t_index", "x", "y", "x_valid", "y_valid")
    given_rows += rows(tails.pages(last=True), "t_reset", "t_index", "x", "y", "x_valid", "y_valid")

    assert given_rows == [
        (filling, row, 100.0 * filling + row, 100.0 * filling + row, True, True)
        for filling, length in enumerate(lengths)
        for row in range(length)
    ]
