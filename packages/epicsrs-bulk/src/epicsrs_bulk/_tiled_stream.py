"""The rows of one stream of a run, on their way into a Tiled catalog."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from epicsrs_bulk._tiled_parts import ArrayPart, TablePart, as_columns, parts
from epicsrs_bulk._tiled_values import declared_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from epicsrs_bulk._tiled_values import Values

# Columns of every stream, which bluesky-tiled-plugins keeps data keys from.
_RESERVED = frozenset({"time", "seq_num"})
_OWN = {"seq_num": np.dtype("i8"), "time": np.dtype("f8")}
# Bytes for one request, more or less.
_REQUEST = 32 * 2**20


class TiledStream:
    """One stream: single events are collected for a while, pages are written as they come.

    Args:
        node: The stream's, in the catalog.
        descriptor: Its first descriptor.
        access_tags: Of the run.
        batch_rows: Single events that are collected at most.
        batch_seconds: Seconds after which what was collected is written, with the next event.
    """

    def __init__(
        self, node: Any, descriptor: Mapping[str, Any], access_tags: Any, batch_rows: int, batch_seconds: float
    ) -> None:
        self.name = descriptor["name"]
        self._node = node
        self._access_tags = access_tags
        self._batch_rows = batch_rows
        self._batch_seconds = batch_seconds
        self._data_keys: Mapping[str, Any] = descriptor["data_keys"]
        self._keys: tuple[str, ...] = ()
        self._parts: list[TablePart | ArrayPart] = []
        self._events: list[Mapping[str, Any]] = []
        self._since = 0.0

    def event(self, doc: Mapping[str, Any]) -> None:
        """One row.

        Raises:
            ValueError: Its keys are not those of the stream, or a column cannot hold its value.
        """
        self._check_keys(doc)
        if not self._events:
            self._since = time.monotonic()
        self._events.append(doc)
        if len(self._events) >= self._batch_rows or time.monotonic() - self._since >= self._batch_seconds:
            self.flush()

    def event_page(self, doc: Mapping[str, Any]) -> None:
        """Many rows.

        Raises:
            ValueError: Their keys are not those of the stream, or a column cannot hold its values.
        """
        self._check_keys(doc)
        self.flush()
        if len(doc["seq_num"]):
            self._write(doc["seq_num"], doc["time"], doc["data"], doc["timestamps"])

    def flush(self) -> None:
        """Write what was collected."""
        events, self._events = self._events, []
        if events:
            self._write(
                [event["seq_num"] for event in events],
                [event["time"] for event in events],
                {key: [event["data"][key] for event in events] for key in self._keys},
                {key: [event["timestamps"][key] for event in events] for key in self._keys},
            )

    def close(self) -> None:
        """Write what was collected, and tell the server that no more will come."""
        self.flush()
        for part in self._parts:
            part.client.close_stream()

    def _check_keys(self, doc: Mapping[str, Any]) -> None:
        keys = tuple(doc["data"])
        if not self._keys:
            unknown = [key for key in keys if key not in self._data_keys]
            if unknown:
                raise ValueError(f"stream {self.name}: {', '.join(unknown)} not in its descriptor")
            self._keys = keys
        if set(keys) != set(self._keys):
            odd = sorted(set(keys) ^ set(self._keys))
            raise ValueError(f"stream {self.name}: rows with and without {', '.join(odd)}")

    def _write(
        self,
        seq_num: Sequence[int],
        times: Sequence[float],
        data: Mapping[str, Values],
        timestamps: Mapping[str, Values],
    ) -> None:
        named: dict[str, Values] = {"seq_num": seq_num, "time": times}
        for key in self._keys:
            named[_stored(key)] = data[key]
        for key in self._keys:
            named[f"ts_{_stored(key)}"] = timestamps[key]
        if len(named) != 2 + 2 * len(self._keys):
            raise ValueError(f"stream {self.name}: data keys that are stored under one name: {', '.join(self._keys)}")
        try:
            columns = as_columns(named)
            rows = len(seq_num)
            at_once = max(1, rows * _REQUEST // max(1, sum(column.array.nbytes for column in columns.values())))
            for start in range(0, rows, at_once):
                part = {name: values[start : start + at_once] for name, values in named.items()}
                self._append(columns if at_once >= rows else as_columns(part))
        except ValueError as error:
            raise ValueError(f"stream {self.name}: {error}") from error

    def _append(self, columns: Mapping[str, Any]) -> None:
        if not self._parts:
            declared = {_stored(key): declared_dtype(self._data_keys[key]) for key in self._keys}
            stamps = {f"ts_{name}": np.dtype("f8") for name in declared}
            metadata = {_stored(key): self._data_keys[key] for key in self._keys}
            self._parts = parts(self._node, columns, declared | stamps | _OWN, metadata, self._access_tags)
        for part in self._parts:
            part.append(columns)


def _stored(key: str) -> str:
    """The name under which bluesky-tiled-plugins' descriptor has a data key."""
    return f"{key}_" if key in _RESERVED else key
