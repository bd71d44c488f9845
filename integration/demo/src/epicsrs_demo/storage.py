"""Where all documents go: to a journal first, and from it into a Tiled catalog with a server of its own."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from epicsrs_bulk import LocalCatalog, Sink, SinkError, TiledTarget

# Seconds for a run to get into the catalog, from its stop; and for what is left after a Ctrl-C or a failure.
PATIENCE = 120.0
IMPATIENCE = 10.0


class Storage:
    """The catalog's server and the sink in front of it, from `start` to `close`.

    Args:
        folder: Where both keep what they have.
    """

    def __init__(self, folder: Path) -> None:
        self.journal = folder / "journal"
        self.catalog = LocalCatalog(folder / "catalog", readable=[folder])
        self._sink: Sink | None = None

    def start(self) -> Self:
        """Start the server, which serves some seconds later."""
        self.catalog.start()
        return self

    def sink(self) -> Sink:
        """What a RunEngine is subscribed with; from its first document on it needs the server."""
        self._sink = Sink(TiledTarget(self.catalog.client), self.journal, stop_timeout=PATIENCE)
        return self._sink

    def client(self) -> Any:
        """A tiled client of the catalog, once that is served."""
        return self.catalog.client()

    def close(self) -> None:
        """End the sink, then the server."""
        if self._sink is not None:
            # Whoever was to know it has been told, by the plan.
            with suppress(SinkError):
                self._sink.close(IMPATIENCE)
        self.catalog.stop()
