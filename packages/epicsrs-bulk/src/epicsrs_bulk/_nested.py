"""A flyer for plans that declare no stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from bluesky.protocols import Reading, Status
    from event_model import DataKey, PartialEventPage

    from epicsrs_bulk._page_flyer import PageFlyer


class NestedFlyer:
    """Another view of one flyer: ``describe_collect`` names the stream as well, as ``bp.fly`` needs it."""

    parent = None

    def __init__(self, flyer: PageFlyer, stream: str) -> None:
        self._flyer = flyer
        self._stream = stream

    def __repr__(self) -> str:
        return f"{self._flyer!r}.nested({self._stream!r})"

    @property
    def name(self) -> str:
        return self._flyer.name

    def describe_collect(self) -> dict[str, Mapping[str, Any]]:
        return {self._stream: self._flyer.describe_collect()}

    def describe_configuration(self) -> dict[str, DataKey]:
        return self._flyer.describe_configuration()

    def read_configuration(self) -> dict[str, Reading[Any]]:
        return self._flyer.read_configuration()

    def kickoff(self) -> Status:
        return self._flyer.kickoff()

    def complete(self) -> Status:
        return self._flyer.complete()

    def collect_pages(self) -> AsyncIterator[PartialEventPage]:
        return self._flyer.collect_pages()

    def stop(self, success: bool = True) -> None:
        self._flyer.stop(success=success)

    def pause(self) -> None:
        self._flyer.pause()

    def resume(self) -> None:
        self._flyer.resume()

    def stage(self) -> list[Any]:
        return [self]

    def unstage(self) -> list[Any]:
        self._flyer.unstage()
        return [self]
