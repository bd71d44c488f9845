"""Runs as files of JSON lines, one for each run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast
from urllib.parse import quote

import numpy as np

from epicsrs_bulk._files import sync, sync_folder
from epicsrs_bulk._journal_folder import check_folder
from epicsrs_bulk._sink_errors import DocumentError
from epicsrs_bulk._sink_runs import Runs

if TYPE_CHECKING:
    from epicsrs_bulk._target import Document

_WHOLE = ".jsonl"
_PART = ".jsonl.part"


class JsonLinesTarget:
    """Writes each run to ``<run uid>.jsonl``: a line ``["name", {document}]`` for each document.

    Until its stop a run is in ``<run uid>.jsonl.part``; a file without ``.part`` is whole, and on the disk. Arrays are
    written as lists, dates as ISO 8601 text, NaN and infinity as Python's json writes and reads them.

    Args:
        folder: Made where it is missing.

    Raises:
        JournalError: The folder cannot be made or written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = check_folder(Path(folder))
        self._open: dict[str, TextIO] = {}
        self._runs: Runs[str] = Runs()

    def __call__(self, name: str, doc: Document) -> None:
        """Write one document.

        Raises:
            DocumentError: It holds what JSON has no way for, or it belongs to no run that has started.
            OSError: The file cannot be written.
        """
        if name == "start":
            uid = str(doc["uid"])
            self._open[uid] = self._path(uid, _PART).open("w", encoding="utf-8")
            self._runs.begin(doc, uid)
        else:
            uid = self._runs.of(name, doc)
        file = self._open[uid]
        try:
            file.write(json.dumps([name, doc], default=_plain) + "\n")
        except TypeError as error:
            raise DocumentError(f"{name} {doc.get('uid', '')}: {error}") from error
        file.flush()
        if name == "stop":
            sync(file.fileno())
            self._close(uid)
            self._path(uid, _PART).replace(self._path(uid, _WHOLE))
            sync_folder(self._folder)

    def forget(self, run_uid: str) -> None:
        """Remove the file of a run, and what there is of it."""
        self._close(run_uid)
        for suffix in (_PART, _WHOLE):
            self._path(run_uid, suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files of runs that have no stop; they stay as ``.part``."""
        for uid in list(self._open):
            self._close(uid)

    def __repr__(self) -> str:
        return f"JsonLinesTarget({str(self._folder)!r})"

    def _path(self, uid: str, suffix: str) -> Path:
        return self._folder / f"{quote(uid, safe='')}{suffix}"

    def _close(self, uid: str) -> None:
        if uid in self._open:
            self._open.pop(uid).close()
            self._runs.end(uid)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        array = cast("np.ndarray[Any, np.dtype[Any]]", value)
        return (array.astype(str) if array.dtype.kind in "Mm" else array).tolist()
    raise TypeError(f"no {type(value).__name__} in JSON: {value!r}")
