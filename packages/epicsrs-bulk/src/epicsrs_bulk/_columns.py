"""Waveforms to columns: n rows, one declared dtype, and for every cell whether it was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from event_model import DataKey
    from numpy.typing import DTypeLike, NDArray

# Readers of the documents keep these names for themselves: a column called so is renamed, or shadows the row's own.
RESERVED = frozenset({"time", "seq_num", "uid", "filled", "descriptor"})
# The column beside each column: true where the cell was measured.
VALID = "_valid"

_DTYPES = {"f": "number", "i": "integer", "u": "integer", "b": "boolean"}


def check_key(key: str, pv: str = "") -> None:
    """Refuse a name that documents cannot carry.

    Raises:
        TypeError: It is not a string.
        ValueError: It is empty, reserved (``time``, ``seq_num`` ...), or has a ``.`` or ``/`` in it, which
            event-model's descriptors do not allow.
    """
    of = f"{pv}: " if pv else ""
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] (callers need not be typed)
        raise TypeError(f"{of}the key of a column is a str, not {key!r}")
    if key in RESERVED:
        raise ValueError(f"{of}the key {key!r} is reserved by the readers of documents; name the column otherwise")
    if not key or "." in key or "/" in key:
        raise ValueError(f"{of}a key is not empty and has no '.' and no '/' in it; {key!r} will not do")


def check_unique(names: Iterable[str]) -> None:
    """ValueError where two columns, those beside a column included, have one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two columns are called {name!r}")
        seen.add(name)


@dataclass(frozen=True)
class Column:
    """How one waveform PV becomes one column of a fly scan.

    Attributes:
        pv: The waveform; a scalar is a waveform of one element.
        key: The column's name in the documents. Its neighbour ``<key>_valid`` says which cells were measured.
        dtype: Of every value in the column: float, integer or boolean. Nothing is rounded to an integer.
        offset: Elements at the waveform's start that are not rows.
        stride: From one row to the next, in elements; 2 keeps every second sample.
        fill: What a cell holds that was not measured: NaN by default, to be declared where the dtype has no NaN.
        units: Engineering units for the descriptor; None where they are not stated.
        fresh: Whether the record must have been processed during the flight. False for one that is set up before.
    """

    pv: str
    key: str
    dtype: DTypeLike = np.float64
    offset: int = 0
    stride: int = 1
    fill: float | None = None
    units: str | None = None
    fresh: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.pv, str):  # pyright: ignore[reportUnnecessaryIsInstance] (callers need not be typed)
            raise TypeError(f"the PV of a column is a str, not {self.pv!r}")
        if not self.pv:
            raise ValueError(f"column {self.key!r} has no PV")
        check_key(self.key, self.pv)
        dtype, fill = resolve_dtype(self.pv, self.dtype, self.fill)
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "fill", fill)
        for name, least in (("offset", 0), ("stride", 1)):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool):
                raise TypeError(f"{self.pv}: {name} is an int, not {count!r}")
            if count < least:
                raise ValueError(f"{self.pv}: {name} is {least} or more, not {count}")

    def rows(self, waveform: object) -> int:
        """How many rows the waveform has, after offset and stride."""
        return len(self.elements(waveform))

    def build(self, waveform: object, rows: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The column and its validity: ``rows`` values each, copies, read-only.

        Args:
            waveform: The PV's value, as it was read.
            rows: The length to give it. Elements beyond are left out; rows beyond hold the fill and are not valid.

        Raises:
            TypeError: The waveform is not numeric.
            ValueError: A value that the dtype does not hold; the message names PV, row, value and dtype.
        """
        return self.fit(self.elements(waveform)[:rows], rows)

    def fit(self, elements: NDArray[Any], rows: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """As ``build``, of elements that are rows already, and not more than ``rows``."""
        dtype = np.dtype(self.dtype)
        values = np.full(rows, self.fill, dtype)
        values[: len(elements)] = cast(elements, dtype, self.pv)
        valid = np.arange(rows) < len(elements)
        return frozen(values), frozen(valid)

    def missing(self, rows: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The column of a PV that could not be read: all fill, nothing valid."""
        return self.build(np.empty(0, np.dtype(self.dtype)), rows)

    def describe(self, source: str) -> dict[str, DataKey]:
        """The descriptor's entries of the column and of its validity; a new dict each time."""
        return {
            self.key: data_key(source, np.dtype(self.dtype), self.units),
            self.key + VALID: data_key(source, np.dtype(np.bool_), None),
        }

    def elements(self, waveform: object) -> NDArray[Any]:
        """The elements of a waveform that are rows; TypeError where it cannot be a column."""
        elements = np.atleast_1d(np.asarray(waveform))
        if elements.dtype.kind not in _DTYPES:
            raise TypeError(f"{self.pv}: {elements.dtype} cannot be a column of {np.dtype(self.dtype)}")
        if elements.ndim != 1:
            raise TypeError(f"{self.pv}: a column comes from one dimension, not from the shape {elements.shape}")
        return elements[self.offset :: self.stride]


def resolve_dtype(pv: str, dtype: DTypeLike, fill: float | None) -> tuple[np.dtype[Any], Any]:
    """A column's dtype and what its unknown cells hold.

    Raises:
        TypeError: Neither floats, nor integers, nor booleans.
        ValueError: A fill that the dtype does not hold, or none where it has no NaN.
    """
    resolved = np.dtype(dtype)
    if resolved.kind not in _DTYPES:
        raise TypeError(f"{pv}: a column holds floats, integers or booleans, not {resolved}")
    if fill is None and resolved.kind != "f":
        raise ValueError(f"{pv}: {resolved} has no NaN; declare the fill of cells that were not measured")
    cell = np.asarray([math.nan if fill is None else fill])
    return resolved, cast(cell, resolved, f"{pv}: fill")[0].item()


def cast(values: NDArray[Any], dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    """Values in another dtype: in floats rounded to their precision, in integers and booleans exactly as they are.

    Whole floats go into integers, as Channel Access gives 32-bit unsigned and 64-bit records as doubles.

    Raises:
        ValueError: A value that the dtype does not hold; the message has the row, the value and the dtype.
    """
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(dtype)
        lost = np.isinf(result) & np.isfinite(values) if dtype.kind == "f" else result != values
    if lost.any():
        row = int(np.argmax(lost))
        raise ValueError(f"{what}: row {row} is {values[row]!s}, which {dtype} does not hold")
    return result


def frozen(values: NDArray[Any]) -> NDArray[Any]:
    """The same array, read-only: a document that was emitted does not change."""
    values.flags.writeable = False
    return values


def data_key(source: str, dtype: np.dtype[Any], units: str | None) -> DataKey:
    """One scalar per row, as event-model describes it."""
    key: DataKey = {"source": source, "dtype": _DTYPES[dtype.kind], "shape": [], "dtype_numpy": dtype.str}  # pyright: ignore[reportAssignmentType] (dtype is a Literal)
    if units is not None:
        key["units"] = units
    return key
