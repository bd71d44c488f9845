"""Waveforms to columns, and the rows' times."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from epicsrs_bulk import Column

DTYPES = [np.float64, np.float32, np.int64, np.int32, np.int16, np.uint8, np.uint64, np.bool_]


def column(**options: Any) -> Column:
    return Column("BL:I0", "i0", **options)


@settings(max_examples=100, deadline=None)
@given(
    waveform=st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, st.integers(0, 60))),
    offset=st.integers(0, 9),
    stride=st.integers(1, 6),
    rows=st.integers(0, 40),
)
def test_a_column_is_the_slice_then_the_fill_and_valid_says_which(
    waveform: Any, offset: int, stride: int, rows: int
) -> None:
    """Of every value of every dtype, NaN and infinities among them."""
    dtype = waveform.dtype.type
    wanted = column(dtype=dtype, offset=offset, stride=stride, fill=1)

    values, valid = wanted.build(waveform, rows)

    measured = [waveform[i] for i in range(offset, len(waveform), stride)][:rows]
    expected = np.array([*measured, *[dtype(1)] * (rows - len(measured))], dtype)
    assert values.dtype == dtype and valid.dtype == np.bool_
    assert np.array_equal(values, expected, equal_nan=waveform.dtype.kind == "f")
    assert valid.tolist() == [True] * len(measured) + [False] * (rows - len(measured))
    assert wanted.rows(waveform) == len(range(offset, len(waveform), stride))


@settings(max_examples=100, deadline=None)
@given(
    waveform=st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, st.integers(1, 5))),
    dtype=st.sampled_from(DTYPES),
)
def test_another_dtype_holds_the_same_values_or_the_column_is_refused(waveform: Any, dtype: Any) -> None:
    """Integers and booleans exactly; a float rounds, and is not made infinite."""
    with np.errstate(all="ignore"):
        if np.dtype(dtype).kind == "f":
            held = not (np.isinf(waveform.astype(dtype)) & np.isfinite(waveform)).any()
        else:
            held = all(
                not math.isnan(value) and value == dtype(value) for value in waveform.tolist() if _fits(value, dtype)
            )
            held = held and all(_fits(value, dtype) for value in waveform.tolist())

    if held:
        values, _ = column(dtype=dtype, fill=0).build(waveform, len(waveform))
        rounded = [float(dtype(value)) for value in waveform.tolist()]
        assert np.array_equal(values.astype(np.float64), rounded, equal_nan=True)
        if np.dtype(dtype).kind != "f":
            assert [int(value) for value in values.tolist()] == [int(value) for value in waveform.tolist()]
    else:
        with pytest.raises(ValueError, match=r"BL:I0: row \d+ is .*, which .* does not hold"):
            column(dtype=dtype, fill=0).build(waveform, len(waveform))


def _fits(value: float, dtype: Any) -> bool:
    """Whether a value is within the range of an integer dtype."""
    if dtype is np.bool_:
        return value in (0, 1)
    limits = np.iinfo(dtype)
    return math.isfinite(value) and limits.min <= value <= limits.max


def test_whole_floats_go_into_integers() -> None:
    """Channel Access gives 32-bit unsigned and 64-bit records as doubles."""
    values, _ = column(dtype=np.uint32, fill=0).build(np.array([0.0, 4294967295.0]), 2)

    assert values.tolist() == [0, 4294967295]


def test_short_floats_are_nan_where_nothing_was_measured() -> None:
    values, valid = column().build(np.array([1.5, math.nan]), 4)

    assert values[0] == 1.5 and np.isnan(values[1:]).all()
    assert valid.tolist() == [True, True, False, False]


def test_a_column_is_a_copy_that_nobody_can_write() -> None:
    waveform = np.arange(4.0)

    values, valid = column().build(waveform, 4)
    waveform[:] = -1

    assert values.tolist() == [0, 1, 2, 3]
    for array in (values, valid):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7


def test_a_scalar_is_a_waveform_of_one() -> None:
    values, valid = column().build(3, 2)

    assert values[0] == 3.0 and valid.tolist() == [True, False]


def test_what_a_pv_that_failed_leaves_is_all_fill() -> None:
    values, valid = column(dtype=np.int32, fill=-1).missing(3)

    assert values.tolist() == [-1, -1, -1] and valid.tolist() == [False] * 3


@pytest.mark.parametrize(
    ("dtype", "waveform", "error", "words"),
    [
        (np.int32, np.array([1.0, 2.5]), ValueError, "row 1 is 2.5, which int32"),
        (np.int32, np.array([1.0, math.nan]), ValueError, "row 1 is nan, which int32"),
        (np.int32, np.array([math.inf]), ValueError, "row 0 is inf, which int32"),
        (
            np.int64,
            np.array([2.0**63]),
            ValueError,
            r"row 0 is 9\.223372036854775808e\+18|row 0 is 9.223372036854776e\+18",
        ),
        (np.bool_, np.array([0.5]), ValueError, "row 0 is 0.5, which bool"),
        (np.int8, np.array([0, 127, 128]), ValueError, "row 2 is 128, which int8"),
        (np.uint16, np.array([0, -1]), ValueError, "row 1 is -1, which uint16"),
        (np.bool_, np.array([0, 1, 2]), ValueError, "row 2 is 2, which bool"),
        (np.int64, np.array([2**63], np.uint64), ValueError, "row 0 is 9223372036854775808, which int64"),
        (np.float32, np.array([1e300]), ValueError, r"row 0 is 1e\+300, which float32"),
        (np.float64, ["a", "b"], TypeError, "cannot be a column of float64"),
        (np.float64, np.zeros((2, 2)), TypeError, r"the shape \(2, 2\)"),
    ],
)
def test_what_a_dtype_does_not_hold_is_refused_by_pv_row_and_value(
    dtype: Any, waveform: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        column(dtype=dtype, fill=0).build(waveform, 3)
    assert "BL:I0" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"key": "time"}, ValueError, "'time' is reserved"),
        ({"key": "seq_num"}, ValueError, "'seq_num' is reserved"),
        ({"key": ""}, ValueError, "not empty"),
        ({"key": "i.0"}, ValueError, "no '.'"),
        ({"key": "i/0"}, ValueError, "no '/'|and no"),
        ({"key": 5}, TypeError, "not 5"),
        ({"pv": ""}, ValueError, "no PV"),
        ({"pv": 5}, TypeError, "not 5"),
        ({"offset": -1}, ValueError, "offset is 0 or more, not -1"),
        ({"offset": 1.5}, TypeError, "offset is an int, not 1.5"),
        ({"stride": 0}, ValueError, "stride is 1 or more, not 0"),
        ({"stride": True}, TypeError, "stride is an int, not True"),
        ({"dtype": "U10"}, TypeError, "not <U10"),
        ({"dtype": np.complex128}, TypeError, "not complex128"),
        ({"dtype": np.int32}, ValueError, "declare the fill"),
        ({"dtype": np.int32, "fill": math.nan}, ValueError, "fill: row 0 is nan, which int32"),
        ({"dtype": np.int8, "fill": 500}, ValueError, "fill: row 0 is 500, which int8"),
    ],
)
def test_a_bad_column_is_refused_when_it_is_made(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Column(**{"pv": "BL:I0", "key": "i0", **options})


def test_a_column_describes_itself_and_its_validity() -> None:
    keys = column(dtype=np.int32, fill=0, units="counts").describe("ca://BL:I0")

    assert keys == {
        "i0": {"source": "ca://BL:I0", "dtype": "integer", "shape": [], "dtype_numpy": "<i4", "units": "counts"},
        "i0_valid": {"source": "ca://BL:I0", "dtype": "boolean", "shape": [], "dtype_numpy": "|b1"},
    }
