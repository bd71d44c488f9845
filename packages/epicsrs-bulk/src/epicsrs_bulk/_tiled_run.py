"""One run on its way into a Tiled catalog."""

# bluesky-tiled-plugins has no types.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from epicsrs_bulk._latin import as_latin
from epicsrs_bulk._tiled_stream import TiledStream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bluesky_tiled_plugins import TiledWriter

# What the values of external keys say that are in a file's stream; those of others are in events.
_IN_STREAM = "STREAM:"


class TiledRun:
    """One run: its rows by `TiledStream`, all else by bluesky-tiled-plugins' TiledWriter.

    The writer also has the rows of streams whose events refer to files, document by document (`Resource` and `Datum`).

    Args:
        client: Of the catalog.
        start: The start document.
        batch_rows: As for `TiledStream`.
        batch_seconds: As for `TiledStream`.
    """

    def __init__(self, client: Any, start: Mapping[str, Any], batch_rows: int, batch_seconds: float) -> None:
        from bluesky_tiled_plugins import TiledWriter

        self.uid: str = start["uid"]
        self._client = client
        self._access_tags = start.get("tiled_access_tags")
        self._batch = batch_rows, batch_seconds
        self._writer: TiledWriter = TiledWriter(client, patches={"stream_resource": _with_plain_uri})
        self._streams: dict[str, TiledStream] = {}
        # By the uid of each descriptor.
        self._of: dict[str, TiledStream] = {}

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one of its documents, the start first."""
        stream = self._of.get(doc["descriptor"]) if name in ("event", "event_page") else None
        if stream is not None:
            stream.event(doc) if name == "event" else stream.event_page(doc)
            return
        # JSON, in which all this goes to the server, has no other text.
        doc = as_latin(doc)
        if name == "stop":
            for stream in self._streams.values():
                stream.close()
        self._writer(name, doc)
        if name == "descriptor":
            self._declare(doc)

    def _declare(self, doc: Mapping[str, Any]) -> None:
        external = [key["external"] for key in doc["data_keys"].values() if "external" in key]
        if any(not str(where).startswith(_IN_STREAM) for where in external):
            return
        name = doc["name"]
        if name not in self._streams:
            node = self._client[self.uid].base[name].base
            self._streams[name] = TiledStream(node, doc, self._access_tags, *self._batch)
        self._of[doc["uid"]] = self._streams[name]


def _with_plain_uri(resource: dict[str, Any]) -> dict[str, Any]:
    # Tiled takes what is quoted in the URI of a file for the name of the file (tiled.utils.path_from_uri).
    if str(resource.get("uri", "")).startswith("file:"):
        resource["uri"] = unquote(resource["uri"])
    return resource
