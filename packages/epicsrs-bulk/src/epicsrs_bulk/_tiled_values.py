"""Values of a column, in the one dtype that it has for a whole run."""

# pyarrow has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from epicsrs_bulk._latin import as_latin

if TYPE_CHECKING:
    from event_model import DataKey
    from numpy.typing import NDArray

Values: TypeAlias = "Sequence[Any] | NDArray[Any]"

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "number": np.dtype("f8"),
    "integer": np.dtype("i8"),
    "boolean": np.dtype("?"),
    "string": np.dtype("U"),
}
# Of numpy's kinds those that a column of a table can have.
_TABULAR = "biufU"


class ColumnValues:
    """The values of a column, before they have a dtype.

    Args:
        name: Of the column, for errors.
        values: One for each row; None where there is none.

    Raises:
        ValueError: They have different shapes, or text stands among numbers.
    """

    def __init__(self, name: str, values: Values) -> None:
        self.name = name
        self.missing: NDArray[np.bool_] | None = None
        if not isinstance(values, np.ndarray) and any(value is None for value in values):
            self.missing = np.array([value is None for value in values])
            values = _filled(values)
        try:
            self.array: NDArray[Any] = np.asarray(values)
        except ValueError as error:
            shapes = sorted({np.shape(value) for value in values})
            raise ValueError(uneven(name, shapes[0], shapes[-1])) from error
        if self.array.dtype.kind != "U":
            return
        self.array = as_latin(self.array)
        if not isinstance(values, np.ndarray):
            odd = next((value for value in np.ravel(np.array(values, object)) if not isinstance(value, str)), None)
            if odd is not None:
                raise ValueError(f"{name}: {odd!r} among texts")

    def dtype(self, declared: np.dtype[Any] | None) -> np.dtype[Any]:
        """The declared dtype, or these values' own where they do not fit it."""
        if declared is None:
            return self.array.dtype
        try:
            return self.fitted(declared).dtype
        except ValueError:
            return self.array.dtype

    def fitted(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The values in a dtype, each exactly what it was; NaN or nothing where one is missing.

        Raises:
            ValueError: The dtype cannot hold one of them.
        """
        array = self.array
        if self.missing is not None and dtype.kind == "f":
            array = np.where(self.missing, np.nan, array.astype(np.float64)).astype(dtype)
        if array.dtype == dtype or (dtype.kind == array.dtype.kind == "U" and not dtype.itemsize):
            return array
        with np.errstate(all="ignore"):
            try:
                if (dtype.kind == "U") != (array.dtype.kind == "U"):
                    raise TypeError("texts and numbers")
                cast = array.astype(dtype)
                back = cast.astype(array.dtype)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{self.name}: {array.dtype} in a column of {dtype}") from error
            # The way back tells what a float has rounded, the comparison what has lost its sign.
            same = ((back == array) & (cast == array)) | ((cast != cast) & (array != array))
        if not np.all(same):
            odd = array[np.logical_not(same)][0]
            raise ValueError(f"{self.name}: {odd!r} in a column of {dtype}, which cannot hold it")
        return cast

    def arrow(self, dtype: np.dtype[Any]) -> Any:
        """The values in a dtype as a column of a table; null where one is missing, in a float NaN.

        Raises:
            ValueError: The dtype cannot hold one of them.
        """
        import pyarrow as pa

        array = self.fitted(dtype)
        if dtype.kind == "U":
            return pa.array(array.tolist(), pa.string(), mask=self.missing)
        return pa.array(array, mask=self.missing if dtype.kind != "f" else None)


def declared_dtype(described: DataKey | Mapping[str, Any]) -> np.dtype[Any] | None:
    """The dtype that a data key declares; None where it leaves that to its values, as an array may."""
    exact = described.get("dtype_numpy")
    if isinstance(exact, str):
        dtype = np.dtype(exact)
        # Texts are texts: event-model's values are str whatever the width that is declared.
        return np.dtype("U") if dtype.kind in "SUO" else dtype
    return None if exact is not None else _DTYPES.get(described.get("dtype", ""))


def uneven(name: str, one: tuple[int, ...], other: tuple[int, ...]) -> str:
    """What to say of a column whose rows have different shapes."""
    return (
        f"{name}: rows of shape {one} and {other}; Tiled holds one shape in a column. Let its device give all rows the "
        "same length, or send such runs to MongoTarget or JsonLinesTarget"
    )


def is_tabular(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether a table can hold the values: one in each row, of a type that databases know."""
    return array.ndim == 1 and dtype.kind in _TABULAR


def _filled(values: Sequence[Any]) -> list[Any]:
    """Something of the right type where a value is missing."""
    known = next((value for value in values if value is not None), np.nan)
    stand_in = "" if isinstance(known, str) else known
    return [stand_in if value is None else value for value in values]
