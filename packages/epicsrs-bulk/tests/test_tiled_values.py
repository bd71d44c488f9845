"""Values of a column get one dtype for a whole run, and lose nothing by it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from epicsrs_bulk._tiled_values import ColumnValues, declared_dtype  # noqa: PLC2701 (no server is needed to see what fits)

NUMBERS = st.sampled_from(
    [np.dtype(name) for name in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?")]
)


@pytest.mark.parametrize(
    ("described", "dtype"),
    [
        ({"dtype": "number"}, "f8"),
        ({"dtype": "integer"}, "i8"),
        ({"dtype": "boolean"}, "?"),
        ({"dtype": "string"}, "U"),
        ({"dtype": "number", "dtype_numpy": "<f4"}, "f4"),
        ({"dtype": "integer", "dtype_numpy": "<u8"}, "u8"),
        ({"dtype": "string", "dtype_numpy": "|S40"}, "U"),
        ({"dtype": "array", "dtype_numpy": "<i2"}, "i2"),
        ({"dtype": "array"}, None),
        ({"dtype": "array", "dtype_numpy": [["a", "<f8"]]}, None),
    ],
)
def test_the_declared_dtype_is_the_exact_one_where_there_is_one(described: Any, dtype: str | None) -> None:
    assert declared_dtype(described) == (None if dtype is None else np.dtype(dtype))


@given(NUMBERS.flatmap(lambda dtype: hnp.arrays(dtype, st.integers(1, 5))), NUMBERS)
def test_a_cast_keeps_each_value_or_is_refused(values: np.ndarray, dtype: np.dtype[Any]) -> None:
    column = ColumnValues("x", values)
    # Python compares numbers of different types exactly.
    exact = [value.item() for value in values]
    try:
        cast = column.fitted(dtype)
    except ValueError:
        with np.errstate(all="ignore"):
            assert not same([value.item() for value in values.astype(dtype)], exact)
        # In a column that begins with them they have their own.
        assert column.dtype(dtype) == values.dtype
    else:
        assert cast.dtype == dtype
        assert same([value.item() for value in cast], exact)


def same(some: list[Any], others: list[Any]) -> bool:
    return all(a == b or (a != a and b != b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize(
    ("values", "dtype", "words"),
    [
        ([1, 2.5], "i8", "2.5"),
        ([1.0, np.nan], "i8", "nan"),
        ([2**53 + 1], "f8", "9007199254740993"),
        ([300], "u1", "300"),
        ([0.1], "f4", "0.1"),
        (["a"], "f8", "column of float64"),
        ([1.0], "U", "float64 in a column"),
        (["long", "longer"], "U4", "longer"),
    ],
)
def test_what_does_not_fit_is_named(values: list[Any], dtype: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"speed: .*{words}"):
        ColumnValues("speed", values).fitted(np.dtype(dtype))


def test_text_among_numbers_is_named() -> None:
    with pytest.raises(ValueError, match=r"state: 1\.5 among texts"):
        ColumnValues("state", ["open", 1.5])


def test_arrays_of_different_length_are_named() -> None:
    with pytest.raises(ValueError, match=r"spectrum: rows of shape \(2,\) and \(3,\)"):
        ColumnValues("spectrum", [np.zeros(3), np.zeros(2)])


@pytest.mark.parametrize(
    ("values", "dtype", "arrow"),
    [
        ([1.5, None], "f8", [1.5, None]),
        ([None, 2], "i8", [None, 2]),
        ([None, "a"], "U", [None, "a"]),
        ([None, True], "?", [None, True]),
        ([None, None], "f8", [None, None]),
    ],
)
def test_a_missing_value_is_null_and_in_a_float_nan(values: list[Any], dtype: str, arrow: list[Any]) -> None:
    column = ColumnValues("x", values).arrow(np.dtype(dtype))

    if dtype == "f8":
        np.testing.assert_equal(column.to_numpy(), np.array(values, float))
        assert column.null_count == 0
    else:
        assert column.to_pylist() == arrow
