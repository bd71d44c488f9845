"""A Tiled catalog as a target of a sink."""

# tiled has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false

from __future__ import annotations

import math
import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from epicsrs_bulk._tiled_errors import TiledError, explained
from epicsrs_bulk._tiled_run import TiledRun

if TYPE_CHECKING:
    from collections.abc import Callable

# What a document other than its start says about the run that it belongs to.
_REFERENCES = ("run_start", "descriptor", "resource", "stream_resource")
# Seconds for a first look whether anybody listens; Tiled's own client tries again for half a minute.
_FIRST_LOOK = 5.0


class TiledTarget:
    """Writes runs into a Tiled catalog, in the layout of bluesky-tiled-plugins, which reads them again.

    A run is written as it comes: ``catalog[run_uid]["primary"].read()`` gives what there is. Values come back as they
    were, each column in one dtype for the whole run: the declared one, or that of its first values where these do not
    fit it. EventPages go over column by column, single events in batches; files stay where they are, and the server
    has to be allowed to read them.

    Nothing is imported and nobody is connected to before the first document, which takes some seconds; not thread-safe,
    and needs no more in a `Sink`, which has a thread for it.

    Args:
        catalog: URL of a Tiled server or of a container in it, a tiled client of one, or a function that gives a client
            and is called at the first document.
        api_key: For a URL; otherwise what is in the URL or in ``TILED_API_KEY``.
        batch_rows: Single events that are collected at most before they are written.
        batch_seconds: Seconds after which what was collected is written, with the next event.

    Raises:
        ImportError: bluesky-tiled-plugins or tiled's client is not installed.
        TypeError: ``catalog`` is none of these.
        ValueError: A batch makes no sense, or the URL is none.
    """

    def __init__(
        self,
        catalog: str | Callable[[], Any] | Any,
        *,
        api_key: str | None = None,
        batch_rows: int = 1000,
        batch_seconds: float = 1.0,
    ) -> None:
        if find_spec("bluesky_tiled_plugins") is None:
            raise ImportError("TiledTarget needs bluesky-tiled-plugins; pip install 'epicsrs-bulk[tiled]' brings it")
        if batch_rows < 1:
            raise ValueError(f"batch_rows is 1 or more, not {batch_rows!r}")
        if not (math.isfinite(batch_seconds) and batch_seconds >= 0):
            raise ValueError(f"batch_seconds is a number of seconds, not {batch_seconds!r}")
        self._batch = batch_rows, batch_seconds
        self._client: Any = None
        self._runs: dict[str, TiledRun] = {}
        # By the uid of each document that others refer to.
        self._of: dict[str, TiledRun] = {}
        self.url = ""
        if isinstance(catalog, str):
            if urlsplit(catalog).scheme not in ("http", "https") or not urlsplit(catalog).hostname:
                raise ValueError(f"a catalog is at a URL like http://host:8000, not {catalog!r}")
            self.url = _bare(catalog)
            self._connect: Callable[[], Any] = lambda: _connected(catalog, api_key)
        elif hasattr(catalog, "create_container"):
            self._connect = lambda: catalog
        elif callable(catalog):
            self._connect = catalog
        else:
            raise TypeError(f"a catalog is a URL, a tiled client or a function that gives one, not {catalog!r}")

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take one document of a run, its start first.

        Raises:
            TiledError: The server cannot be reached, refuses it, or has the run already.
            ValueError: The document belongs to no run that has started here, or a column cannot hold a value.
        """
        if name == "start":
            self._refuse_known(doc["uid"])
            run = TiledRun(self.connect(), doc, *self._batch)
            self._runs[run.uid] = self._of[run.uid] = run
        else:
            run = self._run(name, doc)
        if "uid" in doc and name in ("descriptor", "resource", "stream_resource"):
            self._of[doc["uid"]] = run
        try:
            run(name, doc)
        except Exception as error:
            raise explained(error, self.url, f"{name} of run {run.uid}") from error
        if name == "stop":
            self._drop(run.uid)

    def forget(self, run_uid: str) -> None:
        """Delete a run from the catalog, whole or half-written; files that its documents point to stay.

        Raises:
            TiledError: The server cannot be reached, or refuses.
        """
        from httpx import HTTPStatusError

        self._drop(run_uid)
        client = self.connect()
        try:
            client.delete_contents([run_uid], recursive=True, external_only=False)
        except Exception as error:
            if isinstance(error, HTTPStatusError) and error.response.status_code == 404:
                return
            raise explained(error, self.url, f"run {run_uid} not deleted") from error

    def connect(self) -> Any:
        """The tiled client of the catalog; made at the first call.

        Raises:
            TiledError: The server cannot be reached, or refuses the API key.
        """
        if self._client is None:
            try:
                self._client = self._connect()
            except Exception as error:
                raise explained(error, self.url, "no connection") from error
            self.url = self.url or str(getattr(self._client, "uri", ""))
        return self._client

    def close(self) -> None:
        """Forget runs that have no stop; what was written of them stays in the catalog."""
        self._runs.clear()
        self._of.clear()

    def __repr__(self) -> str:
        return f"TiledTarget({self.url or self._connect!r})"

    def _refuse_known(self, run_uid: str) -> None:
        try:
            known = run_uid in self.connect()
        except Exception as error:
            raise explained(error, self.url, f"start of run {run_uid}") from error
        if known:
            raise TiledError(f"{self.url}: run {run_uid} is in the catalog already; forget() removes it")

    def _run(self, name: str, doc: dict[str, Any]) -> TiledRun:
        for reference in _REFERENCES:
            if (run := self._of.get(doc.get(reference, ""))) is not None:
                return run
        raise ValueError(f"{name} {doc.get('uid', '')}: belongs to no run that started here")

    def _drop(self, run_uid: str) -> None:
        if (run := self._runs.pop(run_uid, None)) is not None:
            self._of = {uid: other for uid, other in self._of.items() if other is not run}


def _bare(url: str) -> str:
    """Without an API key."""
    return urlsplit(url)._replace(query="", fragment="").geturl()


def _connected(url: str, api_key: str | None) -> Any:
    where = urlsplit(url)
    try:
        port = where.port or (443 if where.scheme == "https" else 80)
        socket.create_connection((where.hostname or "", port), _FIRST_LOOK).close()
    except ConnectionRefusedError as error:
        raise TiledError(f"{_bare(url)}: cannot be reached: {error}") from error
    except OSError:
        # A proxy may know the way.
        pass
    from tiled.client import from_uri

    return from_uri(url, api_key=api_key)
