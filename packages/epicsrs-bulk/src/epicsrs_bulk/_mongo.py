"""Runs in MongoDB, in the layout that databroker reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from epicsrs_bulk._latin import as_latin
from epicsrs_bulk._sink import Sink, SinkOptions
from epicsrs_bulk._sink_errors import DocumentError

if TYPE_CHECKING:
    from epicsrs_bulk._target import Document

# Of the unique keys that suitcase makes too, and of those that a run is found by when it is forgotten.
_UNIQUE = {"run_start": "uid", "run_stop": "uid", "event_descriptor": "uid", "event": "uid", "datum": "datum_id"}
_FOUND_BY = {
    "run_stop": "run_start",
    "event_descriptor": "run_start",
    "event": "descriptor",
    "resource": "run_start",
    "datum": "resource",
    "stream_resource": "run_start",
    "stream_datum": "descriptor",
}
# suitcase has no place for these; they go into collections of their own.
_STREAMS = ("stream_resource", "stream_datum")
_INT64 = np.iinfo(np.int64)


class MongoTarget:
    """Writes runs with `suitcase.mongo_normalized`: a collection for each kind of document, an event for each row.

    Arrays become lists of the numbers, texts or booleans in them, dates ISO 8601 text; NaN stays NaN. What BSON cannot
    hold as it is (an integer beyond 64 bits, a complex number, a `datetime`) is refused. Stream resources
    and stream data go to collections of these names, which databroker does not read.

    Args:
        uri: Of the server, like ``mongodb://host:27017``. Options go with it, like ``?w=majority&journal=true`` for
            documents that are on the disks of a replica set once they are delivered. The server may be down now.
        database: Its database. Indexes are made that writing and forgetting a run need;
            `suitcase.mongo_normalized.Serializer.create_indexes` makes more.

    Raises:
        ImportError: The extra `mongo` is not installed.
        ValueError: The URI makes no sense.
    """

    def __init__(self, uri: str, database: str) -> None:
        try:
            import pymongo
            import pymongo.errors
            from suitcase import mongo_normalized  # pyright: ignore[reportMissingTypeStubs]
        except ImportError as error:
            raise ImportError("runs to MongoDB need: pip install 'epicsrs-bulk[mongo]'") from error
        try:
            self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)
        except pymongo.errors.PyMongoError as error:
            raise ValueError(f"{uri!r} is no URI of a MongoDB server: {error}") from error
        self._database = self._client[database]
        self._write = cast("Any", mongo_normalized).Serializer(self._database, self._database)
        self._indexed = False

    def __call__(self, name: str, doc: Document) -> None:
        """Write one document; when it returns, the server has acknowledged it.

        Raises:
            DocumentError: BSON cannot hold it; the message says where.
            pymongo.errors.PyMongoError: The server is down, or does not take it.
        """
        if not self._indexed:
            self._make_indexes()
        plain = _bson(doc, f"{name} {doc.get('uid', '')}: ")
        if name in _STREAMS:
            self._database[name].insert_one(plain)
        else:
            # Past its own __call__, which would send each value through JSON.
            getattr(self._write, name)(plain)

    def forget(self, run_uid: str) -> None:
        """Delete all documents of a run, leaves first, so that another call finds what is left."""
        if not self._indexed:
            self._make_indexes()
        descriptors = self._uids("event_descriptor", run_uid)
        self._delete("event", descriptors)
        self._delete("stream_datum", descriptors)
        self._delete("datum", self._uids("resource", run_uid))
        for collection in ("event_descriptor", "resource", "stream_resource", "run_stop"):
            self._delete(collection, [run_uid])
        self._database["run_start"].delete_many({"uid": run_uid})

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __repr__(self) -> str:
        # Without the URI, which may hold a password.
        return f"MongoTarget(database={self._database.name!r})"

    def _make_indexes(self) -> None:
        for collection, key in _UNIQUE.items():
            self._database[collection].create_index(key, unique=True)
        for collection, key in _FOUND_BY.items():
            self._database[collection].create_index(key)
        self._indexed = True

    def _uids(self, collection: str, run_uid: str) -> list[str]:
        return [doc["uid"] for doc in self._database[collection].find({"run_start": run_uid}, {"uid": True})]

    def _delete(self, collection: str, uids: list[str]) -> None:
        if uids:
            self._database[collection].delete_many({_FOUND_BY[collection]: {"$in": uids}})


class AsyncMongoWriter(Sink):
    """A sink whose target is MongoDB, by the name and with the calls that bluesky-dataforge has for it.

    ``RE.subscribe(AsyncMongoWriter(uri, database))``; it has `flush`, `close` and `health`, and all that `Sink` says
    holds: documents are in a journal before they go to the server, and an error is raised in the plan.

    Args:
        uri: See `MongoTarget`.
        database: See `MongoTarget`.
        batch_size: No longer used: every document is sent at once, a page in one request.
        journal_folder: By default ``epicsrs-bulk/<database>`` in ``$XDG_STATE_HOME``, else in ``~/.local/state``.
        options: See `Sink`.

    Raises:
        ImportError: The extra `mongo` is not installed.
        JournalError: The folder cannot be made or written.
        ValueError: The URI, or an option, makes no sense.
    """

    def __init__(
        self,
        uri: str,
        database: str,
        batch_size: int | None = None,  # noqa: ARG002 (the signature that its users know)
        *,
        journal_folder: str | os.PathLike[str] | None = None,
        **options: Unpack[SinkOptions],
    ) -> None:
        if journal_folder is None:
            state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
            journal_folder = Path(state) / "epicsrs-bulk" / database
        super().__init__(MongoTarget(uri, database), journal_folder, **options)


def _bson(value: Any, where: str) -> Any:
    """The same in types that BSON holds without loss; a copy, which pymongo may add an ``_id`` to."""
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        if odd := [key for key, _ in items if not isinstance(key, str)]:
            raise DocumentError(f"{where}the key {odd[0]!r} is no text")
        return {as_latin(key): _bson(item, f"{where}[{key!r}]") for key, item in items}
    if isinstance(value, list | tuple):
        sequence = cast("list[Any]", value)
        # Long lists of one plain type, like the uids and times of a page, are not gone through more than needed.
        types = {type(item) for item in sequence}
        if types <= {str, float, bool}:
            return as_latin(sequence) if str in types else list(sequence)
        return [_bson(item, f"{where}[{index}]") for index, item in enumerate(sequence)]
    if isinstance(value, np.ndarray | np.generic):
        return _bson_array(cast("np.ndarray[Any, np.dtype[Any]]", value), where)
    if isinstance(value, str):
        return as_latin(value)
    if value is None or isinstance(value, float | bytes) or (isinstance(value, int) and _fits(value)):
        return value
    raise DocumentError(f"{where} cannot be stored in MongoDB as it is: {value!r}")


def _bson_array(array: np.ndarray[Any, np.dtype[Any]], where: str) -> Any:
    kind = array.dtype.kind
    if kind in "Mm":
        return array.astype(str).tolist()
    fits = kind in "bifUS" or (kind == "u" and (not array.size or _fits(int(array.max()))))
    if not fits or (kind == "f" and array.dtype.itemsize > 8):
        raise DocumentError(f"{where}: {array.dtype} cannot be stored in MongoDB without loss")
    return as_latin(array).tolist()


def _fits(value: int) -> bool:
    return _INT64.min <= value <= _INT64.max
