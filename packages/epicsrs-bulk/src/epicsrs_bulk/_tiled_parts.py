"""Where the columns of a stream are in a Tiled catalog: in tables, and what no table can hold in arrays."""

# pyarrow has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from epicsrs_bulk._tiled_values import ColumnValues, Values, is_tabular, uneven

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

# bluesky-tiled-plugins' limit, and the name of its table; with more columns the tables are numbered.
_WIDEST = 1024
_TABLE = "internal"
# Tiled's rules for names of columns, which PostgreSQL limits to 63 bytes.
_COLUMN = re.compile(r"""[A-Za-z_](?:(?!--|/\*|\*/)[^'"`;\\%()=+])*""")
_LONGEST = 63


class TablePart:
    """A table that is appended to.

    Args:
        node: The stream's, in the catalog.
        key: The table's.
        dtypes: Of its columns, by name.
        metadata: Of its columns.
        access_tags: Of the run.
    """

    def __init__(
        self, node: Any, key: str, dtypes: Mapping[str, np.dtype[Any]], metadata: Mapping[str, Any], access_tags: Any
    ) -> None:
        self._node = node
        self._key = key
        self._dtypes = dtypes
        self._metadata = {name: metadata[name] for name in dtypes if name in metadata}
        self._access_tags = access_tags
        self.client: Any = None

    def append(self, columns: Mapping[str, ColumnValues]) -> None:
        """Append rows."""
        import pyarrow as pa

        table = pa.table({name: columns[name].arrow(dtype) for name, dtype in self._dtypes.items()})
        if self.client is None:
            self.client = self._node.create_appendable_table(
                schema=table.schema, key=self._key, metadata=self._metadata, access_tags=self._access_tags
            )
        self.client.append_partition(0, table)


class ArrayPart:
    """An array that grows along its first axis, the rows.

    Args:
        node: The stream's, in the catalog.
        name: The column's.
        dtype: Of its elements.
        metadata: Of the column.
        access_tags: Of the run.
    """

    def __init__(
        self, node: Any, name: str, dtype: np.dtype[Any], metadata: Mapping[str, Any], access_tags: Any
    ) -> None:
        self._node = node
        self._name = name
        self._dtype = dtype
        self._metadata = metadata.get(name, {})
        self._access_tags = access_tags
        self.client: Any = None

    def append(self, columns: Mapping[str, ColumnValues]) -> None:
        """Append rows."""
        column = columns[self._name]
        array = column.fitted(self._dtype)
        if column.missing is not None and self._dtype.kind != "f":
            raise ValueError(f"{self._name}: None in an array of {self._dtype}")
        if self.client is not None:
            if array.shape[1:] != self.client.shape[1:]:
                raise ValueError(uneven(self._name, tuple(self.client.shape[1:]), array.shape[1:]))
            self.client.patch(array, offset=self.client.shape[:1], extend=True)
            return
        if not array.size:
            raise ValueError(f"{self._name}: arrays of shape {array.shape[1:]}; the catalog takes none that are empty")
        # Of one length, one axis: what is read as one xarray.Dataset wants that.
        axes = ["time", *(f"dim_{size}" for size in array.shape[1:])]
        if len(set(axes)) < len(axes):
            axes = ["time", *(f"{self._name}_{axis}" for axis in range(1, array.ndim))]
        self._dtype = array.dtype
        self.client = self._node.write_array(
            array, key=self._name, metadata=self._metadata, dims=axes, access_tags=self._access_tags
        )


def parts(
    node: Any,
    columns: Mapping[str, ColumnValues],
    declared: Mapping[str, np.dtype[Any] | None],
    metadata: Mapping[str, Any],
    access_tags: Any,
) -> list[TablePart | ArrayPart]:
    """Parts for all columns, none of them in the catalog yet.

    Args:
        node: The stream's, in the catalog.
        columns: Their first values, which decide where the declared dtypes do not fit.
        declared: Dtypes by name.
        metadata: Of columns, by name.
        access_tags: Of the run.
    """
    dtypes = {name: column.dtype(declared.get(name)) for name, column in columns.items()}
    tabular: dict[str, np.dtype[Any]] = {}
    # Databases do not tell `X` from `x`.
    taken: set[str] = set()
    arrays: list[TablePart | ArrayPart] = []
    for name, dtype in dtypes.items():
        fits = _COLUMN.fullmatch(name) and len(name.encode()) <= _LONGEST and name.lower() not in taken
        if fits and is_tabular(columns[name].array, dtype):
            tabular[name] = dtype
            taken.add(name.lower())
        else:
            arrays.append(ArrayPart(node, name, dtype, metadata, access_tags))
    tables = list(_split(tabular))
    keys = [_TABLE] if len(tables) == 1 else [f"{_TABLE}_{number}" for number in range(len(tables))]
    return [
        *(TablePart(node, key, part, metadata, access_tags) for key, part in zip(keys, tables, strict=True)),
        *arrays,
    ]


def _split(dtypes: dict[str, np.dtype[Any]]) -> Iterator[dict[str, np.dtype[Any]]]:
    names = list(dtypes)
    for start in range(0, len(names), _WIDEST):
        yield {name: dtypes[name] for name in names[start : start + _WIDEST]}


def as_columns(named: Mapping[str, Values]) -> dict[str, ColumnValues]:
    """Columns by name."""
    return {name: ColumnValues(name, values) for name, values in named.items()}
