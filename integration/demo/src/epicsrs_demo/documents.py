"""What the RunEngine emits, run by run, kept to compare with what is stored."""

import copy
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Document: TypeAlias = tuple[str, dict[str, Any]]


@dataclass
class Emitted:
    """The documents of one run."""

    documents: list[Document] = field(default_factory=list)

    @property
    def start(self) -> dict[str, Any]:
        return self.documents[0][1]

    @property
    def uid(self) -> str:
        return self.start["uid"]

    def named(self, name: str) -> list[dict[str, Any]]:
        """The documents of that name, in order."""
        return [doc for found, doc in self.documents if found == name]

    def streams(self) -> dict[str, list[dict[str, Any]]]:
        """The descriptors of each stream, in order."""
        streams: dict[str, list[dict[str, Any]]] = {}
        for descriptor in self.named("descriptor"):
            streams.setdefault(descriptor["name"], []).append(descriptor)
        return streams


class Recorder:
    """Subscribed to the RunEngine, keeps a copy of each document."""

    def __init__(self) -> None:
        self.runs: list[Emitted] = []

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            self.runs.append(Emitted())
        self.runs[-1].documents.append((name, copy.deepcopy(doc)))
