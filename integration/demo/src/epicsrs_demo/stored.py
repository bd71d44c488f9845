"""Runs as they lie in the catalog, read over HTTP, and compared with what the RunEngine emitted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import numpy as np
from bluesky_tiled_plugins.utils import truncate_json_overflow
from event_model import sanitize_doc

from epicsrs_demo.documents import Emitted


class StoredError(RuntimeError):
    """What lies in the catalog is not what the RunEngine emitted."""


@dataclass(frozen=True)
class Stream:
    """The rows of a stream.

    Attributes:
        data: Columns by data key, those in files among them.
        timestamps: In seconds since 1970, by data key; without those in files.
        units: By data key.
    """

    data: dict[str, np.ndarray]
    timestamps: dict[str, np.ndarray]
    units: dict[str, str]

    @property
    def bytes(self) -> int:
        """The size of its values and timestamps."""
        return sum(values.nbytes for part in (self.data, self.timestamps) for values in part.values())


@dataclass(frozen=True)
class Stored:
    """One run.

    Attributes:
        start, stop: These documents.
        streams: By name.
        sources: The PVs that its streams come from.
        documents: How many were emitted.
        files: Those that hold what is not in the catalog itself.
    """

    start: dict[str, Any]
    stop: dict[str, Any]
    streams: dict[str, Stream]
    sources: set[str]
    documents: int
    files: list[Path]

    def stream(self, name: str) -> Stream:
        """One of its streams."""
        return self.streams[name]

    def units(self, key: str) -> str:
        """The units of a data key."""
        return next((stream.units[key] for stream in self.streams.values() if key in stream.units), "")


def read_back(client: Any, emitted: Emitted) -> Stored:
    """Read a run from the catalog.

    Raises:
        StoredError: It is not what was emitted; the message says where.
    """
    run = client[emitted.uid]
    where = f"run {emitted.start['scan']}"
    _compare(run.start, _as_metadata(emitted.start), f"{where}, start")
    [stop] = emitted.named("stop")
    _compare(run.stop, _as_metadata(stop), f"{where}, stop")
    streams = emitted.streams()
    if sorted(run) != sorted(streams):
        raise StoredError(f"{where} has the streams {', '.join(run)}, and {', '.join(streams)} were emitted")
    resources = {resource["data_key"]: resource for resource in emitted.named("stream_resource")}
    data_keys = [key for [descriptor, *_] in streams.values() for key in descriptor["data_keys"].values()]
    return Stored(
        run.start,
        run.stop,
        {name: _stream(run[name], emitted, name, resources, f"{where}, stream {name}") for name in streams},
        {key["source"] for key in data_keys},
        len(emitted.documents),
        sorted({_path(resource) for resource in resources.values()}),
    )


def _stream(node: Any, emitted: Emitted, name: str, resources: dict[str, Any], where: str) -> Stream:
    [descriptor, *_] = emitted.streams()[name]
    described = _as_metadata(descriptor)
    for part in ("data_keys", "configuration"):
        _compare(node.metadata[part], described[part], f"{where}, {part}")
    rows = _rows(emitted, name)
    # All of them at once: one by one each asks for the list of all.
    parts = dict(node.base.items())
    table = parts["internal"].read() if rows else {}
    columns = {column: np.asarray(table[column]) for column in table}
    data: dict[str, np.ndarray] = {}
    for key in described["data_keys"]:
        data[key] = columns[key] if key in columns else parts[key].read()
        if key in resources:
            frames = _in_file(resources[key])
            # As ophyd-async describes it, one event has an array of one frame.
            data[key] = data[key].reshape(frames.shape) if data[key].size == frames.size else data[key]
            _compare(data[key], frames, f"{where}, {key} in its file")
        else:
            _compare(data[key], np.array([row["data"][key] for row in rows]), f"{where}, {key}")
    timestamps = {key: columns[f"ts_{key}"] for key in data if f"ts_{key}" in columns}
    for key, values in timestamps.items():
        _compare(values, np.array([row["timestamps"][key] for row in rows]), f"{where}, timestamps of {key}")
    if rows:
        for part in ("seq_num", "time"):
            _compare(columns[part], np.array([row[part] for row in rows]), f"{where}, {part}")
    units = {key: value.get("units") or "" for key, value in described["data_keys"].items()}
    return Stream(data, timestamps, units)


def _rows(emitted: Emitted, stream: str) -> list[dict[str, Any]]:
    uids = {descriptor["uid"] for descriptor in emitted.streams()[stream]}
    return [event for event in emitted.named("event") if event["descriptor"] in uids]


def _as_metadata(doc: dict[str, Any]) -> dict[str, Any]:
    """What becomes of a document as JSON: bluesky-tiled-plugins clips what is beyond 2^53, as limits of 1e300."""
    return truncate_json_overflow(sanitize_doc(doc))


def _path(resource: dict[str, Any]) -> Path:
    return Path(unquote(urlparse(resource["uri"]).path))


def _in_file(resource: dict[str, Any]) -> np.ndarray:
    with h5py.File(_path(resource)) as file:
        return np.asarray(file[resource["parameters"]["dataset"]])


def _compare(found: Any, expected: Any, where: str) -> None:
    """Whether all that is expected is found; the catalog may know more, as a data key's dtype_numpy."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            _compare(found.get(key), value, f"{where}, {key}")
        return
    try:
        np.testing.assert_equal(found, expected)
    except AssertionError:
        raise StoredError(f"{where}: {found!r:.60}, and {expected!r:.60} was emitted") from None
