"""Runs for the tests of Tiled, made without a RunEngine."""

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from event_model import ComposeDescriptorBundle, ComposeRunBundle, compose_run

Document = tuple[str, dict[str, Any]]


class MadeRun:
    """One run with one stream, its documents in order of being made."""

    def __init__(self, data_keys: Mapping[str, dict[str, Any]], **metadata: Any) -> None:
        self.bundle: ComposeRunBundle = compose_run(metadata=metadata)
        self.uid: str = self.bundle.start_doc["uid"]
        described = {key: {"source": f"ca://{key}", "shape": [], **value} for key, value in data_keys.items()}
        self.stream: ComposeDescriptorBundle = self.bundle.compose_descriptor(
            name="primary", data_keys=described, validate=False
        )
        self.start = ("start", dict(self.bundle.start_doc))
        self.descriptor = ("descriptor", dict(self.stream.descriptor_doc))
        self._rows = 0

    def page(self, **data: Any) -> Document:
        """Rows from columns; timestamps are those of row n and column c, n + c / 1000."""
        rows = len(next(iter(data.values())))
        numbers = np.arange(self._rows + 1, self._rows + rows + 1)
        self._rows += rows
        return "event_page", {
            "descriptor": self.stream.descriptor_doc["uid"],
            "uid": [str(uuid.uuid4()) for _ in numbers],
            "seq_num": numbers.tolist(),
            "time": (numbers + 0.5).tolist(),
            "data": data,
            "timestamps": {key: numbers + column / 1000 for column, key in enumerate(data)},
            "filled": {},
        }

    def events(self, **data: Any) -> Iterator[Document]:
        """The same rows one by one."""
        _, page = self.page(**data)
        for row, number in enumerate(page["seq_num"]):
            yield (
                "event",
                {
                    "descriptor": page["descriptor"],
                    "uid": page["uid"][row],
                    "seq_num": number,
                    "time": page["time"][row],
                    "data": {key: values[row] for key, values in data.items()},
                    "timestamps": {key: float(stamps[row]) for key, stamps in page["timestamps"].items()},
                    "filled": {},
                },
            )

    @property
    def stop(self) -> Document:
        return "stop", dict(self.bundle.compose_stop())

    def with_rows(self, *documents: Document) -> list[Document]:
        """The whole run."""
        return [self.start, self.descriptor, *documents, self.stop]
