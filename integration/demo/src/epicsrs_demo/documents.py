"""The documents of each run: written as they come, read back, compared."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from bluesky.callbacks.json_writer import JSONLinesWriter
from event_model import pack_event_page, sanitize_doc, unpack_event_page

Document: TypeAlias = tuple[str, dict[str, Any]]


class DocumentsError(RuntimeError):
    """What lies on the disk is not what the RunEngine emitted."""


@dataclass
class Run:
    """One run and its file."""

    path: Path
    emitted: list[Document] = field(default_factory=list)

    def read_back(self) -> "RunDocuments":
        """The documents in the file.

        Raises:
            DocumentsError: They are not those that were emitted.
        """
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        found = [(line["name"], line["doc"]) for line in lines]
        if len(found) != len(self.emitted):
            raise DocumentsError(f"{self.path} has {len(found)} documents, {len(self.emitted)} were emitted")
        for number, pair in enumerate(zip(found, self.emitted, strict=True), 1):
            try:
                np.testing.assert_equal(*pair)
            except AssertionError:
                name = pair[1][0]
                raise DocumentsError(f"{self.path}, line {number}: not the {name} that was emitted") from None
        return RunDocuments(self.path, found)


class Journal:
    """Subscribed to the RunEngine, writes each document as a line of its run's file, and keeps a copy to compare."""

    def __init__(self, folder: Path) -> None:
        self.runs: list[Run] = []
        self._folder = folder
        self._writer: JSONLinesWriter | None = None

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            self._begin(f"{doc['scan']}.jsonl")
        self.runs[-1].emitted.append((name, copy.deepcopy(doc)))
        if self._writer is not None:
            self._writer(name, sanitize_doc(doc))

    def _begin(self, file: str) -> None:
        path = self._folder / file
        # The writer appends to what is there.
        path.unlink(missing_ok=True)
        self._writer = JSONLinesWriter(str(self._folder), file)
        self.runs.append(Run(path))


@dataclass(frozen=True)
class RunDocuments:
    """One run as it lies on the disk."""

    path: Path
    documents: list[Document]

    @property
    def start(self) -> dict[str, Any]:
        return self.documents[0][1]

    @property
    def stop(self) -> dict[str, Any]:
        return self.documents[-1][1]

    @property
    def sources(self) -> set[str]:
        """The PVs that its streams come from."""
        return {key["source"] for doc in self.named("descriptor") for key in doc["data_keys"].values()}

    def named(self, name: str) -> list[dict[str, Any]]:
        """The documents of that name, in order."""
        return [doc for found, doc in self.documents if found == name]

    def units(self, key: str) -> str:
        """The units of a data key."""
        return next(
            doc["data_keys"][key].get("units", "") for doc in self.named("descriptor") if key in doc["data_keys"]
        )

    def stream(self, stream: str) -> "Columns":
        """All events of a stream, as columns."""
        descriptors = {doc["uid"] for doc in self.named("descriptor") if doc["name"] == stream}
        events: list[dict[str, Any]] = []
        for name, doc in self.documents:
            if name in {"event", "event_page"} and doc["descriptor"] in descriptors:
                events += [doc] if name == "event" else unpack_event_page(doc)
        if not events:
            raise DocumentsError(f"{self.path} has no events in the stream {stream!r}")
        page = pack_event_page(*events)
        return Columns(
            {key: np.asarray(values) for key, values in page["data"].items()},
            {key: np.asarray(values) for key, values in page["timestamps"].items()},
        )


@dataclass(frozen=True)
class Columns:
    """A stream's values and their times, by data key; times in seconds since 1970."""

    data: dict[str, np.ndarray]
    timestamps: dict[str, np.ndarray]
